"""What a log line holds, and what it never holds."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from sidecar import logs


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    structlog.reset_defaults()
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = before
    structlog.reset_defaults()  # or others would write to the captured output of the last test


def test_a_line_is_json_with_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logs.log.info("call", outcome="RERANKED")
    logs.log.debug("not this one")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["outcome"], event["level"]) == ("call", "RERANKED", "info")
    assert event["timestamp"].endswith("Z")


def test_an_error_is_logged_by_kind_and_place_and_never_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    try:
        int("the text of a document")
    except ValueError:
        logs.log.exception("broken")
    line = capsys.readouterr().err
    assert json.loads(line)["exception"][-1] == "ValueError"
    assert "test_logs.py" in line
    assert "invalid literal" not in line


def test_what_libraries_log_is_json_too_and_quotes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    text = " ".join(["the", "text", "of", "a", "document"])

    async def forgotten() -> None:
        raise ValueError(text)

    async def run() -> None:
        task = asyncio.create_task(forgotten())
        await asyncio.sleep(0)
        del task

    asyncio.run(run())
    logging.getLogger("some.library").warning("cannot read %s", text)
    logging.getLogger("some.library").info("not this one")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["said"], line["level"]) for line in lines] == [
        ("asyncio", "Task exception was never retrieved", "error"),
        ("some.library", "cannot read %s", "warning"),
    ]
    assert lines[0]["exception"][-1] == "ValueError"
    assert text not in json.dumps(lines)
