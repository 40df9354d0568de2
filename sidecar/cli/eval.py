"""`rerank-sidecar eval`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sidecar.cli.target import TlsCa, TlsCert, TlsKey, TlsName, TlsOn, client_of, engine_authorization
from sidecar.cli.terminal import connector_of, multi_match, progress_bar, settings_of, stop
from sidecar.errors import InvalidRequest
from sidecar.evaluation.judgments import JudgmentError, Judgments, read
from sidecar.json_text import json_object
from sidecar.resolution import Resolver
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.client import BlockingRerankClient
    from sidecar.evaluation.asking import Question
    from sidecar.evaluation.sweeping import Found
    from sidecar.evaluation.variants import Variant

_COLUMNS = 100
"""Columns that the tables need; a narrower terminal wraps them."""


def evaluate(
    judgments: Annotated[Path, typer.Argument(help="qrels (with --queries), or a CSV with query, docid and rating.")],
    index: Annotated[str, typer.Option(help="Index, alias or pattern that the judgments are for.")],
    queries: Annotated[Path | None, typer.Option(help="Texts of the qrels' queries (JSON lines).")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration of the sidecar to start and to sweep.")] = None,
    target: Annotated[str, typer.Option(help="A running sidecar, `host:port`, instead of --config.")] = "",
    tls: TlsOn = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
    policy: Annotated[str, typer.Option(help="Policy; default: the only one, or the one that the index gets.")] = "",
    connector: Annotated[str, typer.Option(help="Connector; not needed when there is only one.")] = "",
    field: Annotated[list[str] | None, typer.Option(help="Field to match, repeatable; default: all.")] = None,
    body: Annotated[Path | None, typer.Option(help="JSON file: the app's search body, with {{query}} in it.")] = None,
    id_field: Annotated[str, typer.Option(help="Field that holds the judged id; default: `_id`.")] = "",
    window: Annotated[list[int] | None, typer.Option(help="Window, repeatable.")] = None,
    max_tokens: Annotated[list[int] | None, typer.Option(help="Tokens of a pair at most, repeatable.")] = None,
    fusion: Annotated[
        list[str] | None,
        typer.Option(help="replace, linear:WEIGHT:SHARE or rrf:WEIGHT:SHARE, repeatable."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model of the configuration, repeatable.")] = None,
    cutoff: Annotated[int, typer.Option(min=1, max=1000, help="Results that count: the k of nDCG@k.")] = 10,
    most: Annotated[
        int | None, typer.Option("--sample", min=1, help="So many queries at most, drawn by --seed.")
    ] = None,
    timed: Annotated[int, typer.Option(min=1, help="Queries that times are measured with, scores computed anew.")] = 50,
    tuning: Annotated[float, typer.Option(min=0.1, max=0.9, help="Share of the queries that choose.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the sample and the split.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for eval.json, eval.png and policy.yaml.")] = Path("eval"),
) -> None:
    """Measure by judgments whether reranking helps on an index, and which window, length, fusion and model to take.

    Every query goes through the sidecar as an app's would. Needs `pip install rerank-sidecar[eval]`.
    """
    if bool(config) == bool(target):
        stop("name either --config, of a sidecar to start, or --target, of one that runs")
    if target and (max_tokens or fusion or model):
        stop("--max-tokens, --fusion and --model change the configuration of a sidecar to start: name it by --config")
    try:
        from sidecar.evaluation import report, study
    except ImportError as error:
        stop(f"{error.name} is not installed: pip install 'rerank-sidecar[eval]'")
    from sidecar.evaluation import variants
    from sidecar.evaluation.asking import Question

    settings = settings_of(config) if config else None
    question = Question(index, _body(body, field or ["*"]), cutoff, connector, id_field, engine_authorization())
    with _mistakes_told():
        judged = read(judgments, queries).sampled(most, seed)
        if settings:
            policy = policy or _of_index(settings, connector, index)
            swept = variants.sweep(settings, policy, window or [], max_tokens or [], fusion or [], model or [])
            judged = judged.noting(variants.rollout_note(settings, policy))
            asked = _of_own(settings, policy, swept, question, judged, timed)
        else:
            with client_of(target, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, name=tls_name) as client:
                asked = _of_running(client, policy, window or [], question, judged)
    split = study.Split.of(sorted(judged.queries), tuning, seed)
    found = study.Study.of(judged.noting(asked.note), cutoff, split, asked.asked, seed)
    advice = study.advise(found)
    console = Console(highlight=False, emoji=False, width=max(_COLUMNS, Console().width))
    report.show(found, advice, console)
    taken = advice.chosen.variant
    recommended = variants.policy_yaml(settings, policy, taken, enabled=advice.worth_it) if settings else None
    files = report.write(found, advice, recommended, out)
    console.print(f"wrote {', '.join(map(str, files))}", markup=False)


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """End the command with a sentence if the judgments, the sweep or the sidecar are at fault."""
    from sidecar.evaluation.asking import AskingError
    from sidecar.evaluation.process import NotServing
    from sidecar.evaluation.variants import VariantError

    try:
        yield
    except (AskingError, InvalidRequest, JudgmentError, NotServing, VariantError) as error:
        stop(str(error))


def _of_own(
    settings: Settings,
    policy: str,
    swept: "Sequence[Variant]",
    question: "Question",
    judged: Judgments,
    timed: int,
) -> "Found":
    from sidecar.evaluation import sweeping

    with progress_bar("asking", sweeping.steps(settings, policy, swept, len(judged.queries), timed)) as advance:
        return sweeping.of_own(settings, policy, swept, question, judged, timed, advance)


def _of_running(
    client: "BlockingRerankClient", policy: str, windows: Sequence[int], question: "Question", judged: Judgments
) -> "Found":
    from sidecar.evaluation import sweeping

    with progress_bar("asking", max(1, len(windows)) * len(judged.queries)) as advance:
        return sweeping.of_running(client, policy, windows, question, judged, advance)


def _body(file: Path | None, fields: list[str]) -> dict[str, Any]:
    from sidecar.evaluation.asking import PLACE, has_place

    if file is None:
        return multi_match(PLACE, fields)
    try:
        body = json_object(file.read_text(encoding="utf-8"), "--body")
    except (OSError, UnicodeDecodeError, InvalidRequest) as error:
        stop(f"{file}: {error}")
    if body.get("from"):
        stop(f"{file} asks for a later page: remove `from`; the first --cutoff results are measured")
    if not has_place(body):
        stop(f"{file} does not say where the query goes: write {PLACE} there")
    return body


def _of_index(settings: Settings, connector: str, index: str) -> str:
    """Return the only policy, or the one that the index gets by its name; ends the command if that is not known."""
    if len(settings.policies) == 1:
        return next(iter(settings.policies))
    resolver, where = Resolver(settings), connector_of(settings, connector or None)
    found = resolver.resolve(where, index, None)
    if found.policy_name is None or resolver.must_ask(where, index, None):
        why = found.why if found.policy_name is None else f"what {index!r} stands for is known to the engine alone"
        stop(f"{why}; name a policy by --policy: {', '.join(settings.policies)}")
    return found.policy_name
