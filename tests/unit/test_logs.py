"""What a log line holds, and what it never holds."""

import json

import pytest
import structlog

from sidecar import logs


@pytest.fixture(autouse=True)
def _own_configuration() -> None:
    structlog.reset_defaults()


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
