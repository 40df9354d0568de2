"""docs/benchmarks.md and its pictures are what the JSON beside them says."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as everything
from tests.bench import document, goals, plots
from tests.bench.section import Section

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


def test_goals_stand_in_the_document_whatever_was_measured() -> None:
    text = document.markdown([kept("throughput")])
    for goal in goals.GOALS:
        assert f"| {goal.what} | {goal.on.name} |" in text
    assert goals.MEANING["measured"] in text


def test_columns_of_older_runs_and_of_newer_ones_are_all_explained() -> None:
    older, newer = kept("load", "b"), kept("load", "a")
    newer["meaning"] = {"p50_ms": "the middle one", "pairs_per_s": "pairs"}
    for results in ([newer, older], [older, newer]):
        text = document.markdown([{**one, "rows": []} for one in results])
        assert "- `pairs/s`: pairs" in text
    assert text.count("- `p50 ms`: the middle one") == 1


def test_every_bench_has_its_place_and_name_in_the_document() -> None:
    assert set(document.ORDER) == {*everything.LIMITS_S, "soak"}
    for name in document.ORDER:
        assert f"## {document._NAMES[name]}\n" in document.markdown([kept(name)])


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
