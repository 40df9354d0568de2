"""`rerank-sidecar eval` from its judgments to its advice: through real calls, and honest where the model had no say."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from connectors.memory import MemoryConnector
from sidecar.api_keys import made
from sidecar.cli import app
from sidecar.scoring.fake import WordOverlapScorer
from tests import checkpoints
from tests.calls import FORWARDING, ForwardingConnector
from tests.conftest import Serve, settings
from tests.pki import ca, issued

runner = CliRunner()
WORDS = ("apple", "cellar", "winter", "orchard", "pie", "butter", "frost", "ladder", "basket", "cider")
DOCUMENTS = {
    f"{word}-{other}": {"title": f"{word} {other}", "text": f"{word} {word} and {other}"}
    for word in WORDS
    for other in WORDS
    if word != other
}


def judgments(folder: Path, queries: int = 30, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """A judged query a line: of its two words one document has both. The last one has an umlaut."""
    rows = [delimiter.join(("query", "docid", "rating"))]
    pairs = [(word, other) for word in WORDS for other in WORDS if word != other][:queries]
    rows += [delimiter.join((f"{other} {word}", f"{word}-{other}", "1")) for word, other in pairs]
    rows[-1] = rows[-1].replace(" ", " für ")
    file = folder / "judgments.csv"
    file.write_text("\n".join(rows), encoding=encoding)
    return file


async def run(serve: Serve, arguments: Sequence[str], scorer: WordOverlapScorer | None = None, **policy: Any) -> Result:
    """The command against a sidecar of this process."""
    async with serve(
        scorer or WordOverlapScorer(),
        connector=MemoryConnector("main", {"docs": DOCUMENTS}),
        configured=settings({"text": {"fields": ["title", "text"]}, "budget_ms": 5000, **policy}),
    ) as (_, sidecar):
        target = ["--index", "docs", "--target", f"127.0.0.1:{sidecar.port}"]
        return await asyncio.to_thread(runner.invoke, app, ["eval", *arguments, *target])


def written(folder: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((folder / "eval.json").read_text())
    return found


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-16"), ("\t", "latin-1")])
async def test_a_running_sidecar_is_measured_against_its_engine(
    serve: Serve, tmp_path: Path, delimiter: str, encoding: str
) -> None:
    out = tmp_path / "out"
    result = await run(serve, [str(judgments(tmp_path, 30, delimiter, encoding)), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "engine's" in result.output
    assert "30 queries, measured over all of them" in result.output
    assert (out / "eval.png").stat().st_size > 10_000
    assert not (out / "policy.yaml").exists(), "the policy is the running sidecar's own"
    told = written(out)
    assert sum("für" in one["query"] for one in told["by_query"].values()) == 1
    assert told["engine"]["nDCG@10"] == pytest.approx(
        told["variants"][0]["nDCG@10"] - told["variants"][0]["difference"]
    )


async def test_calls_that_fall_back_are_not_passed_off_as_the_models_quality(serve: Serve, tmp_path: Path) -> None:
    def half(number: int, pairs: Any) -> None:
        if number % 2:
            raise RuntimeError("every other pass fails")

    out = tmp_path / "out"
    arguments = [str(judgments(tmp_path)), "--out", str(out)]
    result = await run(serve, arguments, WordOverlapScorer(fault=half))
    told = " ".join(result.output.split())
    assert "15 of 30 answers are the engine's order or part of it (MODEL_ERROR 15)" in told
    assert "is not the model's. Over the others it is" in told


async def test_an_order_that_changes_nothing_is_not_worth_it(serve: Serve, tmp_path: Path) -> None:
    result = await run(
        serve,
        [str(judgments(tmp_path)), "--out", str(tmp_path / "out")],
        fusion={"method": "linear", "model_weight": 0.0},
        cosine=None,
    )
    assert result.exit_code == 0, result.output
    assert "0 won, 0 lost" in " ".join(result.output.split())
    assert "Leave it off for this index" in result.output


async def test_a_single_query_is_measured_and_not_believed(serve: Serve, tmp_path: Path) -> None:
    result = await run(serve, [str(judgments(tmp_path, 1)), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 query is too few to hold some back" in " ".join(result.output.split())


async def test_ids_that_the_index_does_not_have_are_told(serve: Serve, tmp_path: Path) -> None:
    file = judgments(tmp_path)
    file.write_text(file.read_text() + "\napple tree,nowhere,1\n")
    result = await run(serve, [str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "nowhere" in result.output
    file.write_text("query,docid,rating\napple,gone,1\npie,lost,1\n")
    result = await run(serve, [str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "gone" in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frage,id,note\na,b,1\n", "its heading has no column query"),
        ("query,docid,rating\napple,d,0\npie,e,0\n", "no judgment is above 0"),
        ("query,docid,rating\napple,d,many\n", "grade 'many' is not a number"),
        ("query,docid,rating\napple,d,\n", "holds no judgment"),
        ("", "its heading has no column query, docid, rating; found: nothing"),
    ],
)
async def test_bad_judgments_end_with_a_sentence(serve: Serve, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    result = await run(serve, [str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()), result.output


def test_a_sweep_of_a_configuration_recommends_a_policy_that_serves(tmp_path: Path) -> None:
    """Real processes and a real, if random, model; the advice is then taken as it is.

    The configuration is one that is served to others already: with TLS, with keys, and in the shadow.
    """
    model = checkpoints.build(tmp_path / "model")
    documents = tmp_path / "docs.jsonl"
    documents.write_text("".join(json.dumps({"_id": name, **one}) + "\n" for name, one in DOCUMENTS.items()))
    tree: dict[str, Any] = {
        "connectors": {"main": {"type": "memory", "indices": {"docs": str(documents)}}},
        "models": {"default": {"checkpoint": str(model), "device": "cpu", "dtype": "float32"}},
        "policies": {"docs": {"match": [{"index": "docs"}], "text": {"fields": ["title", "text"]}, "budget_ms": 5000}},
    }
    tree["policies"]["docs"] |= {"cosine": None, "mode": "shadow", "percent": 10}
    ca(tmp_path, "ca")
    cert, key = issued(tmp_path, "server", by="ca")
    auth = {"keys_file": str(tmp_path / "keys"), "roles": {"app": {}}}
    (tmp_path / "keys").write_text(made("app", "app")[1].line + "\n")
    tree["server"] = {"tls": {"cert": str(cert), "key": str(key)}, "auth": auth}
    config, out = tmp_path / "sidecar.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(tree))
    sweep = ["--window", "5", "--window", "10", "--max-tokens", "32", "--fusion", "replace", "--fusion", "linear:0.3"]
    options = ["--index", "docs", "--config", str(config), "--timed", "5", "--out", str(out)]
    result = runner.invoke(app, ["eval", str(judgments(tmp_path, 40)), *options, *sweep])
    assert result.exit_code == 0, result.output
    assert result.output.count("32 tokens, top") >= 4, "a row for each of 2 windows by 2 fusions"
    assert "answers are the engine's order" not in " ".join(result.output.split())
    outcomes = {outcome for one in written(out)["by_query"].values() for outcome in one["outcomes"]}
    assert outcomes == {"RERANKED"}
    advised = yaml.safe_load((out / "policy.yaml").read_text())
    assert (advised["policies"]["docs"]["mode"], advised["policies"]["docs"]["percent"]) == ("shadow", 10)
    assert "keeps its `mode: shadow`, `percent: 10`" in (out / "policy.yaml").read_text()
    taken = {**tree, "models": {**tree["models"], **advised["models"]}, "policies": advised["policies"]}
    config.write_text(yaml.safe_dump(taken))
    checked = runner.invoke(app, ["check", str(config)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name either --config"),
        (["--target", "127.0.0.1:1", "--fusion", "rrf:0.5"], "change the configuration of a sidecar to start"),
        (["--target", "127.0.0.1:1"], "UNAVAILABLE"),
    ],
)
def test_mistakes_in_the_command_are_told(tmp_path: Path, options: list[str], message: str) -> None:
    result = runner.invoke(app, ["eval", str(judgments(tmp_path)), "--index", "docs", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_body_that_asks_for_a_later_page_is_refused(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"query": {"match": {"text": "{{query}}"}}, "from": 10}))
    options = ["--index", "docs", "--target", "127.0.0.1:1", "--body", str(body)]
    result = runner.invoke(app, ["eval", str(judgments(tmp_path)), *options])
    assert result.exit_code == 2
    assert "remove `from`" in " ".join(result.output.split())


async def test_a_connector_that_asks_for_the_end_users_rights_gets_them(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ForwardingConnector(DOCUMENTS)
    configured = settings({"text": {"fields": ["title", "text"]}, "budget_ms": 5000}, connectors=FORWARDING)
    monkeypatch.setenv("RERANK_SIDECAR_ENGINE_AUTHORIZATION", "Basic dTpw")
    async with serve(WordOverlapScorer(), connector=engine, configured=configured) as (_, sidecar):
        options = ["--index", "docs", "--target", f"127.0.0.1:{sidecar.port}", "--out", str(tmp_path / "out")]
        result = await asyncio.to_thread(runner.invoke, app, ["eval", str(judgments(tmp_path, 5)), *options])
    assert result.exit_code == 0, result.output
    assert set(engine.asked) == {"Basic dTpw"}


@pytest.mark.timeout(240)
def test_the_example_of_the_manual_prints_what_it_shows(tmp_path: Path) -> None:
    """The engine's figures to the letter, those of the models to two hundredths; times are not compared."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "evaluation.md").read_text()
    demo = root / "sidecar" / "demo"
    options = ["--queries", str(demo / "queries.jsonl"), "--config", str(root / "docs" / "examples" / "eval.yaml")]
    sweep = [
        "--window",
        "40",
        "--fusion",
        "linear:0.8:0.5",
        "--timed",
        "1",
        "--index",
        "articles",
        "--out",
        str(tmp_path),
    ]
    result = runner.invoke(app, ["eval", str(demo / "qrels.tsv"), *options, *sweep])
    assert result.exit_code == 0, result.output
    assert figures(page, "engine's") == figures(result.output, "engine's")
    order = "top 40, linear:0.8:0.5"
    assert figures(page, order) == pytest.approx(figures(result.output, order), abs=0.02)


def figures(text: str, order: str) -> list[float]:
    """nDCG, RR, AP and recall in the row of an order."""
    row = next(line for line in text.splitlines() if line.strip().startswith(order) and line.count(".") > 3)
    return [float(word) for word in row.strip().removeprefix(order).split()[:4]]
