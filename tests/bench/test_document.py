"""docs/benchmarks.md and its pictures are what the JSON beside them says."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.bench import document, goals, plots
from tests.bench.contestants import IN_INT8
from tests.bench.section import Section
from tests.bench.single_call import OUTSIDE
from tests.bench.throughput import AS_IT_COMES

DOCS = Path(__file__).parents[2] / "docs"


def kept(name: str, slug: str = "cpu-amx-2", figure: float = 12.5, **series: Any) -> dict[str, Any]:
    where = {
        "slug": slug,
        "gpu": None,
        "processor": "Some CPU",
        "isa": ["avx2"],
        "threads": 2,
        "limits": {},
        "python": "3.12.1",
        "packages": {"torch": "2.9"},
    }
    section = Section(
        name,
        "Title: of it",
        [{"who": "us", "p50_ms": figure}],
        {"p50_ms": "half of them"},
        notes=["No."],
        series=series,
    )
    return {"machine": where, "commit": "abc", "command": "python -m x", "took_s": 1.0, **asdict(section)}


def test_the_document_is_what_the_json_says() -> None:
    results = json.loads((DOCS / "benchmarks.json").read_text())
    assert results
    assert (DOCS / "benchmarks.md").read_text() == document.markdown(results), "run `make bench-docs`"
    drawn = {plots.file_name(one) for one in results if one["name"] in plots.PLOTS}
    assert {path.name for path in DOCS.glob("benchmarks-*.png")} == drawn


def test_a_new_result_replaces_that_of_the_same_bench_and_machine_only() -> None:
    known = [kept("load", "a"), kept("throughput", "b"), kept("throughput", "a")]
    results = document.merged(known, [kept("throughput", "a", figure=99.0)])
    assert [(one["name"], one["machine"]["slug"]) for one in results] == [
        ("throughput", "a"),
        ("throughput", "b"),
        ("load", "a"),
    ]
    assert results[0]["rows"][0]["p50_ms"] == 99.0


def test_every_figure_stands_in_the_document_with_its_command_commit_and_machine() -> None:
    text = document.markdown([kept("throughput")])
    for said in (
        "| us | 12.5 |",
        "`python -m x`",
        "`abc`",
        "Some CPU",
        "avx2",
        "2 threads",
        "torch 2.9",
        "half of them",
    ):
        assert said in text


def result(name: str, rows: list[dict[str, Any]], **machine: Any) -> dict[str, Any]:
    made = kept(name)
    return {**made, "rows": rows, "machine": {**made["machine"], **machine}}


@pytest.mark.parametrize(
    ("machine", "goal", "reached"),
    [({"isa": ["amx_bf16"]}, "at least 6", "no"), ({"isa": ["avx2"]}, "at least 4", "yes")],
)
def test_goals_depend_on_the_machine(machine: dict[str, Any], goal: str, reached: str) -> None:
    theirs = {"tokens": 85, "who": AS_IT_COMES, "dtype": "float32", "sidecar_is_faster_by": 4.5, "median_ms": 900.0}
    int8 = {"tokens": 85, "who": IN_INT8, "dtype": "int8", "sidecar_is_faster_by": 1.0, "median_ms": 200.0}
    rows = [one for row in (theirs, int8) for one in (row, {**row, "tokens": 250, "median_ms": 1.0})]
    found = goals.reached([result("throughput", rows, **machine)])
    assert [(one["goal"], one["measured"], one["reached"]) for one in found] == [(goal, 4.5, reached)]


def test_the_worst_figure_counts_and_what_was_not_measured_is_not_judged() -> None:
    loads: list[dict[str, Any]] = [
        {"load": 3.0, "in_budget_percent": 100.0, "of_best_percent": 95.0},
        {"load": 3.0, "in_budget_percent": 99.9, "of_best_percent": None},
        {"load": 1.0, "in_budget_percent": 10.0, "of_best_percent": 10.0},
    ]
    stages: list[dict[str, Any]] = [
        {"what": OUTSIDE, "p50_ms": 2.9, "p99_ms": 8.1},
        {"what": "else", "p50_ms": 99, "p99_ms": 99},
    ]
    found = goals.reached([result("load", loads), result("single_call", stages)])
    assert [(one["measured"], one["reached"]) for one in found] == [
        (99.9, "no"),
        (95.0, "yes"),
        (2.9, "yes"),
        (8.1, "no"),
    ]


def test_pictures_are_drawn_beside_the_document(tmp_path: Path) -> None:
    source = tmp_path / "results"
    source.mkdir()
    row = {"growth_mib": 0.5, "rss_end_mib": 950.0}
    memory = kept("soak", calls_and_rss_mib=[[0, 900], [500, 950], [1000, 950]], warm_up_share=0.25)
    (source / "soak.json").write_text(json.dumps({**memory, "rows": [row]}))
    document.publish(source, tmp_path)
    picture = tmp_path / "benchmarks-soak-cpu-amx-2.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"]({picture.name})" in (tmp_path / "benchmarks.md").read_text()


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `make bench` first"):
        document.publish(tmp_path, tmp_path)
