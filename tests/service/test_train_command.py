"""`rerank-sidecar train` from data to a checkpoint that the sidecar loads, and what is wrong with data told."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.model_files import languages_of
from sidecar.scoring.loader import load
from tests import checkpoints

runner = CliRunner()
TOPICS = ("apple", "car", "phones", "tea", "winter", "orchard", "engine", "fire")


def collection(folder: Path, **changes: list[str]) -> Path:
    """Documents of two words each, and for each a query with one of them."""
    pairs = [(one, other) for one in TOPICS for other in TOPICS if one != other]
    rows = {
        "corpus.jsonl": [
            json.dumps({"_id": f"d{number}", "title": one, "text": f"the {one} and the {other}"})
            for number, (one, other) in enumerate(pairs)
        ],
        "queries.jsonl": [
            json.dumps({"_id": f"q{number}", "text": f"{one} {other}"}) for number, (one, other) in enumerate(pairs)
        ],
        "qrels/train.tsv": [
            "query-id\tcorpus-id\tscore",
            *(f"q{number}\td{number}\t1" for number in range(len(pairs))),
        ],
    }
    (folder / "qrels").mkdir(parents=True)
    for name, lines in rows.items():
        (folder / name).write_text("\n".join([*lines, *changes.get(name, [])]) + "\n")
    (folder / "NOTICE.txt").write_text("made for a test, public domain")
    return folder


def run(data: Path, out: Path, base: Path, *options: str) -> Any:
    small = ["--negatives", "3", "--batch", "8", "--max-length", "32", "--device", "cpu", "--every", "2"]
    return runner.invoke(app, ["train", str(data), str(out), "--base", str(base), *small, *options])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build(tmp_path_factory.mktemp("base") / "encoder", head=False)


def test_a_run_gives_a_checkpoint_that_serves_and_a_card(tmp_path: Path, base: Path) -> None:
    data, out = collection(tmp_path / "fruit"), tmp_path / "out"
    result = run(data, out, base, "--guard", "0")
    assert result.exit_code == 0, result.output
    assert "50 queries to learn from, 6 held out" in result.output
    model = load("trained", checkpoints.settings(out))
    scores = model.scorer.score(model.scorer.encode("apple car", ["the apple and the car", "tea"]))
    assert scores.shape == (2,)
    card = (out / "MODEL_CARD.md").read_text()
    assert "- languages: any" in card
    assert languages_of(str(out)) is None
    assert "nDCG@10" in card
    assert "- data fruit: data-fruit-NOTICE.txt" in card
    assert (out / "data-fruit-NOTICE.txt").read_text().startswith("made for a test")


def test_a_base_that_scores_is_measured_beside_and_its_notice_passed_on(tmp_path: Path) -> None:
    scoring = checkpoints.build(tmp_path / "scoring")
    (scoring / "NOTICE.txt").write_text("of the base")
    (scoring / "data-older-LICENSE").write_text("of what the base was made of")
    result = run(collection(tmp_path / "fruit"), tmp_path / "out", scoring, "--guard", "0", "--rate", "1e-8")
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "the base, both" in told
    assert "6 queries held out are few" in told
    assert any(
        line in told for line in ("does not beat the engine's order", "does not beat the model that it was made of")
    )
    assert (tmp_path / "out" / "base-scoring-NOTICE.txt").read_text() == "of the base"
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "- base scoring: base-scoring-NOTICE.txt, base-scoring-data-older-LICENSE" in card


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, base: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    result = run(collection(tmp_path / "fruit"), out, base, "--guard", "0")
    assert result.exit_code == 2
    assert "exists and is not an empty folder" in " ".join(result.output.split())
    assert [one.name for one in out.iterdir()] == ["thesis.txt"]


def test_a_teacher_is_learnt_from(tmp_path: Path, base: Path) -> None:
    teacher = checkpoints.build(tmp_path / "teacher", seed=1)
    arguments = ["--objective", "kl", "--teacher", str(teacher), "--guard", "0"]
    result = run(collection(tmp_path / "fruit"), tmp_path / "out", base, *arguments)
    assert result.exit_code == 0, result.output


def test_a_teacher_that_tells_nothing_apart_teaches_nothing(tmp_path: Path, base: Path) -> None:
    teacher = checkpoints.build(tmp_path / "teacher", initializer_range=1e-30)  # scores of 0, all
    arguments = ["--objective", "kl", "--teacher", str(teacher), "--guard", "0"]
    result = run(collection(tmp_path / "fruit"), tmp_path / "out", base, *arguments)
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "every document of every list has the same label: kl learns nothing from one label" in told
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_says_nonsense_of_itself_is_refused(tmp_path: Path, base: Path) -> None:
    teacher = checkpoints.edit(checkpoints.build(tmp_path / "teacher"), sidecar={"languages": ["english"]})
    arguments = ["--objective", "kl", "--teacher", str(teacher), "--guard", "0"]
    result = run(collection(tmp_path / "fruit"), tmp_path / "out", base, *arguments)
    assert result.exit_code == 2
    assert "`sidecar.languages` is ['english']" in " ".join(result.output.split())


GERMAN = "Welche Apfelsorten lassen sich im Winter am besten im Keller lagern, und wie lange halten sie sich?"


@pytest.mark.parametrize(
    ("options", "languages", "told"),
    [
        ([], ("en",), True),
        (["--language", "de", "--language", "en"], ("de", "en"), False),
        (["--language", "any"], None, False),
    ],
)
def test_what_a_model_is_for_goes_over_to_what_is_made_of_it(
    tmp_path: Path, options: list[str], languages: tuple[str, ...] | None, told: bool
) -> None:
    base = checkpoints.build(tmp_path / "base")
    checkpoints.edit(base, sidecar={"revision": "of the base", "languages": ["en"]})
    data = collection(tmp_path / "fruit")
    corpus = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    (data / "corpus.jsonl").write_text(
        "".join(json.dumps({**one, "text": GERMAN + one["text"]}) + "\n" for one in corpus)
    )
    result = run(data, tmp_path / "out", base, "--guard", "0", *options)
    assert result.exit_code == 0, result.output
    assert languages_of(str(tmp_path / "out")) == languages
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("sidecar") == ({"languages": list(languages)} if languages else None), (
        "a revision of other weights"
    )
    assert ("surely in none of the model's languages (en): de 50" in " ".join(result.output.split())) == told


def test_a_stopped_run_goes_on_and_another_one_is_not_taken_for_it(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    data, out, steps = collection(tmp_path / "fruit"), tmp_path / "out", []
    whole = CrossEncoderTrainer.compute_loss

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        steps.append(self.state.global_step)
        if stop_at and len(steps) > stop_at:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(CrossEncoderTrainer, "compute_loss", watched)
    stop_at = 5
    assert run(data, out, base, "--guard", "0").exit_code != 0
    assert not out.exists()
    steps, stop_at = [], 0
    again = run(data, out, base, "--guard", "0")
    assert again.exit_code == 0, again.output
    assert "going on with the run" in again.output
    assert steps == [4, 5, 6], "from the checkpoint after four of seven steps"
    other = run(data, out, base, "--guard", "0", "--rate", "0.001")
    assert other.exit_code == 2
    assert "holds another run (rate differ)" in " ".join(other.output.split())
    (data / "queries.jsonl").write_text((data / "queries.jsonl").read_text().replace("apple car", "apple cars"))
    changed = run(data, out, base, "--guard", "0")
    assert "holds another run (lists_digest differ)" in " ".join(changed.output.split())


def test_the_command_knows_every_objective() -> None:
    from sidecar.training import losses

    train = importlib.import_module("sidecar.cli.train")
    assert tuple(losses.OBJECTIVES) == train.OBJECTIVES
    assert losses.OF_TEACHER == train.OF_TEACHER


def test_the_guard_leaves_out_what_may_be_an_answer(tmp_path: Path, base: Path) -> None:
    result = run(collection(tmp_path / "fruit"), tmp_path / "out", base, "--guard", "0.9")
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if "hard negatives a query" in line)
    assert not line.endswith("; 0 hits left out, as near as a positive or nearer"), line


def test_broken_data_is_told_by_file_line_and_count(tmp_path: Path, base: Path) -> None:
    data = collection(
        tmp_path / "fruit",
        **{
            "corpus.jsonl": ['{"_id": "e1", "text": ""}', '{"_id": "e2", "title": " ", "text": ""}'],
            "qrels/train.tsv": ["q1\tnowhere\t1", "q2\telsewhere\t1", "nobody\td1\t1", "q3\td3\tgood"],
        },
    )
    result = run(data, tmp_path / "out", base)
    assert result.exit_code == 2
    told = result.output
    assert "corpus.jsonl:57: document 'e1' has neither title nor text (2 such lines)" in told
    assert "train.tsv:58: document 'nowhere' is not in corpus.jsonl (2 such lines)" in told
    assert "train.tsv:60: query 'nobody' is not in queries.jsonl" in told
    assert "train.tsv:61: grade 'good' is not a whole number of 0 to 1000" in told
    tolerated = run(data, tmp_path / "out", base, "--tolerant", "--guard", "0")
    assert tolerated.exit_code == 0, tolerated.output
    assert "left out 4 lines" in tolerated.output, "empty documents stay, and are never drawn"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "triplet"], "there is no objective 'triplet'; allowed: margin, logistic"),
        (["--objective", "kl"], "learn from a --teacher"),
        (["--teacher", "bundled"], "learn from a --teacher"),
        (["--index", "docs"], "name both --config and --index"),
        (["--split", "dev"], "dev.tsv: no such file"),
        (["--negatives", "100", "--guard", "0"], "no query has 100 other documents"),
        (["--language", "english"], "--language is 'english'; allowed: any alone, or codes of"),
        (["--language", "any", "--language", "de"], "--language is 'any'; allowed: any alone"),
        (["--device", "tpu"], "allowed: auto, cpu, cuda, cuda:N"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, base: Path, options: list[str], message: str) -> None:
    result = run(collection(tmp_path / "fruit"), tmp_path / "out", base, *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_what_is_no_text_and_judgments_that_differ_are_told(tmp_path: Path, base: Path) -> None:
    lines = {
        "corpus.jsonl": ['{"_id": "e1", "text": null}'],
        "qrels/train.tsv": ["q1\td1\t2", "q1\td1\t1", "q2\td2\t" + "9" * 5000],
    }
    result = run(collection(tmp_path / "fruit", **lines), tmp_path / "out", base)
    told = " ".join(result.output.split())
    assert result.exit_code == 2
    assert "corpus.jsonl:57: document 'e1' has neither title nor text" in told
    assert "train.tsv:58: document 'd1' has two grades for query 'q1'" in told, "1 stood there already"
    assert "is not a whole number of 0 to 1000" in told
    (tmp_path / "fruit" / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "caf\xe9"}\n')
    encoded = run(tmp_path / "fruit", tmp_path / "out", base)
    assert encoded.exit_code == 2
    assert "corpus.jsonl: is not UTF-8 text" in " ".join(encoded.output.split())


def test_judgments_of_nothing_relevant_teach_nothing(tmp_path: Path, base: Path) -> None:
    data = collection(tmp_path / "fruit")
    (data / "qrels" / "train.tsv").write_text("q1\td1\t0\nq2\td2\t0\n")
    result = run(data, tmp_path / "out", base)
    assert result.exit_code == 2
    assert "no judgment is above 0" in result.output
