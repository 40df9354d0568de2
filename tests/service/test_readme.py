"""What the README shows is what happens."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from sidecar import configuration
from sidecar.v1 import rerank_pb2 as pb
from tests.conftest import DOCUMENTS, Serve

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The fenced block behind the comment ``<!-- name -->``."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no block {name!r}"
    return found[1]


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 300


def test_the_policy_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_PASSWORD", "secret")
    file = tmp_path / "example.yaml"
    file.write_text(block("policy"))
    settings = configuration.load(file)
    assert list(settings.policies) == ["articles", "untouched"]
    assert settings.default_policy == "untouched"


def test_the_grpcurl_lines_are_messages_of_the_contract() -> None:
    requests = {"Search": pb.SearchRequest, "Rerank": pb.RerankRequest, "Explain": pb.ExplainRequest}
    lines = block("grpcurl").replace("\\\n", " ").splitlines()
    called = {}
    for line in lines:
        words = shlex.split(line)
        called[words[-1].rpartition("/")[2]] = words[words.index("-d") + 1]
    for method, message in requests.items():
        parsed = json_format.Parse(called[method], message())
        if isinstance(parsed, pb.SearchRequest):
            json.loads(parsed.body)
    assert set(called) == {*requests, "Check"}


async def test_the_python_example_runs(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    async with serve() as (_, app):
        code = found[1].replace("localhost:50051", f"127.0.0.1:{app.port}").replace('"articles"', '"docs"')
        await asyncio.to_thread(exec, code, {})
    printed = capsys.readouterr().out
    assert printed.startswith("RERANKED [")
    assert all(one in DOCUMENTS for one in re.findall(r"d\d+", printed))


def test_every_file_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.timeout(240)
def test_the_demo_prints_what_the_readme_shows() -> None:
    """Titles and the engine's order to the letter; times are not compared, nDCG@10 to two hundredths."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "sidecar.demo"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    shown = block("demo")
    assert re.findall("“.*”", shown) == re.findall("“.*”", run.stdout)
    assert _engine_columns(shown) == _engine_columns(run.stdout)
    for line in ("engine's order ", "sidecar's order "):
        assert _ndcg(shown, line) == pytest.approx(_ndcg(run.stdout, line), abs=0.02)
    assert "ORIGINAL_ORDER (BUDGET_EXHAUSTED" in run.stdout
    assert _ndcg(run.stdout, "sidecar's order ") > _ndcg(run.stdout, "engine's order ")


def _engine_columns(output: str) -> list[tuple[str, ...]]:
    return re.findall(r"^ *(\d) (.*?) +(\d+\.\d\d) ", output, re.MULTILINE)


def _ndcg(output: str, label: str) -> float:
    found = re.search(rf"^  {label} +(\d\.\d+) ", output, re.MULTILINE)
    assert found, output
    return float(found[1])
