"""The command `rerank-sidecar`, one module for each subcommand. Slow imports are made inside the commands."""

import sys

import typer

from sidecar.cli.check import check
from sidecar.cli.diff import diff
from sidecar.cli.doctor import doctor
from sidecar.cli.eval import evaluate
from sidecar.cli.explain import explain
from sidecar.cli.export import export
from sidecar.cli.health import health
from sidecar.cli.init import init
from sidecar.cli.key import key
from sidecar.cli.reference import settings
from sidecar.cli.search import search
from sidecar.cli.serve import serve
from sidecar.cli.switch import switch
from sidecar.cli.train import train

app = typer.Typer(
    help="Reranks the hits of Elasticsearch and OpenSearch with a cross-encoder, over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# A new command is one import above and one line here.
app.command()(init)
app.command()(check)
app.command()(explain)
app.command()(diff)
app.command()(settings)
app.command()(export)
app.command("eval")(evaluate)
app.command()(train)
app.command()(serve)
app.command()(search)
app.command()(doctor)
app.command()(switch)
app.command()(health)
app.command()(key)


def main() -> None:
    """Run the command line. Ctrl-C ends it with status 130, a closed output pipe with 1, neither with a traceback."""
    try:
        app(prog_name="rerank-sidecar")
    except KeyboardInterrupt:  # outside of a command; inside, typer does the same
        sys.exit(130)
