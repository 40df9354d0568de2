"""`python -m sidecar` is the command `rerank-sidecar`."""

from sidecar.cli import main

main()
