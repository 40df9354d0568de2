"""Commands and options that the documents name are there, and their links lead somewhere."""

import re
from pathlib import Path

import pytest
import typer.main

from sidecar.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group, as it has several commands


def command_lines(text: str) -> list[list[str]]:
    """The words of each call of the command in a block of code, continued lines joined."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.split() for line in lines if line.strip().startswith("rerank-sidecar ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    text = page.read_text()
    for _, name, *words in command_lines(text):
        assert name in COMMANDS, f"{page.name}: rerank-sidecar {name}"
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{page.name}: rerank-sidecar {name}: {used - known}"
    for name in re.findall(r"`rerank-sidecar (\w+)", text):
        assert name in COMMANDS, f"{page.name}: rerank-sidecar {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_commands_are_found_at_all() -> None:
    assert sum(len(command_lines(page.read_text())) for page in PAGES) > 8
