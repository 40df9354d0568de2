"""How fast it is: `make bench`. See docs/benchmarks.md for what each bench measures and what it found."""

import sidecar.scoring  # noqa: F401 - it sets how OpenMP waits, which is read when torch is imported
