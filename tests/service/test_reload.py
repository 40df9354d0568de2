"""The configuration changes while calls are served: exchanged whole, or not at all; no call is lost or late."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from structlog.testing import capture_logs
from typer.testing import CliRunner

from connectors.memory import Fault, MemoryConnector
from sidecar import api_keys, configuration, reloading
from sidecar.app import App
from sidecar.changes import Changes, differences
from sidecar.cli import app as command
from sidecar.client import RerankClient
from sidecar.closing import ENDS_WITHIN_S
from sidecar.cost import CostModel
from sidecar.file_stamp import stamp_of
from sidecar.live import Switches
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.reloading import LOOK_EVERY_S
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings, Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import PATIENCE_S, until
from tests.conftest import DOCUMENTS, SERVER, Serve, settings

BODY = {"query": {"match": {"body": "apple"}}}
QUERY = "apple winter"


def tree(**policy: Any) -> dict[str, Any]:
    return {
        "server": {**SERVER, "shutdown_grace_s": 0},
        "connectors": {"main": {"type": "memory", "indices": {"docs": "docs.jsonl"}}},
        "policies": {
            "default": {
                "match": [{"index": "*"}],
                "text": {"fields": ["title", "body"]},
                "budget_ms": 2000,
                "fusion": {"method": "replace"},
                **policy,
            }
        },
    }


def write(file: Path, content: dict[str, Any] | str) -> None:
    """At once, as an editor or a mounted volume does."""
    (file.parent / "docs.jsonl").write_text('{"_id": "1", "title": "apple"}')
    fresh = file.with_suffix(".new")
    fresh.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    fresh.replace(file)


class Loads:
    """Loads fake models, and says which."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.broken: set[str] = set()

    def __call__(self, name: str, model: ModelSettings) -> LoadedModel:
        self.names.append(name)
        if name in self.broken:
            raise ValueError("no such checkpoint")
        return LoadedModel.of(name, WordOverlapScorer(version=f"v{len(self.names)}"), CostModel(1e-4), model)


@asynccontextmanager
async def served(
    file: Path, loads: Loads | None = None, engine: MemoryConnector | None = None
) -> AsyncIterator[tuple[RerankClient, App]]:
    """A sidecar that watches a file, as `rerank-sidecar serve` does."""
    loads = loads or Loads()
    app = App(
        configuration.load(file),
        load=loads,
        connectors={"main": engine or MemoryConnector("main", {"docs": DOCUMENTS})},
        file=file,
    )
    await app.start()
    await app.ready()
    assert app._reloader
    watching = asyncio.create_task(app._reloader.watch())
    try:
        async with RerankClient(f"127.0.0.1:{app.port}") as client:
            yield client, app
    finally:
        watching.cancel()
        await app.stop()


def value(app: App, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(f"sidecar_configuration_{name}", labels) or 0.0


async def reloaded(app: App, file: Path, content: dict[str, Any] | str, outcome: str = "applied") -> None:
    """Write a file and wait until it was looked at."""
    before = value(app, "reloads_total", outcome=outcome)
    write(file, content)
    assert app._reloader
    app._reloader.ask()
    await until(lambda: value(app, "reloads_total", outcome=outcome) > before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sidecar.yaml"
    write(path, tree())
    return path


async def test_a_changed_policy_serves_the_next_call_and_models_stay(file: Path) -> None:
    loads = Loads()
    async with served(file, loads) as (client, app):
        first = await client.search("docs", QUERY, BODY)
        await reloaded(app, file, tree(rank_window_size=2))
        second = await client.search("docs", QUERY, BODY)
        assert (first.message.meta.candidates, second.message.meta.candidates) == (5, 2)
        assert first.message.meta.policy_version != second.message.meta.policy_version
        assert loads.names == ["default"]
        listed = await client.policies.List(pb.ListRequest())
        assert '"rank_window_size":2' in listed.policies[0].settings


async def test_without_being_asked_a_change_is_seen_within_seconds(file: Path) -> None:
    async with served(file) as (client, _):
        write(file, tree(enabled=False))
        started = time.monotonic()
        while (await client.search("docs", QUERY, BODY)).reason != "POLICY_DISABLED":
            await asyncio.sleep(0.05)
            assert time.monotonic() < started + 5


async def test_a_half_written_file_is_not_taken_over_although_it_is_valid(file: Path) -> None:
    async with served(file) as (client, app):
        for number in range(8):
            write(file, tree(rank_window_size=2 + number % 2))
            await asyncio.sleep(LOOK_EVERY_S / 2)
        assert value(app, "reloads_total", outcome="applied") == 0, "it was never the same twice"
        write(file, tree(rank_window_size=4))
        await until(lambda: value(app, "reloads_total", outcome="applied") == 1)
        assert (await client.search("docs", QUERY, BODY)).message.meta.candidates == 4


async def test_what_changed_while_the_process_started_is_taken_over(file: Path) -> None:
    seen, read = stamp_of(file), configuration.load(file)
    write(file, tree(enabled=False))
    connectors = {"main": MemoryConnector("main", {"docs": DOCUMENTS})}
    app = App(read, load=Loads(), connectors=connectors, file=file, seen=seen)
    await app.start()
    await app.ready()
    assert app._reloader
    watching = asyncio.create_task(app._reloader.watch())
    try:
        await until(lambda: value(app, "reloads_total", outcome="applied") == 1)
    finally:
        watching.cancel()
        await app.stop()


def test_no_connector_is_closed_before_its_longest_call_can_be_over() -> None:
    assert settings({"budget_ms": 300, "limits": {"budget_ms": 9000}}).longest_call_s == 9
    slow = {"main": {"type": "memory", "indices": {"docs": "unused"}, "search_timeout_ms": 20_000}}
    assert settings(connectors=slow).longest_call_s == 20


@pytest.mark.parametrize(
    "broken",
    [
        "policies: [",
        "",
        {**tree(), "polices": {}},
        tree(budget_ms=-1),
        tree(model="absent"),
        {**tree(), "connectors": {"main": {"type": "memory", "indices": {"docs": "no-such-file"}}}},
    ],
)
async def test_a_broken_file_changes_nothing_and_shows(file: Path, broken: Any) -> None:
    async with served(file) as (client, app):
        before = await client.search("docs", QUERY, BODY)
        await reloaded(app, file, broken, "refused")
        after = await client.search("docs", QUERY, BODY)
        assert before.message.meta.policy_version == after.message.meta.policy_version
        assert value(app, "current") == 0.0
        await reloaded(app, file, tree())
        assert value(app, "current") == 1.0


async def test_a_file_that_is_gone_changes_nothing(file: Path) -> None:
    async with served(file) as (client, app):
        file.unlink()  # noqa: ASYNC240
        await until(lambda: value(app, "reloads_total", outcome="refused") == 1)
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_a_new_model_warms_up_before_it_serves_and_a_broken_one_is_refused(file: Path) -> None:
    loads = Loads()
    async with served(file, loads) as (client, app):
        two = {**tree(model="second"), "models": {"second": {"max_length": 99}}}
        loads.broken = {"second"}
        await reloaded(app, file, two, "refused")
        page = await client.search("docs", QUERY, BODY)
        assert (page.outcome, page.message.meta.model) == ("RERANKED", "default")
        loads.broken = set()
        await reloaded(app, file, two)
        page = await client.search("docs", QUERY, BODY)
        assert (page.outcome, page.message.meta.model) == ("RERANKED", "second")
        assert loads.names == ["default", "second", "second"]
        ready = app.metrics.registry.get_sample_value
        assert ready("sidecar_model_ready", {"model": "second"}) == 1.0
        assert ready("sidecar_model_ready", {"model": "default"}) is None
        changed = {**two, "models": {"second": {"max_length": 98}}}
        await reloaded(app, file, changed)
        assert loads.names[-1] == "second"
        assert (await client.search("docs", QUERY, BODY)).message.meta.model_version == "v4"


async def test_a_call_under_way_is_scored_by_the_model_that_it_began_with(file: Path) -> None:
    loads, slow = Loads(), MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(delay_s=0.5, on="search")])
    async with served(file, loads, slow) as (client, app):
        before = asyncio.create_task(client.search("docs", QUERY, BODY))
        await asyncio.sleep(0.1)
        await reloaded(app, file, {**tree(model="second"), "models": {"second": {}}})
        assert not before.done()
        page = await before
        assert (page.outcome, page.message.meta.model) == ("RERANKED", "default")
        page = await client.search("docs", QUERY, BODY)
        assert (page.outcome, page.message.meta.model) == ("RERANKED", "second")
        assert app.metrics.registry.get_sample_value("sidecar_failed_passes_total", {"model": "second"}) == 0


async def test_a_model_that_failed_is_tried_again_with_the_next_configuration(file: Path) -> None:
    loads = Loads()
    loads.broken = {"default"}
    async with served(file, loads) as (client, app):
        assert (await client.search("docs", QUERY, BODY)).reason == "MODEL_NOT_READY"
        await reloaded(app, file, tree(rank_window_size=3))
        await until(lambda: len(loads.names) == 2)
        assert (await client.search("docs", QUERY, BODY)).reason == "MODEL_NOT_READY", "which does not refuse the rest"
        loads.broken = set()
        await reloaded(app, file, tree(rank_window_size=3))
        await until(lambda: app.models.is_ready("default"))
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_a_late_second_try_takes_no_other_models_place(file: Path) -> None:
    """It is of a configuration that is not served any more."""
    slow = threading.Event()

    class Slowly(Loads):
        def __call__(self, name: str, model: ModelSettings) -> LoadedModel:
            if model.max_length is None and len(self.names) == 1:
                self.names.append(name)
                slow.wait(PATIENCE_S)
                return LoadedModel.of(name, WordOverlapScorer(version="late"), CostModel(1e-4), model)
            return super().__call__(name, model)

    loads = Slowly()
    loads.broken = {"default"}
    async with served(file, loads) as (client, app):
        loads.broken = set()
        await reloaded(app, file, tree(rank_window_size=3))
        await until(lambda: len(loads.names) == 2)
        await reloaded(app, file, {**tree(), "models": {"default": {"max_length": 64}}})
        served_now = app.models.get("default").scorer.version
        slow.set()
        await asyncio.sleep(0.3)
        assert app.models.get("default").scorer.version == served_now != "late"
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_switching_all_on_again_leaves_off_what_was_off_by_itself() -> None:
    switches = Switches(Metrics().switched_off)
    switches.turn("one", on=False)
    switches.turn("", on=False)
    assert switches.is_off("one")
    assert switches.is_off("two")
    switches.turn("", on=True)
    assert switches.is_off("one")
    assert not switches.is_off("two")
    switches.turn("", on=True)
    assert not switches.is_off("one"), "nothing else is off: now all are meant"


async def test_no_model_is_loaded_for_a_configuration_whose_keys_cannot_be_used(file: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("broken")
    loads = Loads()
    async with served(file, loads) as (_, app):
        changed = {**tree(model="second"), "models": {"second": {}}}
        changed["server"] = {**SERVER, "auth": {"keys_file": str(tmp_path / "keys.txt"), "roles": {"search": {}}}}
        await reloaded(app, file, changed, "refused")
        assert loads.names == ["default"]


async def test_what_is_switched_off_shows_for_the_policies_that_there_are(file: Path) -> None:
    async with served(file) as (_, app):
        app._switches.turn("", on=False)
        both = tree()
        both["policies"]["more"] = {**both["policies"]["default"], "match": [{"index": "x"}]}
        await reloaded(app, file, both)
        shown = app.metrics.registry.get_sample_value
        assert shown("sidecar_switched_off", {"policy": "more"}) == 1
        await reloaded(app, file, tree())
        assert shown("sidecar_switched_off", {"policy": "more"}) is None


async def test_what_needs_a_restart_is_said_and_the_rest_is_taken_over(file: Path) -> None:
    async with served(file) as (client, app):
        changed = tree(rank_window_size=3)
        changed["server"] = {**changed["server"], "max_queued_pairs": 99_999}
        changed["models"] = {"default": {}, "other": {"threads": 2}}
        with capture_logs() as logged:
            await reloaded(app, file, changed)
        assert (await client.search("docs", QUERY, BODY)).message.meta.candidates == 3
        assert app._settings.server.max_queued_pairs == 4096
        assert {model.threads for model in app._settings.models.values()} == {None}
        (entry,) = [one for one in logged if one["event"] == "configuration_applied"]
        assert entry["needs_restart"] == ["server.max_queued_pairs", "models.*.threads"]
        assert entry["load"] == ["other"], "and no model is loaded anew for a number that it does not get"


async def test_an_address_of_the_command_line_needs_no_restart(file: Path) -> None:
    def elsewhere(read: Settings) -> Settings:
        return read.model_copy(update={"server": read.server.model_copy(update={"address": "127.0.0.1:0"})})

    write(file, {**tree(), "server": {**SERVER, "address": "127.0.0.1:50051"}})
    connectors = {"main": MemoryConnector("main", {"docs": DOCUMENTS})}
    adjusted = elsewhere(configuration.load(file))
    app = App(adjusted, load=Loads(), connectors=connectors, file=file, adjust=elsewhere)
    await app.start()
    await app.ready()
    try:
        assert app._reloader
        with capture_logs() as logged:
            assert await app._reloader.reload()
    finally:
        await app.stop()
    (entry,) = [one for one in logged if one["event"] == "configuration_applied"]
    assert "needs_restart" not in entry


async def test_keys_and_roles_change_while_calls_are_served(file: Path, tmp_path: Path) -> None:
    key, kept = api_keys.made("app", "search")
    keys = tmp_path / "keys.txt"
    keys.write_text(kept.line)
    async with served(file) as (client, app):
        guarded = tree()
        guarded["server"] = {**guarded["server"], "auth": {"keys_file": str(keys), "roles": {"search": {}}}}
        await reloaded(app, file, guarded)
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await client.search("docs", QUERY, BODY)
        async with RerankClient(f"127.0.0.1:{app.port}", api_key=key) as known:
            assert (await known.search("docs", QUERY, BODY)).outcome == "RERANKED"
        await reloaded(app, file, tree(), "refused")
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await client.search("docs", QUERY, BODY)


async def test_a_hundred_rewrites_a_third_of_them_broken_cost_no_call(file: Path) -> None:
    """Each call is answered in its budget, by one whole configuration or another."""
    rng = random.Random(0)
    windows: set[int] = set()
    async with served(file) as (client, app):
        stopping = False

        async def calls() -> int:
            count = 0
            while not stopping:
                started = time.monotonic()
                page = await client.search("docs", QUERY, BODY)
                assert time.monotonic() - started < 2.0
                assert page.outcome == "RERANKED"
                windows.add(page.message.meta.candidates)
                count += 1
            return count

        callers = [asyncio.create_task(calls()) for _ in range(4)]
        broken: list[Any] = ["policies: {", tree(budget_ms="soon"), {"policies": {}}]
        for number in range(100):
            if number % 3 == 2:
                await reloaded(app, file, rng.choice(broken), "refused")
            else:
                await reloaded(app, file, tree(rank_window_size=2 + number % 4))
        stopping = True
        counts = await asyncio.gather(*callers)
    assert sum(counts) > 100
    assert windows == {2, 3, 4, 5}


async def test_what_was_refused_for_want_of_another_file_is_taken_over_when_that_has_come(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounted volumes change one after the other: the configuration first, the keys that it names later."""
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(reloading, "RETRY_AFTER_S", 0.05)
    _, kept = api_keys.made("app", "search")
    keys, guarded = tmp_path / "keys.txt", tree()
    guarded["server"] = {**guarded["server"], "auth": {"keys_file": str(keys), "roles": {"search": {}}}}
    with capture_logs() as logged:
        async with served(file) as (client, app):
            await reloaded(app, file, guarded, "refused")
            await asyncio.sleep(0.5)
            assert [one["event"] for one in logged].count("configuration_refused") == 1, "the same is said once"
            assert value(app, "reloads_total", outcome="refused") == 1
            keys.write_text(kept.line)
            await until(lambda: value(app, "current") == 1)
            with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                await client.search("docs", QUERY, BODY)


async def test_a_refused_file_is_tried_ever_less_often(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that names a large model with a fault must not have it loaded again and again."""
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(reloading, "RETRY_AFTER_S", 0.05)
    loads = Loads()
    async with served(file, loads) as (_, app):
        loads.broken.add("default")
        await reloaded(app, file, {**tree(), "models": {"default": {"max_length": 64}}}, "refused")
        await asyncio.sleep(1.0)
        assert 3 <= len(loads.names) - 1 <= 6, "after 0.05 s, then 0.1, 0.2, 0.4"


async def test_reranking_is_switched_off_at_once_by_an_admin_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {role: api_keys.made(role, role) for role in ("admin", "search", "others")}
    monkeypatch.setenv("KEYS", "\n".join(kept.line for _, kept in made.values()))
    roles: dict[str, Any] = {"admin": {"admin": True}, "search": {}, "others": {"admin": True, "policies": ["x-*"]}}
    auth = {"keys_env": "KEYS", "roles": roles}
    async with serve(configured=settings(server={**SERVER, "auth": auth})) as (_, sidecar):
        admin, other, third = (
            RerankClient(f"127.0.0.1:{sidecar.port}", api_key=made[role][0]) for role in ("admin", "search", "others")
        )
        async with admin, other, third:
            for policy in ("", "default"):
                with pytest.raises(grpc.aio.AioRpcError, match="policy 'default' is not for the role of 'others'"):
                    await third.policies.Switch(pb.SwitchRequest(policy=policy), metadata=third.metadata())
            with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                await other.policies.Switch(pb.SwitchRequest(), metadata=other.metadata())
            for policy in ("", "default"):
                off = await admin.policies.Switch(pb.SwitchRequest(policy=policy), metadata=admin.metadata())
                assert (off.all_off, list(off.off)) == (not policy, [policy] if policy else [])
                page = await other.search("docs", QUERY, BODY)
                assert (page.outcome, page.reason) == ("SKIPPED", "POLICY_DISABLED")
                assert "switched off by hand" in page.message.meta.detail
                listed = await other.policies.List(pb.ListRequest(), metadata=other.metadata())
                assert not listed.policies[0].enabled
                shown = sidecar.metrics.registry.get_sample_value
                assert shown("sidecar_switched_off", {"policy": "default"}) == 1
                await admin.policies.Switch(pb.SwitchRequest(policy=policy, on=True), metadata=admin.metadata())
                assert (await other.search("docs", QUERY, BODY)).outcome == "RERANKED"
            with pytest.raises(grpc.aio.AioRpcError, match="policy 'absent' is not configured"):
                await admin.policies.Switch(pb.SwitchRequest(policy="absent"), metadata=admin.metadata())


async def test_it_can_be_switched_off_while_no_other_call_is_let_in(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, kept = api_keys.made("admin", "admin")
    monkeypatch.setenv("KEYS", kept.line)
    full = {**SERVER, "max_concurrent_calls": 1, "auth": {"keys_env": "KEYS", "roles": {"admin": {"admin": True}}}}
    slow = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(delay_s=0.5, on="search")])
    async with (
        serve(configured=settings(server=full), connector=slow) as (_, sidecar),
        RerankClient(f"127.0.0.1:{sidecar.port}", api_key=key) as admin,
    ):
        under_way = asyncio.create_task(admin.search("docs", QUERY, BODY))
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError, match="1 calls are served at once"):
            await admin.search("docs", QUERY, BODY)
        assert (await admin.policies.Switch(pb.SwitchRequest(), metadata=admin.metadata())).all_off
        await under_way


async def test_the_switch_is_a_command_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    key, kept = api_keys.made("admin", "admin")
    monkeypatch.setenv("KEYS", kept.line)
    own = {**SERVER, "auth": {"keys_env": "KEYS", "roles": {"admin": {"admin": True}}}}
    async with serve(configured=settings(server=own)) as (_, sidecar):

        async def switch(*words: str) -> tuple[int, str]:
            target = ["--target", f"127.0.0.1:{sidecar.port}"]
            result = await asyncio.to_thread(CliRunner().invoke, command, ["switch", *words, *target])
            return result.exit_code, result.output.strip()

        monkeypatch.delenv("RERANK_SIDECAR_KEY", raising=False)
        assert "RERANK_SIDECAR_KEY is not set" in (await switch("off"))[1]
        monkeypatch.setenv("RERANK_SIDECAR_KEY", key)
        async with RerankClient(f"127.0.0.1:{sidecar.port}", api_key=key) as client:
            assert await switch("off") == (0, "switched off: all policies")
            assert (await client.search("docs", QUERY, BODY)).reason == "POLICY_DISABLED"
            assert await switch("on") == (0, "switched off: none")
            assert await switch("off", "default") == (0, "switched off: default")
            assert await switch("on", "default") == (0, "switched off: none")
            assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
        assert await switch("off", "absent") == (2, "INVALID_ARGUMENT: policy 'absent' is not configured")
        assert (await switch("of"))[0] == 2


async def test_one_line_of_the_file_switches_all_policies_off(file: Path) -> None:
    async with served(file) as (client, app):
        await reloaded(app, file, {"enabled": False, **tree()})
        page = await client.search("docs", QUERY, BODY)
        assert (page.outcome, page.reason) == ("SKIPPED", "POLICY_DISABLED")
        listed = await client.policies.List(pb.ListRequest())
        assert not listed.policies[0].enabled
        await reloaded(app, file, tree())
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_without_auth_nobody_may_switch(serve: Serve) -> None:
    async with serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            await client.policies.Switch(pb.SwitchRequest())


def test_what_a_change_takes_is_told_before(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    changed = tree(rank_window_size=7, match=[{"index": "news"}])
    changed["models"] = {"default": {"max_length": 64, "threads": 3}}
    changed["server"]["address"] = "127.0.0.1:7"
    write(old, tree())
    write(new, changed)
    result = CliRunner().invoke(command, ["diff", str(old), str(new), "--index", "docs"])
    assert result.exit_code == 0, result.output
    for line in (
        "~ policies.default.rank_window_size: 100 -> 7",
        "~ models.default.max_length: None -> 64",
        "loads model: default",
        "needs a restart: server.address",
        "needs a restart: models.*.threads",
        "-> not reranked",
    ):
        assert line in result.output
    same = CliRunner().invoke(command, ["diff", str(old), str(old)])
    assert same.output == "nothing differs\n"


def test_what_changes_is_told_by_pattern_and_for_the_connector_that_a_policy_is_of(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    before, after = tree(match=[{"index": "articles-*", "connector": "main"}]), tree(match=[{"index": "news-*"}])
    write(old, before)
    write(new, after)
    told = CliRunner().invoke(command, ["diff", str(old), str(new)]).output
    assert any(line.startswith("index articles-*: default (") and "not reranked" in line for line in told.splitlines())
    assert any(line.startswith("index news-*: not reranked -> default (") for line in told.splitlines())


def test_a_secret_of_a_file_that_was_rotated_makes_its_connector_anew(tmp_path: Path) -> None:
    """The configuration says the same; SIGHUP has it read again."""
    secret, file = tmp_path / "password", tmp_path / "sidecar.yaml"
    engine = {"type": "opensearch", "hosts": ["http://x:9200"], "bearer_token": {"file": "password"}}
    secret.write_text("old")
    write(file, {**tree(), "connectors": {"main": engine}})
    before, same = configuration.load(file), configuration.load(file)
    assert Changes.of(before, same).build == ()
    secret.write_text("new!")
    after = configuration.load(file)
    assert Changes.of(before, after).build == ("main",)
    assert list(differences(before, after)) == ["~ connectors.main: a secret"]


def test_a_secret_that_differs_is_not_shown() -> None:
    def one(password: str) -> Settings:
        engine = {
            "type": "opensearch",
            "hosts": ["http://x:9200"],
            "basic_auth": {"username": "u", "password": password},
        }
        return settings(connectors={"main": engine})

    lines = list(differences(one("old-secret"), one("new-secret")))
    assert lines == ["~ connectors.main: a secret"]
    assert Changes.of(one("a"), one("b")).build == ("main",)
    assert Changes.of(one("a"), one("a")) == Changes((), (), (), (), ())


async def test_a_stop_during_a_reload_closes_what_was_built_for_it(tmp_path: Path) -> None:
    file, closed, hold = tmp_path / "sidecar.yaml", [], threading.Event()
    write(file, tree())

    class Closing(MemoryConnector):
        async def close(self) -> None:
            closed.append(self.name)
            await super().close()

    def slow(name: str, model: ModelSettings) -> LoadedModel:
        if name == "second":
            hold.wait(PATIENCE_S)
        return Loads()(name, model)

    given = {"main": Closing("main", {"docs": DOCUMENTS})}
    app = App(configuration.load(file), load=slow, connectors=given, file=file)
    await app.start()
    await app.ready()
    given["other"] = Closing("other", {"docs": DOCUMENTS})
    changed = tree(model="second")
    changed["connectors"]["other"] = {"type": "memory", "indices": {"docs": "docs.jsonl"}}
    changed["models"] = {"second": {}}
    write(file, changed)
    reloading = app._spawn(app.apply(configuration.load(file)))
    await asyncio.sleep(0.1)
    assert not reloading.done()
    try:
        await app.stop()
    finally:
        hold.set()
    assert sorted(closed) == ["main", "other"]


async def test_a_task_that_does_not_end_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    write(file, tree())
    app = App(configuration.load(file), load=Loads(), connectors={"main": MemoryConnector("main", {"docs": DOCUMENTS})})
    await app.start()
    await app.ready()
    over = asyncio.Event()

    async def stubborn() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    task = app._spawn(stubborn())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(app.stop())
    try:
        await asyncio.wait([stopping], timeout=ENDS_WITHIN_S + 5)
        assert stopping.done()
        assert not task.done()
    finally:
        over.set()
        await asyncio.gather(stopping, task)
