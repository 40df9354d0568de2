"""Asks the queries of a sweep: of sidecars that it starts, or of a running one."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.client import BlockingRerankClient
from sidecar.evaluation import asking
from sidecar.evaluation.asking import Answer, AskingError, Question
from sidecar.evaluation.judgments import Judgments
from sidecar.evaluation.process import running
from sidecar.evaluation.study import Times
from sidecar.evaluation.variants import Cost, Variant, costs, served
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb

Asked = list[tuple[Variant, Mapping[str, Answer], Times]]


@dataclass(frozen=True)
class Found:
    """Each variant's answers and times; ``note`` tells of missing relevant documents and cached times, if any."""

    asked: Asked
    note: str


_WARM_UP_CALLS = 2
_ABSENT_SHOWN = 3
AS_IT_SERVES = "as it serves"


def steps(settings: Settings, policy: str, variants: Sequence[Variant], queries: int, timed: int) -> int:
    """Return how often :func:`of_own` will call ``advance``."""
    timings = len(set(costs(settings, policy, variants).values()))
    return len(variants) * queries + timings * min(timed, queries)


def of_own(
    settings: Settings,
    policy: str,
    variants: Sequence[Variant],
    question: Question,
    judged: Judgments,
    timed: int,
    advance: Callable[[], None],
) -> Found:
    """Ask a sidecar that serves all variants, with enough time, for its answers; and measure the times of at most
    ``timed`` queries on another one, with the policy's own budget and no caches.

    Raises:
        AskingError: a call ends with an error.
        NotServing: a sidecar does not start.
    """
    few = dict(list(judged.queries.items())[:timed])
    warm_up = dict(list(few.items())[:_WARM_UP_CALLS])
    answers: dict[Variant, Mapping[str, Answer]] = {}
    cost_of, times = costs(settings, policy, variants), dict[Cost, Times]()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "sidecar.log")
        serving = running(served(settings, policy, variants, for_quality=True), log)
        with serving as address, BlockingRerankClient(address) as client:
            note = check_ids(client, question, judged, pb.Options(policy=variants[0].policy))
            for variant in variants:
                options = pb.Options(policy=variant.policy, return_passages=True)
                answers[variant] = asking.ask(client, question, judged.queries, options, advance)
        serving = running(served(settings, policy, variants, for_quality=False), log)
        with serving as address, BlockingRerankClient(address) as client:
            for cost, variant in {cost_of[variant]: variant for variant in variants}.items():
                options = pb.Options(policy=variant.policy)
                asking.ask(client, question, warm_up, options)
                times[cost] = Times.of(list(asking.ask(client, question, few, options, advance).values()))
    return Found([(variant, answers[variant], times[cost_of[variant]]) for variant in variants], note)


def of_running(
    client: BlockingRerankClient,
    policy: str,
    windows: Sequence[int],
    question: Question,
    judged: Judgments,
    advance: Callable[[], None],
) -> Found:
    """Ask a running sidecar, with each window (none: the policy's own); times are of the same calls.

    Raises:
        AskingError: a call ends with an error.
    """
    asked: Asked = []
    note = check_ids(client, question, judged, pb.Options(policy=policy))
    for window in windows or [0]:
        options = pb.Options(policy=policy, rank_window_size=window or None, return_passages=True)
        found = asking.ask(client, question, judged.queries, options, advance)
        variant = Variant(policy or AS_IT_SERVES, None, window, AS_IT_SERVES)
        asked.append((variant, found, Times.of(list(found.values()))))
    cached = "times are of a running sidecar: what its caches knew already cost less" if windows else ""
    return Found(asked, "; ".join(filter(None, (note, cached))))


def check_ids(client: BlockingRerankClient, question: Question, judged: Judgments, options: pb.Options) -> str:
    """Return a sentence on relevant documents that the index lacks; empty if it lacks none.

    Raises:
        AskingError: it has none of them, so that all orders would look equally bad; or a call ends with an error.
    """
    relevant = sorted({one for found in judged.grades.values() for one, grade in found.items() if grade > 0})
    absent = asking.absent(client, question, relevant, options)
    examples = ", ".join(map(repr, absent[:_ABSENT_SHOWN]))
    if len(absent) == len(relevant):
        raise AskingError(
            f"index {question.index!r} has none of the {len(relevant)} relevant documents, such as {examples}; "
            "where another field than `_id` holds their ids, name it by --id-field"
        )
    lacking = f"index {question.index!r} lacks {len(absent)} of {len(relevant)} relevant documents, such as {examples}"
    return f"{lacking}: no order can bring them" if absent else ""
