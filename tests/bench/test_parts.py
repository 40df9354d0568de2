"""The parts of the benches that decide what a figure is."""

import argparse
import doctest
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from sidecar.settings import ServerSettings
from sidecar.v1 import rerank_pb2 as pb
from tests.bench import __main__ as everything
from tests.bench import (
    arrivals,
    flops,
    generator,
    infinity_environment,
    load,
    machine,
    percentiles,
    section,
    server,
    soak,
    texts,
    throughput,
    utilization,
)
from tests.bench.generator import Call, Requests, Result, Stream
from tests.checkpoints import build

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\n"


def test_a_share_is_the_median_of_each_jobs_rate_over_the_faster_product_beside_it() -> None:
    big, flat = (8, 8, 8), (8, 4, 2)
    peaks = [
        utilization.Peak(4e12, big, 5e12),
        utilization.Peak(2e12, flat, 4e12),
        utilization.Peak(1e12, big, 10e12),
        utilization.Peak(2e12, flat, 3e12),
    ]
    assert utilization.share([1e12, 1e12, 3e12], peaks) == {  # 25, 50 and 150 % of the one, 20, 10 and 30 of the other
        "tflops": 1.0,
        "sustained_tflops": 2.0,
        "fastest_product": "8 x 4 x 2",
        "of_sustained_percent": 50.0,
        "peak_tflops": 10.0,
        "of_peak_percent": 20.0,
    }


def test_a_product_is_repeated_for_the_time_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([0.25, 0.5, 0.25, 1.0])
    monkeypatch.setattr(utilization, "seconds", lambda work: next(took))
    sustained, fastest = utilization.product_flops(torch.float32, (2, 3, 4), for_s=1.0)
    assert sustained == pytest.approx(48 * 3)
    assert fastest == 48 * 4


@pytest.mark.parametrize("module", [load, machine, percentiles, section, soak])
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_processor_and_its_features_are_read_fastest_first() -> None:
    assert machine.processor_of(CPUINFO) == ("Some CPU @ 2 GHz", ["amx_bf16", "avx512f", "avx2"])
    assert machine.processor_of("") == ("", [])


def test_the_commit_can_be_told_where_git_is_not_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMIT", "0123abcd")
    assert machine.commit() == "0123abcd"


@pytest.mark.parametrize("mean", [85, 250])
def test_lengths_have_the_mean_that_is_asked_for(mean: int) -> None:
    words = [len(text.split()) for text in texts.passages(mean, 20_000)]
    assert sum(words) / len(words) + 12 == pytest.approx(mean, rel=0.03)
    assert texts.passages(mean, 5) == texts.passages(mean, 5)
    assert texts.passages(mean, 5, seed=1) != texts.passages(mean, 5, seed=2)


def test_texts_of_a_size_have_exactly_that_size() -> None:
    assert {len(text) for text in texts.of_characters(500, 200)} == {500}
    assert {len(text.split()) for text in texts.of_words(40, 200)} == {40}


def test_constant_arrivals_are_evenly_spaced_and_poisson_ones_have_the_same_rate() -> None:
    assert arrivals.due_s("constant", 4, 1.0) == [0.0, 0.25, 0.5, 0.75]
    due = arrivals.due_s("poisson", 100, 100.0, seed=3)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert len(due) == 10_000
    assert sum(gap**2 for gap in gaps) / len(gaps) == pytest.approx(2 * 0.01**2, rel=0.1)  # of an exponential: 2 mean²
    with pytest.raises(ValueError, match="rate of 0"):
        arrivals.due_s("constant", 0, 1.0)


def test_percentiles_are_nearest_ranks_and_the_last_one_needs_a_thousand_values() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [percentiles.percentile(hundred, cut) for cut in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentiles.percentile([], 50) is None
    assert percentiles.latencies(hundred)["p99.9_ms"] is None
    assert percentiles.latencies(hundred * 10)["p99.9_ms"] == 100
    assert percentiles.latencies([float(value) for value in range(1, 1173)])["p99.9_ms"] == 1171
    assert percentiles.median_and_tail(hundred) == {"p50_ms": 50, "p99_ms": 99}
    assert percentiles.median_and_tail([]) == {"p50_ms": None, "p99_ms": None}


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_operations_of_the_formula_are_those_that_torch_counts(tmp_path: Path, family: str) -> None:
    """On pairs without padding; torch's own counter sees every matrix product that runs."""
    build(tmp_path, family)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.full((3, 48), 7)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert flops.shape_of(tmp_path).operations([48] * 3) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_requests_are_whole_messages_with_ever_new_queries_and_recurring_documents() -> None:
    requests = Requests(Stream(candidates=3, size=20, documents=2, budget_ms=700))
    sent = [pb.RerankRequest.FromString(next(requests)) for _ in range(3)]
    assert len({message.query for message in sent}) == 3
    assert [len(message.candidates) for message in sent] == [3, 3, 3]
    assert sent[0].candidates == sent[2].candidates
    assert sent[0].candidates != sent[1].candidates
    assert {message.options.budget_ms for message in sent} == {700}
    repeated = Requests(Stream(candidates=3, documents=1, fresh_queries=False))
    assert next(repeated) == next(repeated)


def test_metrics_are_summed_over_labels_without_buckets() -> None:
    text = 'a_total{x="1"} 2\na_total{x="2"} 3\nh_bucket{le="1"} 4\nh_sum 5\n'
    assert server.sums_of(f"# TYPE a counter\n{text}") == {"a_total": 5.0, "h_sum": 5.0}


def answered(outcome: str, latency_ms: float, *, reason: str = "UNSPECIFIED", scored: int = 10) -> Call:
    return Call("calls", 0.0, 1.0, latency_ms, outcome, reason, scored=scored, server_ms=latency_ms - 1)


def test_goodput_counts_reranked_answers_in_time_only() -> None:
    calls = [
        answered("RERANKED", 50),
        answered("PARTIAL", 90, scored=3),
        answered("RERANKED", 150),
        answered("ORIGINAL_ORDER", 5, reason="OVERLOADED"),
        Call("calls", 0.0, 1.0, 900.0, generator.NO_ANSWER),
    ]
    found = Result(calls, cpu_s=0.5, wall_s=2.0)
    phase = load.Phase()
    phase.add(found, 2.0, {load.DEVICE_S: 1.0, load.WASTED_S: 0.25}, 100)
    row = load.row(phase, 100)
    assert row["goodput_per_s"] == 1.0
    assert row["good_pairs_per_s"] == 6.5, "10 pairs of a whole call and 3 of one in part, in 2 s"
    assert row["in_budget_percent"] == 60
    assert row["reranked_percent"] == 60
    assert row["wasted_percent"] == 25
    assert row["p99_ms"] == 150  # a call without an answer has no latency; it counts as failed
    detail = load.detail(phase)
    assert detail["failed_percent"] == 20
    assert detail["device_busy_percent"] == 50
    assert detail["sender_cpu_percent"] == 25
    assert detail["ends"].startswith("RERANKED 2")
    phase = load.Phase()
    phase.add(found, 2.0, {}, 100)
    assert load.row(phase, 100)["wasted_percent"] is None


def test_the_turns_of_a_load_count_together() -> None:
    """The second turn's last answer comes half a second after its end: the work was done in 2.5 s, not in 2."""
    phase = load.Phase()
    spent = {load.DEVICE_S: 1.0, load.WASTED_S: 0.25}
    phase.add(Result([answered("RERANKED", 90)], cpu_s=0.5, wall_s=2.0), 2.0, spent, 600)
    late = [replace(answered("RERANKED", 550), due_s=1.95), replace(answered("RERANKED", 5000), due_s=1.95)]
    phase.add(Result(late, cpu_s=0.5, wall_s=7.0), 2.0, spent, 600)
    row = load.row(phase, 600)
    assert row["goodput_per_s"] == round(2 / 4.5, 2), "an answer behind the budget does not count, nor does its time"
    assert (row["calls"], row["wasted_percent"]) == (3, 25)
    assert load.detail(phase)["sender_cpu_percent"] == 11.1


def test_every_load_meets_the_machine_as_often_and_as_early_as_the_others() -> None:
    order = load.turns(20.0)
    places: dict[tuple[str, float], int] = {}
    for place, (_, kind, factor) in enumerate(order):
        places[kind, factor] = places.get((kind, factor), 0) + place
    assert len(order) == 40
    assert len(places) == 10
    assert len(set(places.values())) == 1, "the same mean place for all"
    assert len(load.turns(6.0)) == 10


def test_shares_of_the_best_are_those_of_calls_and_of_scored_pairs() -> None:
    """Calls with ten of a hundred pairs scored: twice the calls, a fifth of the work."""
    whole = {"goodput_per_s": 4.0, "good_pairs_per_s": 400.0}
    part = {"goodput_per_s": 8.0, "good_pairs_per_s": 80.0}
    shares = [(row["of_best_percent"], row["pairs_of_best_percent"]) for row in load.with_shares([whole, part])]
    assert shares == [(50, 100), (100, 20)]
    nothing = load.with_shares([{"goodput_per_s": 0.0, "good_pairs_per_s": 0.0}])[0]
    assert (nothing["of_best_percent"], nothing["pairs_of_best_percent"]) == (0, 0)


def test_capacity_counts_a_call_reranked_in_part_for_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [answered("RERANKED", 50), answered("PARTIAL", 90, scored=5), answered("ORIGINAL_ORDER", 5)]
    monkeypatch.setattr(load, "generated", lambda *_: Result(calls, cpu_s=0.5, wall_s=2.0))
    there: Any = SimpleNamespace(address="")
    assert load.capacity_per_s(there, Stream(candidates=10), 2.0) == 0.75
    calls[:] = [answered("ORIGINAL_ORDER", 5, reason="OVERLOADED")]
    with pytest.raises(RuntimeError, match=r"not one call was reranked: .*OVERLOADED"):
        load.capacity_per_s(there, Stream(candidates=10), 2.0)


def test_the_last_percentile_is_given_of_the_calls_of_all_loads_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load has at most 242 calls on two cores: only all of them together have enough."""
    times = iter(range(10))

    def phase(*_: Any) -> Result:
        slow = float(next(times))
        return Result([answered("RERANKED", 100 + slow)] * 2 + [answered("RERANKED", 20)] * 98, cpu_s=0.5, wall_s=2.0)

    monkeypatch.setattr(load, "generated", phase)
    there: Any = SimpleNamespace(address="", metrics=lambda: {load.DEVICE_S: 1.0})
    rows, details = load.phases(there, 10, 4.0, 2.0, 600)
    assert [row["calls"] for row in rows] == [100] * 10 + [1000]
    assert [row["p99.9_ms"] for row in rows] == [None] * 10 + [109]
    assert rows[-1]["arrivals"] == load.TOGETHER
    assert rows[-1]["in_budget_percent"] == 100
    assert len(details) == 10


def test_growth_is_that_of_the_samples_after_the_warm_up() -> None:
    samples = [(0, 1024), (100, 4096), (200, 4096), (300, 4196), (400, 4296)]
    row = soak.row(samples, reranked=400, took_s=4.0)
    assert row["rss_warm_mib"] == 4.0
    assert row["growth_bytes_per_call"] == pytest.approx(0.7 * 1024)
    assert row["reranked_percent"] == 100


def test_caches_of_the_memory_run_are_small_enough_to_be_full_before_its_samples_count() -> None:
    small = soak.small_caches(ServerSettings)
    assert small["order_cache_mib"] == 1
    assert ServerSettings(**small).order_cache_mib == 1


@pytest.mark.parametrize(
    ("name", "limit_s", "said"),
    [
        ("load", 0.2, "took longer than 0 s and was ended"),
        ("nothing", 30, "ended with status 1"),
        ("arrivals", 30, ""),
    ],
)
def test_a_bench_that_fails_or_hangs_is_told_and_ended(name: str, limit_s: float, said: str) -> None:
    assert everything.run(name, [], limit_s) == said


def test_the_benches_for_a_gpu_take_less_than_eight_minutes_at_most() -> None:
    assert sum(limit_s for _, limit_s in everything.planned([], gpu=True).values()) < 470, "and time to end them"
    assert set(everything.GPU_LIMITS_S) < set(everything.LIMITS_S)


def test_the_benches_for_a_gpu_are_started_with_options_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITY_PYTHON", "/usr/bin/python3")
    plan = {name: options for name, (options, _) in everything.planned([], gpu=True).items()}
    assert plan == {name: [] for name in everything.GPU_LIMITS_S} | {"load": ["--seconds", "6"]}
    parser = argparse.ArgumentParser()
    load._options(parser)
    assert parser.parse_args(plan["load"]).seconds == 6


@pytest.mark.parametrize("made", [True, False])
def test_the_benches_for_a_gpu_install_nothing(made: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INFINITY_PYTHON", raising=False)
    monkeypatch.setattr(infinity_environment, "_FOLDER", tmp_path)
    if made:
        (tmp_path / "made").touch()
    options, _ = everything.planned(["throughput"], gpu=True)["throughput"]
    assert options == ([] if made else ["--without", "infinity"])
    parser = argparse.ArgumentParser()
    throughput._options(parser)
    assert parser.parse_args(options).without == ("" if made else "infinity")
    assert everything.planned(["throughput"])["throughput"] == ([], everything.LIMITS_S["throughput"])


def test_the_benches_for_a_gpu_are_refused_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "device", lambda: "cpu")
    monkeypatch.setattr(sys, "argv", ["bench", "--gpu"])
    with pytest.raises(SystemExit):
        everything.main()
    assert "--gpu needs a CUDA device" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no bench small in the benches for a GPU: throughput, "):
        everything.planned(["small"], gpu=True)


def test_the_help_says_what_is_installed_and_how_not_to() -> None:
    command = [sys.executable, "-m", "tests.bench", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "installs infinity" in said
    assert "INFINITY_PYTHON" in said


def test_a_bench_that_does_not_exist_is_refused() -> None:
    command = [sys.executable, "-m", "tests.bench", "no-such-bench"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no bench no-such-bench" in done.stderr
