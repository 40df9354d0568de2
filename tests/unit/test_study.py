"""What is made of judged answers: measures, chance, the choice, and what is said of it."""

import random
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from sidecar.evaluation import measures, report, study
from sidecar.evaluation.asking import Answer
from sidecar.evaluation.judgments import Judgments
from sidecar.evaluation.study import Split, Study, Times
from sidecar.evaluation.variants import Variant

QUERIES = [f"q{number:02}" for number in range(40)]
JUDGED = Judgments({query: f"text of {query}" for query in QUERIES}, {query: {"good": 2} for query in QUERIES})
ENGINE = ["a", "b", "good"]
QUICK = Times(50, 10.0, 20.0, 3.0, {})


def answer(final: Sequence[str], outcome: str = "RERANKED", reason: str = "UNSPECIFIED") -> Answer:
    return Answer(ENGINE, final, outcome, reason, 12.0, 3.0, {"good": "a good one"})


def variant(name: str, window: int = 100) -> Variant:
    return Variant(name, None, window, "linear:0.8")


def studied(
    finals: Mapping[str, Mapping[str, Answer]], times: Mapping[str, Times] | None = None, judged: Judgments = JUDGED
) -> Study:
    asked = [(variant(name), answers, (times or {}).get(name, QUICK)) for name, answers in finals.items()]
    return Study.of(judged, 10, Split.of(sorted(judged.queries), 0.5, 0), asked, seed=0)


def all_first() -> dict[str, Answer]:
    return {query: answer(["good", "a", "b"]) for query in QUERIES}


def unchanged() -> dict[str, Answer]:
    return {query: answer(ENGINE) for query in QUERIES}


def half_of_the_tuning_worse() -> dict[str, Answer]:
    return {query: answer(["a", "b", "c"] if int(query[1:]) % 2 else ENGINE) for query in QUERIES}


def test_measures_are_those_of_the_field_and_a_query_without_results_counts_zero() -> None:
    values = measures.by_query({"one": {"x": 1}, "none": {"x": 1}}, {"one": ["y", "x"]}, 10)
    assert values["nDCG@10"] == {"one": pytest.approx(0.6309, abs=1e-4), "none": 0.0}
    assert values["RR@10"]["one"] == 0.5
    assert values["R@10"]["one"] == 1.0
    assert measures.mean(values["RR@10"]) == 0.25


def test_a_difference_is_judged_by_chance() -> None:
    better = {query: 0.5 + 0.01 * (place % 7) for place, query in enumerate(QUERIES)}
    worse = dict.fromkeys(QUERIES, 0.4)
    found = measures.compare(better, worse, QUERIES)
    assert (found.wins, found.losses, found.ties) == (40, 0, 0)
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high
    assert found.significant


def test_noise_is_no_difference() -> None:
    ours = {query: 0.5 + (0.1 if place % 2 else -0.1) for place, query in enumerate(QUERIES)}
    found = measures.compare(ours, dict.fromkeys(QUERIES, 0.5), QUERIES)
    assert (found.wins, found.losses) == (20, 20)
    assert not found.significant


def test_identical_orders_differ_by_nothing_and_one_query_proves_nothing() -> None:
    same = dict.fromkeys(QUERIES, 0.5)
    found = measures.compare(same, same, QUERIES)
    assert (found.difference, found.ties, found.p_value, found.significant) == (0, 40, 1.0, False)
    alone = measures.compare({"q": 1.0}, {"q": 0.0}, ["q"])
    assert (alone.difference, alone.p_value, alone.low, alone.significant) == (1.0, None, None, False)


def test_a_variant_that_puts_good_ones_first_is_chosen_and_confirmed() -> None:
    found = studied({"same": unchanged(), "better": all_first()})
    advice = study.advise(found)
    assert (advice.chosen.variant.model, advice.verdict, advice.worth_it) == ("better", "helps", True)
    assert set(found.split.tuning) & set(found.split.held_out) == set()
    assert advice.confirmed.wins == len(found.split.held_out)


def test_where_reranking_does_not_help_it_is_said_and_switched_off() -> None:
    found = studied({"worse": half_of_the_tuning_worse()})
    advice = study.advise(found)
    assert (advice.verdict, advice.worth_it) == ("does not help", False)
    assert "Leave it off for this index (`enabled: false`)" in list(report.conclusion(found, advice))
    assert found.hurt_most(advice.chosen, 3) == ["q01", "q03", "q05"]


def test_two_systems_with_the_same_orders_make_no_difference() -> None:
    found = studied({"one": unchanged(), "other": unchanged()})
    advice = study.advise(found)
    assert advice.verdict == "makes no difference"
    assert len(study.frontier(found)) == 1


def test_of_variants_as_good_the_fastest_is_taken() -> None:
    slow = Times(50, 90.0, 99.0, 3.0, {})
    found = studied({"slow": all_first(), "quick": all_first()}, {"slow": slow})
    assert study.advise(found).chosen.variant.model == "quick"


def test_a_variant_that_is_often_late_is_not_advised() -> None:
    late = Times(50, 300.0, 300.0, 3.0, {"BUDGET_EXHAUSTED": 25})
    found = studied({"late": all_first(), "same": unchanged()}, {"late": late})
    assert study.advise(found).chosen.variant.model == "same"
    only = studied({"late": all_first()}, {"late": late})
    assert not study.advise(only).fits
    assert not study.advise(only).worth_it
    told = " ".join(report.conclusion(only, study.advise(only)))
    assert "though nothing fits the budget" in told
    assert "Leave it off" in told


def test_fallbacks_are_not_passed_off_as_the_models_quality() -> None:
    answers = all_first()
    for query in QUERIES[:20]:
        answers[query] = answer(ENGINE, "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
    found = studied({"half": answers})
    (told,) = report.warnings(found)
    assert "20 of 40 answers are the engine's order or part of it (BUDGET_EXHAUSTED 20)" in told
    assert "Over the others it is 1.000" in told


@pytest.mark.parametrize("reason", ["SHADOW", "POLICY_DISABLED", "LANGUAGE"])
def test_where_the_model_had_no_say_at_all_nothing_is_said_of_it(reason: str) -> None:
    found = studied({"one": {query: answer(ENGINE, "SKIPPED", reason) for query in QUERIES}})
    advice = study.advise(found)
    told = list(report.conclusion(found, advice))
    assert (advice.verdict, advice.worth_it) == ("was not measured", False)
    assert told[-1] == f"None of the answers is the model's ({reason} 40): whether it would help is not known"
    assert not any("Leave it off" in line for line in told)


def test_a_query_with_nothing_to_order_is_no_fallback() -> None:
    answers = all_first()
    answers["q00"] = answer(["good"], "SKIPPED", "NO_CANDIDATES")
    assert list(report.warnings(studied({"one": answers}))) == []


@pytest.mark.parametrize("count", [1, 5])
def test_few_queries_are_not_split_and_that_is_said(count: int) -> None:
    few = Judgments({query: query for query in QUERIES[:count]}, {query: {"good": 1} for query in QUERIES[:count]})
    found = studied({"one": {query: answer(["good"]) for query in QUERIES[:count]}}, judged=few)
    assert not found.split.is_split
    assert any(
        "1 query is too few" in line or f"{count} queries are too few" in line for line in report.warnings(found)
    )
    assert list(report.conclusion(found, study.advise(found)))[1].startswith("On the same queries: reranking")


def test_times_tell_percentiles_and_why_calls_came_too_late() -> None:
    late = answer(ENGINE, "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
    found = Times.of([answer(ENGINE)] * 3 + [late])
    assert (found.calls, found.p50_ms, found.late_share) == (4, 12.0, 0.25)
    assert found.reasons == {"BUDGET_EXHAUSTED": 1}


@pytest.mark.parametrize(
    ("outcome", "reason", "late"),
    [
        ("ORIGINAL_ORDER", "BUDGET_EXHAUSTED", True),
        ("ORIGINAL_ORDER", "OVERLOADED", True),
        ("PARTIAL", "OVERLOADED", True),
        ("SKIPPED", "LANGUAGE", False),
        ("SKIPPED", "QUERY_TOO_LONG", False),
        ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE", False),
        ("ORIGINAL_ORDER", "MODEL_ERROR", False),
        ("SKIPPED", "NO_CANDIDATES", False),
        ("RERANKED", "UNSPECIFIED", False),
    ],
)
def test_only_what_more_time_would_help_comes_too_late(outcome: str, reason: str, late: bool) -> None:
    assert Times.of([answer(ENGINE, outcome, reason)]).late == late


def test_one_query_in_another_language_does_not_switch_reranking_off() -> None:
    calls = [answer(ENGINE)] * 24 + [answer(ENGINE, "SKIPPED", "LANGUAGE")]
    advice = study.advise(studied({"better": all_first()}, {"better": Times.of(calls)}))
    assert (advice.fits, advice.worth_it) == (True, True)


@pytest.mark.parametrize(
    ("late", "calls", "fits", "doubtful"),
    [
        (0, 1, True, False),
        (1, 50, True, True),
        (2, 50, True, True),
        (3, 50, False, False),
        (1, 20, True, True),
        (2, 20, False, False),
        (1, 5, False, False),
        (5, 1000, True, False),
        (30, 1000, False, False),
    ],
)
def test_a_late_call_of_few_proves_nothing(late: int, calls: int, fits: bool, doubtful: bool) -> None:
    times = Times(calls, 1.0, 1.0, 1.0, {"OVERLOADED": late} if late else {})
    found = studied({"better": all_first()}, {"better": times})
    assert (times.fits, times.doubtful, study.advise(found).fits) == (fits, doubtful, fits)
    told = f"{late} of {calls} timed calls came too late"
    assert any(told in line for line in report.warnings(found)) == doubtful


def test_measures_are_cut_and_what_lies_behind_is_missed() -> None:
    values = measures.by_query({"q": {"x": 1, "y": 1}}, {"q": ["x", *"abcdefghi", "y"]}, 10)
    assert (values["AP@10"]["q"], values["R@10"]["q"]) == (0.5, 0.5)


def test_the_policys_file_tells_what_was_noted(tmp_path: Path) -> None:
    found = studied({"better": all_first()}, judged=JUDGED.noting("a note\nof two lines"))
    *_, file = report.write(found, study.advise(found), {"policies": {}}, tmp_path)
    assert file.read_text().startswith("# note: a note of two lines\n# Chosen by nDCG@10")
    assert yaml.safe_load(file.read_text()) == {"policies": {}}


def test_the_frontier_holds_what_no_other_one_beats() -> None:
    times = {name: Times(50, p50, p50, 3.0, {}) for name, p50 in [("quick", 1.0), ("slow", 9.0), ("best", 5.0)]}
    found = studied({"slow": unchanged(), "best": all_first(), "quick": unchanged()}, times)
    assert [one.variant.model for one in study.frontier(found)] == ["quick", "best"]


def test_what_is_printed_holds_texts_with_brackets_as_they_are() -> None:
    judged = Judgments({"q": "[bold]apple[/bold] [/]"}, {"q": {"good": 1}}, ("a [note]",))
    hurt = Answer(["good"], ["[x]", "good"], "RERANKED", "UNSPECIFIED", 1, 1, {"good": "[red]good\none", "[x]": "[/x]"})
    found = studied({"one": {"q": hurt}}, judged=judged)
    console = Console(record=True, width=160)
    report.show(found, study.advise(found), console)
    text = console.export_text()
    assert "hurt: [bold]apple[/bold] [/]" in text
    assert "[1] [red]good one" in text
    assert "note: a [note]" in text


def test_thousands_of_queries_are_compared_in_little_memory() -> None:
    draw = random.Random(0)
    names = [str(number) for number in range(3000)]
    ours, theirs = ({name: draw.random() for name in names} for _ in range(2))
    tracemalloc.start()
    try:
        found = measures.compare(ours, theirs, names)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150 * 2**20, "all resamples at once are 230 MiB, several times"
    assert found.p_value is not None
    assert found.p_value > 0.05
