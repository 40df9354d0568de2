"""`rerank-sidecar train`."""

import asyncio
import random
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from sidecar.cli.terminal import connector_of, multi_match, progress_bar, settings_of, stop

if TYPE_CHECKING:
    from connectors.base import Connector
    from sidecar.scoring.base import Scorer
    from sidecar.training.datasets import Collection
    from sidecar.training.finetune import Run
    from sidecar.training.hard_negatives import Engine, Mined
    from sidecar.training.lists import Teach

OBJECTIVES = ("margin", "logistic", "bce", "mse", "softmax", "margin-mse", "kl")
OF_TEACHER = ("margin-mse", "kl")
"""Both repeat :mod:`sidecar.training.losses`, which takes seconds to import."""
_MOST_HELD_OUT = 300
_ENOUGH_HELD_OUT = 50
_LOOKED_AT = 200
"""Number of lists whose language is checked, from the first; they are shuffled."""
_ANY = "any"


def train(
    data: Annotated[Path, typer.Argument(help="Folder in BEIR form: corpus.jsonl, queries.jsonl, qrels/.")],
    out: Annotated[Path, typer.Argument(help="Folder for the checkpoint: new, or of a run that was stopped.")],
    base: Annotated[str, typer.Option(help="Where to start: `bundled`, a folder or a hub id of an encoder.")] = (
        "bundled"
    ),
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = "logistic",
    teacher: Annotated[str, typer.Option(help="Cross-encoder to learn from; for margin-mse and kl.")] = "",
    split: Annotated[str, typer.Option(help="Judgments to learn from: qrels/SPLIT.tsv.")] = "train",
    config: Annotated[Path | None, typer.Option(help="Configuration with a connector that finds negatives.")] = None,
    connector: Annotated[str, typer.Option(help="Connector; not needed when there is only one.")] = "",
    index: Annotated[str, typer.Option(help="Index that holds the corpus; with --config.")] = "",
    field: Annotated[list[str] | None, typer.Option(help="Field to match, repeatable; default: all.")] = None,
    id_field: Annotated[str, typer.Option(help="Field that holds the corpus' id; default: `_id`.")] = "",
    depth: Annotated[int, typer.Option(min=1, max=1000, help="Hits of each query that negatives come from.")] = 50,
    negatives: Annotated[int, typer.Option(min=1, max=100, help="Negatives beside each positive.")] = 6,
    guard: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Hits nearer than this share of a positive's cosine are left out; 0: none."
        ),
    ] = 0.95,
    sample: Annotated[int | None, typer.Option(min=1, help="Queries to learn from at most, drawn by --seed.")] = None,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of the queries kept to measure with.")
    ] = 0.1,
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the data.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Queries a step.")] = 16,
    rate: Annotated[float, typer.Option(min=1e-8, max=1.0, help="Highest learning rate.")] = 2e-5,
    max_length: Annotated[int, typer.Option(min=16, max=8192, help="Tokens of a pair at most.")] = 256,
    every: Annotated[int, typer.Option(min=1, help="Steps from one checkpoint to the next.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the sample, the split and the order.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    language: Annotated[
        list[str] | None,
        typer.Option(help="Code of a language that the model is for, repeatable, or `any`; default: as --base says."),
    ] = None,
    tolerant: Annotated[
        bool, typer.Option(help="Leave broken lines of the data out instead of refusing them.")
    ] = False,
) -> None:
    """Fine-tune a cross-encoder on judgments of your own, with hard negatives that the search engine finds.

    Run again, a stopped run goes on from its last checkpoint. Needs `pip install rerank-sidecar[train]`.
    """
    if objective not in OBJECTIVES:
        stop(f"there is no objective {objective!r}; allowed: {', '.join(OBJECTIVES)}")
    if (objective in OF_TEACHER) != bool(teacher):
        stop("margin-mse and kl learn from a --teacher; the other objectives learn from the judgments alone")
    if bool(config) != bool(index):
        stop("name both --config and --index, or neither: then negatives come from BM25 over corpus.jsonl")
    languages = _languages(language or [], base)
    try:
        import accelerate  # noqa: F401
        import datasets  # noqa: F401
        import ir_measures  # noqa: F401
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        stop(f"{error.name} is not installed: pip install 'rerank-sidecar[train]'")
    from sidecar.training import card, finetune, hard_negatives
    from sidecar.training.lists import lists_of

    if not finetune.may_write(out):
        stop(f"{out} exists and is not an empty folder, nor of a run of this command: choose another one")
    console = Console(highlight=False, emoji=False, markup=False)
    chosen = _device(device)
    collection = _collection(data, split, tolerant=tolerant, console=console)
    kept, learnt = _split(collection, sample, held_out, seed)
    console.print(f"{len(learnt)} queries to learn from, {len(kept)} held out, {len(collection.documents)} documents")
    engine_of = _engines(data, config, connector, index, field or ["*"], id_field, depth)
    found = _found(engine_of, {name: collection.queries[name] for name in (*learnt, *kept)})
    near = _scorer("bundled", None, chosen, kind="bi_encoder") if guard else None
    with progress_bar("guarding against unmarked answers", len(learnt)) as advance:
        mined = hard_negatives.mined(collection, {name: found[name] for name in learnt}, near, guard, advance)
    with progress_bar("making lists", len(mined)) as advance:
        teach = _teacher(teacher, max_length, chosen)
        lists = lists_of(collection, mined, negatives, seed, teach, advance)
    _tell(mined, lists.rows, lists.short, negatives, console)
    if not lists.rows:
        stop(f"no query has {negatives} other documents: ask for fewer --negatives")
    if len({label for row in lists.rows for label in row["labels"]}) < 2:
        stop(f"every document of every list has the same label: {objective} learns nothing from one label")
    _tell_languages(lists.rows, languages, console)
    run = finetune.Run(base, objective, epochs, batch, rate, max_length, seed, every, chosen)
    told = _finetuned(lists.rows, run, out, languages, console)
    trained, before = _scorer(str(out), max_length, chosen), _base_scorer(base, max_length, chosen)
    results = _results(collection, {name: found[name] for name in kept}, trained, before)
    facts = {"base": base, "objective": objective, "lists": len(lists.rows), "documents a list": 1 + negatives, **told}
    facts |= {"seed": seed, "device": chosen, "tokens of a pair at most": max_length}
    facts |= {"languages": _ANY if languages is None else ", ".join(languages)}
    command = f"rerank-sidecar {shlex.join(sys.argv[1:])}"
    file = card.write(
        out, command=command, data=[data], base=_local(base), facts=facts, results=results, queries=len(kept)
    )
    console.print(_table(results, len(kept)))
    _tell_gain(results, len(kept), console)
    console.print(f"wrote {out}, {file.name} in it; next: set `checkpoint: {out}` under `models`; rerank-sidecar eval")


def _results(
    collection: "Collection", found: Mapping[str, Sequence[str]], trained: "Scorer", before: "Scorer | None"
) -> dict[str, float]:
    """nDCG@10 of the engine's hits ``found`` in each order; ``before`` is the base, None if it scores nothing."""
    from sidecar.training import checking

    with progress_bar("measuring", len(found) * (2 if before else 1)) as advance:
        results = checking.results(collection, found, trained, advance)
        if before:
            own = checking.results(collection, found, before, advance)
            results |= {"the base": own["model"], "the base, both": own["both"]}
    return results


def _tell_gain(results: Mapping[str, float], queries: int, console: Console) -> None:
    """Say if the model does not beat the engine, or else its base, and if the queries held out are too few to tell."""
    best = max(results["model"], results["both"])
    if best <= results["engine"]:
        console.print("it does not beat the engine's order on the queries held out: do not switch it on")
    elif best <= max(results.get("the base", 0.0), results.get("the base, both", 0.0)):
        console.print("it does not beat the model that it was made of on the queries held out: keep that one")
    if queries < _ENOUGH_HELD_OUT:
        console.print(f"{queries} queries held out are few: a difference of some hundredths may be chance")


def _local(base: str) -> Path | None:
    """The folder of a base checkpoint, None for one of a hub."""
    from sidecar.scoring.checkpoint import location

    folder = Path(location(base))
    return folder if folder.is_dir() else None


def _base_scorer(base: str, max_length: int, device: str) -> Any:
    """The base as a scorer; None if it is an encoder without a head, which scores nothing by itself."""
    from sidecar.scoring.checkpoint import CheckpointError

    try:
        return _loaded(base, max_length, device, "cross_encoder")
    except CheckpointError:
        return None


def _languages(asked: Sequence[str], base: str) -> tuple[str, ...] | None:
    """Return the languages that the checkpoint will be for: those asked for, else those of ``base``; None: any."""
    from sidecar.model_files import LanguagesFault, languages_of
    from sidecar.setting_types import LANGUAGES

    if list(asked) == [_ANY]:
        return None
    if wrong := [one for one in asked if one not in LANGUAGES]:
        stop(f"--language is {wrong[0]!r}; allowed: {_ANY} alone, or codes of {', '.join(sorted(LANGUAGES))}")
    try:
        return tuple(dict.fromkeys(asked)) or languages_of(base)
    except LanguagesFault as fault:
        stop(str(fault))


def _tell_languages(rows: "Sequence[dict[str, Any]]", languages: Sequence[str] | None, console: Console) -> None:
    """Warn before training if lists are in a language that the sidecar would not rerank: they are of no use."""
    from sidecar.languages import other, text_of

    if languages is None:
        return
    found = [other(text_of(row["query"], [[one] for one in row["docs"]]), languages) for row in rows[:_LOOKED_AT]]
    if foreign := sorted({one for one in found if one}, key=found.count, reverse=True):
        told = ", ".join(f"{one} {found.count(one)}" for one in foreign)
        console.print(
            f"of {len(found)} lists some are surely in none of the model's languages ({', '.join(languages)}): {told}; "
            "such calls keep the engine's order: --language says what the model will be for"
        )


def _finetuned(
    rows: "Sequence[dict[str, Any]]", run: "Run", out: Path, languages: Sequence[str] | None, console: Console
) -> dict[str, Any]:
    """Train, or go on with a run that was stopped; its checkpoints lie beside ``out``, in `OUT.work`."""
    from sidecar.training import finetune

    work, digest = finetune.work_of(out), finetune.digest_of(rows)
    try:
        if finetune.begun(work, run, digest):
            console.print(f"going on with the run in {work}")
    except finetune.RunError as error:
        stop(str(error))
    finetune.begin(work, run, digest)
    return finetune.finetune(rows, run, work, out, languages)


def _collection(data: Path, split: str, *, tolerant: bool, console: Console) -> "Collection":
    from sidecar.training.datasets import DataError, load_collection

    try:
        collection = load_collection(data, split, tolerant)
    except DataError as error:
        stop(f"{error}\n--tolerant leaves such lines out" if error.lines and not tolerant else str(error))
    if collection.faults.lines:
        console.print(f"left out {collection.faults.lines} lines:\n{collection.faults}")
    return collection


def _split(collection: "Collection", sample: int | None, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the ids of the queries held out, and of those to learn from, both drawn by ``seed``."""
    from sidecar.training.datasets import positives

    judged = sorted(name for name in collection.qrels if positives(collection, name))
    if len(judged) < 2:
        stop("there is only one query with a positive judgment; some are to learn from, some to measure with")
    random.Random(seed).shuffle(judged)  # noqa: S311 - a draw that can be repeated
    count = min(_MOST_HELD_OUT, max(1, round(share * len(judged))))
    return judged[:count], judged[count:][:sample]


def _device(device: str) -> str:
    from sidecar.scoring.hardware import HardwareError, pick_device
    from sidecar.settings import ModelSettings

    try:
        return str(pick_device(ModelSettings(device=device)))
    except HardwareError as error:
        stop(str(error))
    except ValueError:
        stop(f"--device is {device!r}; allowed: auto, cpu, cuda, cuda:N")


def _engines(
    data: Path, config: Path | None, name: str, index: str, fields: list[str], id_field: str, depth: int
) -> "Callable[[], Engine]":
    """Return a factory of the engine that negatives come from, to be called in the event loop that uses it."""
    from sidecar.training.hard_negatives import Engine

    def made() -> Engine:
        found = _configured(config, name) if config else _in_memory(data)
        return Engine(found, index or "corpus", partial(multi_match, fields=fields), depth, id_field)

    return made


def _in_memory(data: Path) -> "Connector":
    from connectors.memory import MemoryConnector

    return MemoryConnector.from_files("corpus", {"corpus": data / "corpus.jsonl"})


def _configured(config: Path, name: str) -> "Connector":
    from sidecar.metrics import Metrics
    from sidecar.wiring import WiringError, connectors_of

    settings = settings_of(config)
    known = settings.connectors
    chosen = connector_of(settings, name or None)
    if chosen is None:
        stop(f"the configuration has {len(known)} connectors; name one by --connector: {', '.join(known)}")
    try:
        built = connectors_of(settings.model_copy(update={"connectors": {chosen: known[chosen]}}), Metrics())
    except WiringError as error:
        stop(str(error))
    return built[chosen]


def _found(engine_of: "Callable[[], Engine]", queries: Mapping[str, str]) -> dict[str, list[str]]:
    from connectors.errors import ConnectorError
    from sidecar.training.hard_negatives import candidates

    async def ask(advance: Callable[[], None]) -> dict[str, list[str]]:
        engine = engine_of()
        try:
            return await candidates(engine, queries, advance)
        finally:
            await engine.connector.close()

    try:
        with progress_bar("searching", len(queries)) as advance:
            return asyncio.run(ask(advance))
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        if not isinstance(first, ConnectorError):
            raise
        stop(str(first))
    except ValueError as error:
        stop(str(error))


def _scorer(checkpoint: str, max_length: int | None, device: str, kind: str = "cross_encoder") -> Any:
    from sidecar.scoring.checkpoint import CheckpointError

    try:
        return _loaded(checkpoint, max_length, device, kind)
    except ValidationError as error:
        stop(f"checkpoint {checkpoint!r}: {error.errors()[0]['msg']}")
    except CheckpointError as error:
        stop(str(error))


def _loaded(checkpoint: str, max_length: int | None, device: str, kind: str) -> Any:
    from sidecar.scoring import hardware
    from sidecar.scoring.loader import scorer_of
    from sidecar.settings import ModelSettings

    wanted = {"checkpoint": checkpoint, "kind": kind, "max_length": max_length, "device": device}
    settings = ModelSettings.model_validate(wanted)
    picked = hardware.pick_device(settings)
    return scorer_of(settings, picked, hardware.pick_dtype(settings, picked))


def _teacher(checkpoint: str, max_length: int, device: str) -> "Teach | None":
    if not checkpoint:
        return None
    scorer = _scorer(checkpoint, max_length, device)
    return lambda query, texts: scorer.score(scorer.encode(query, texts)).tolist()


def _tell(mined: "Sequence[Mined]", rows: Sequence[Any], short: int, negatives: int, console: Console) -> None:
    hard = sum(len(one.negatives) for one in mined) / max(1, len(mined))
    guarded = sum(len(one.guarded) for one in mined)
    console.print(f"{hard:.1f} hard negatives a query; {guarded} hits left out, as near as a positive or nearer")
    console.print(f"{len(rows)} lists of 1 + {negatives} documents; {short} queries with too few others left out")


def _table(results: Mapping[str, float], queries: int) -> Table:
    table = Table(title=f"nDCG@10 on {queries} queries held out", title_justify="left")
    for heading in ("order", "nDCG@10"):
        table.add_column(heading, justify="left" if heading == "order" else "right")
    for system, value in results.items():
        table.add_row(system, f"{value:.3f}")
    return table
