"""Engines by hand: ``python -m tests.engines list``, ``prepare NAME...`` and ``run NAME``."""

import argparse
import json
import os
import select
import signal
import sys
from collections.abc import Sequence

from tests.engines.catalog import ENGINES, EngineError, Missing, spec_of
from tests.engines.engine import started
from tests.engines.jars import prepare

MISSING = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 1 when an engine cannot be prepared or started, 3 when a program is missing."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            for spec in ENGINES.values():
                print(f"{spec.name:25} {spec.version:8} JDK {spec.min_jdk}+")
        elif options.command == "prepare":
            for name in options.names or ENGINES:
                print(prepare(spec_of(name)), flush=True)
        else:
            _run_until_told(options)
    except EngineError as problem:
        print(f"engines: {problem}", file=sys.stderr)
        return MISSING if isinstance(problem, Missing) else 1
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description="Real search engines for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the engines, their versions and the oldest JDK that runs them")
    preparing = commands.add_parser("prepare", help="download and compile; all of them when none is named")
    preparing.add_argument("names", nargs="*", metavar="NAME")
    running = commands.add_parser("run", help="start one, print a line of JSON, keep it until stdin closes or SIGTERM")
    running.add_argument("name", choices=ENGINES, metavar="NAME")
    running.add_argument("--port", type=int, default=0, help="default: a free one")
    running.add_argument("--heap", default="512m", help="the node's largest heap (default: %(default)s)")
    running.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="of the node")
    return parser


def _run_until_told(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with started(options.name, port=options.port, heap=options.heap, settings=options.settings) as engine:
        node = engine.node
        assert node is not None
        facts = {"name": engine.name, "version": engine.version, "url": engine.url, "pid": node.pid}
        access = {"user": engine.user, "password": engine.password, "ca_certs": engine.ca_certs}
        print(json.dumps({**facts, **access, "home": str(node.home)}), flush=True)
        while node.alive:
            if select.select([sys.stdin], [], [], 0.2)[0] and not os.read(sys.stdin.fileno(), 4096):
                return
        raise EngineError(f"{engine.name} ended by itself. Its log ends:\n{engine.log()[-4000:]}")


if __name__ == "__main__":
    sys.exit(main())
