"""The composition root: builds every part, starts them in order, stops them in order."""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from connectors.base import Connector
from sidecar import closing, extras, greeting, heap, languages, ports
from sidecar.advice import tight_budgets, without_effect
from sidecar.authentication import Authentication
from sidecar.callers import nothing_revoked
from sidecar.changes import Changes, taken_over
from sidecar.extras import StartError
from sidecar.file_stamp import Stamp, stamp_of
from sidecar.gate import Gate
from sidecar.health import Health
from sidecar.interceptors import Guard
from sidecar.live import Current, Live, Switches
from sidecar.loaded import LoadedModel, Models
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.names import Names
from sidecar.orders import Orders
from sidecar.pipeline import Pipeline
from sidecar.policy import languages_of
from sidecar.reloading import Refused, Reloader
from sidecar.retrieval import Retrieval
from sidecar.scheduler import Scheduler
from sidecar.service import PolicyService, RerankService
from sidecar.settings import ModelSettings, Settings
from sidecar.unread import Unread
from sidecar.v1 import rerank_pb2 as pb
from sidecar.v1 import rerank_pb2_grpc as pb_grpc
from sidecar.watch import Watch
from sidecar.watched_file import LOOK_EVERY_S
from sidecar.wiring import WiringError, connectors_of

LoadModel = Callable[[str, ModelSettings], LoadedModel]
_HEALTH_EVERY_S = 0.5
_YOUNG_OBJECTS = 10_000
"""New objects after which the garbage collector looks for cycles. With the usual 700 it runs several times a call and
finds about twenty small cycles, at 3 % of the time around a forward pass. Nothing large waits for it."""
_SWITCH_INTERVAL_S = 0.0005
"""How long another thread may hold the interpreter while the device's thread waits for it, as it does after each
operation of a forward pass. Measured on two cores of an AMD EPYC, 30 pairs of 85 tokens beside a thread that parses
JSON without a pause: 2.95 s with Python's own 5 ms, 0.82 s with 1 ms, 0.55 s with 0.2 ms; 0.18 s alone."""


def load_model(name: str, settings: ModelSettings) -> LoadedModel:
    """Load a model with torch, which is imported only here, after the port has been opened."""
    from sidecar.scoring.loader import load

    return load(name, settings)


class App:
    """One sidecar. ``load``, ``connectors`` and the scheduler's ``clock`` can be replaced for tests."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: LoadModel = load_model,
        connectors: Mapping[str, Connector] | None = None,
        clock: Callable[[], float] = time.monotonic,
        file: Path | None = None,
        seen: Stamp = None,
        adjust: Callable[[Settings], Settings] = lambda read: read,
    ) -> None:
        """``file`` is reloaded when it changes, each time through ``adjust``; None: never. ``seen`` is its stamp from
        before ``settings`` were read (None: as it is now). Raises StartError or WiringError."""
        self.metrics = Metrics()
        weights = {name: model.device_weight for name, model in settings.loaded_models.items()}
        self.scheduler = Scheduler(settings.server.max_queued_pairs, self.metrics, clock, weights)
        self.models = Models(list(settings.loaded_models), self.metrics)
        self.port = 0
        self._spans = extras.spans(settings.server.tracing)
        self._load = load
        self._given = connectors
        self._switches = Switches(self.metrics.switched_off)
        self._current = Current(self._live(settings, connectors_of(settings, self.metrics, given=connectors)))
        self._switches.show(settings.policies)
        self._watch = Watch(settings.policies, self.metrics)
        self._reloader = self._build_reloader(file, seen, adjust) if file else None
        self._health = Health()
        self._server = self._build_server()
        self._metrics_server: WSGIServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: list[asyncio.Task[None]] = []
        self._waiting: dict[str, asyncio.Task[None]] = {}
        """By connector: tasks that wait for an engine that did not answer when it was greeted."""

    @property
    def _settings(self) -> Settings:
        return self._current.live.settings

    def _live(
        self, settings: Settings, connectors: Mapping[str, Connector], authentication: Authentication | None = None
    ) -> Live:
        """Build a :class:`Live`, with ``authentication`` or a new one (None); raises StartError."""
        names = Names(settings.server.names_ttl_s)
        gate = Gate(settings, connectors, self._switches.is_off)
        retrieval = Retrieval(gate, names, reserve_s=settings.server.reserve_ms / 1e3)
        return Live(
            settings,
            connectors,
            names,
            retrieval,
            authentication or extras.authentication(settings.server.auth, self.metrics),
        )

    async def apply(self, settings: Settings) -> None:
        """Switch to a new configuration: new models warm up first, then everything is exchanged at once; what is no
        longer used is closed after the last call that may still use it.

        Raises:
            Refused: a model, connector or key cannot be used, or `server.auth` would be removed; nothing has changed.
        """
        old = self._current.live
        if old.settings.server.auth and not settings.server.auth:
            raise Refused("server.auth: to serve whoever comes from now on needs a restart")
        changes, new = Changes.of(old.settings, settings), taken_over(old.settings, settings)
        live, fresh = await self._built(old, new, changes)
        try:
            models = [await self._loaded_anew(name, new.loaded_models[name]) for name in changes.load]
            if any(languages_of(new, policy) for policy in new.policies.values()):
                await asyncio.to_thread(languages.prepare)
        except BaseException:  # the sidecar may also be stopped meanwhile
            await closing.close(fresh.values())
            raise
        self._current.live = live
        for model in models:
            self.models.put(model)
            self.scheduler.forget(model.name, instead=model)
        dropped = {name: self.models.drop(name) for name in changes.drop}
        for name in dropped:
            self.scheduler.forget(name)
        self.scheduler.weigh({name: model.device_weight for name, model in new.loaded_models.items()})
        self._watch.follow(new.policies)
        self._switches.show(new.policies, gone=old.settings.policies)
        log.info("configuration_applied", **{key: list(names) for key, names in vars(changes).items() if names})
        for name in [*changes.close, *fresh]:
            if waiting := self._waiting.pop(name, None):
                waiting.cancel()
        for name in fresh:
            self._spawn(self._greet(fresh[name]))
        self._spawn(self._close_later(old, changes, dropped))
        self._spawn(self._try_failed(set(new.loaded_models) - set(changes.load)))

    async def _built(self, old: Live, new: Settings, changes: Changes) -> tuple[Live, Mapping[str, Connector]]:
        """Return the new :class:`Live` and those of its connectors that were built for it; raises Refused."""
        fresh: Mapping[str, Connector] = {}
        try:
            fresh = connectors_of(new, self.metrics, only=changes.build, given=self._given)
            kept = {name: one for name, one in old.connectors.items() if name not in changes.close}
            known = old.authentication if new.server.auth == old.settings.server.auth else None
            return self._live(new, {**kept, **fresh}, known), fresh
        except (WiringError, StartError) as error:
            await closing.close(fresh.values())
            raise Refused(str(error)) from error

    async def _loaded_anew(self, name: str, settings: ModelSettings) -> LoadedModel:
        """Load a model outside of the device's thread, which the serving models need; raises Refused."""
        try:
            return await asyncio.to_thread(self._load, name, settings)
        except Exception as error:
            raise Refused(f"models.{name}: {error}") from error

    async def _try_failed(self, names: Iterable[str]) -> None:
        """Load again the models that failed to load: their checkpoints may have been repaired meanwhile."""
        wanted = self._settings.loaded_models
        for name in sorted(filter(self.models.has_failed, names)):
            try:
                model = await self._loaded_anew(name, wanted[name])
            except Refused as error:
                log.error("model_failed", model=name, error=str(error))
                continue
            if self._settings.loaded_models.get(name) == wanted[name] and self.models.has_failed(name):
                self.models.put(model)
                self.scheduler.forget(name, instead=model)
                log.info("model_ready", model=name, version=model.scorer.version)

    async def _close_later(self, old: Live, changes: Changes, dropped: Mapping[str, LoadedModel | None]) -> None:
        try:
            await asyncio.sleep(old.settings.longest_call_s + old.settings.server.shutdown_grace_s)
        finally:  # also if the sidecar is stopped meanwhile
            await old.names.close()
            await closing.close(old.connectors[name] for name in changes.close)
        for name, model in dropped.items():
            self.models.forget(name, model)
        if changes.load:
            await asyncio.to_thread(heap.trim)

    def _build_reloader(self, file: Path, seen: Stamp, adjust: Callable[[Settings], Settings]) -> Reloader:
        return Reloader(file, seen or stamp_of(file), lambda read: self.apply(adjust(read)), self.metrics)

    def _build_server(self) -> grpc.aio.Server:
        settings = self._settings.server
        orders = Orders(settings.order_cache_mib * 2**20)
        self._pipeline = Pipeline(
            lambda: self._current.live.retrieval,
            self.models,
            self.scheduler,
            self.metrics,
            orders,
            reserve_s=settings.reserve_ms / 1e3,
            score_cache_bytes=settings.score_cache_mib * 2**20,
        )
        limit = settings.max_message_mib * 2**20
        revoked = extras.revoked(settings.tls, self.metrics)
        self._looks: list[Callable[[], None]] = [revoked.look] if revoked else []
        unread = Unread(settings.max_unread_mib * 2**20, self.metrics)
        server = grpc.aio.server(
            interceptors=[
                Guard(
                    settings.max_concurrent_calls,
                    unread,
                    self.metrics,
                    lambda: self._current.live.authentication,
                    revoked.check if revoked else nothing_revoked,
                    self._spans,
                )
            ],
            options=ports.channel_options(limit, settings.max_concurrent_calls),
        )
        watch = self._watch
        pb_grpc.add_RerankServiceServicer_to_server(
            RerankService(self._pipeline, self.metrics, watch, unread, limit), server
        )
        pb_grpc.add_PolicyServiceServicer_to_server(
            PolicyService(self._current, self._switches, self.models, watch), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, server)
        own = [service.full_name for service in pb.DESCRIPTOR.services_by_name.values()]
        standard = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        reflection.enable_server_reflection([*own, *standard], server)
        return server

    async def start(self) -> None:
        """Open the ports and begin to load the models, without waiting for them; :meth:`ready` waits.

        Raises:
            StartError: a port is taken, or an address or a certificate cannot be used.
        """
        settings = self._settings.server
        if settings.metrics_address:
            self._metrics_server = ports.serve_metrics(settings.metrics_address, self.metrics)
        self.port, look = ports.listen(self._server, settings, self.metrics)
        self._looks += [look] if look else []
        await self._health.starting()
        await self._server.start()
        log.info(
            "listening",
            address=settings.address,
            port=self.port,
            metrics=settings.metrics_address,
            tls=settings.tls is not None,
        )
        self._spawn(self._look_at_files())
        self._starting = [self._spawn(self._load_models())]
        for connector in self._current.live.connectors.values():
            self._starting.append(self._spawn(self._greet(connector)))

    async def _look_at_files(self) -> None:
        """Re-read keys, certificates and revocation lists when they change, off the event loop, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for look in (*self._looks, self._current.live.authentication.look):
                try:
                    await asyncio.to_thread(look)
                except Exception as error:  # noqa: BLE001 - what was valid stays valid; the next look tries again
                    log.exception("file_not_looked_at", error=type(error).__name__)

    async def ready(self) -> None:
        """Wait until every model is loaded or has failed, and every engine has been greeted."""
        await asyncio.gather(*self._starting)

    async def stop(self) -> None:
        """Take no new calls, let those in flight finish within `shutdown_grace_s`, then close everything."""
        await self._health.stopping()
        await self._server.stop(self._settings.server.shutdown_grace_s)
        await closing.end(self._tasks)
        self.scheduler.stop()
        self._pipeline.close()
        await self._current.live.names.close()
        await closing.close(self._current.live.connectors.values())
        if self._metrics_server:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()
        await asyncio.to_thread(self._spans.close)
        log.info("stopped")

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

        ``on_ready`` is called once every model is loaded or has failed and every engine has been greeted.
        """
        stopping = asyncio.Event()

        def on_signal() -> None:
            if stopping.is_set():
                os._exit(1)
            stopping.set()

        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        if self._reloader:
            loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        await self.start()
        self._spawn(self._settle(on_ready))
        await stopping.wait()
        log.info("stopping", grace_s=self._settings.server.shutdown_grace_s)
        await self.stop()

    async def _settle(self, on_ready: Callable[[], None]) -> None:
        """Once ready, return what warming up has left, exempt long-lived objects from garbage collection and begin to
        watch the file. With torch and transformers a full collection takes 0.13 s, and every call waits for it."""
        await self.ready()
        gc.collect()
        await asyncio.to_thread(heap.trim)
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS)
        if self._reloader:
            self._spawn(self._reloader.watch())
        on_ready()

    async def _load_models(self) -> None:
        """Load all models, then put all into use: loading runs in the device's thread and would hold up scoring."""
        settings = self._settings
        for sentence in without_effect(settings):
            log.warning("policy_without_effect", advice=sentence)
        if any(languages_of(settings, policy) for policy in settings.policies.values()):
            await asyncio.to_thread(languages.prepare)
        loaded = [model for name, one in settings.loaded_models.items() if (model := await self._load_one(name, one))]
        for model in loaded:
            self.models.put(model)
            log.info("model_ready", model=model.name, version=model.scorer.version)
            for advice in tight_budgets(self._settings, model):
                log.warning("budget_too_small_for_the_window", model=model.name, **asdict(advice))
        await self._health.started(reranking=self._can_rerank)
        self._spawn(self._watch_health())

    @property
    def _can_rerank(self) -> bool:
        rerank_with = {policy.model for policy in self._settings.policies.values()}
        stalled = self.scheduler.stalled or self._pipeline.stalled
        broken = stalled or self.scheduler.lost or not rerank_with.isdisjoint(self.scheduler.failing)
        return self.models.all_ready and self.scheduler.alive and not broken

    async def _load_one(self, name: str, settings: ModelSettings) -> LoadedModel | None:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.scheduler.device, self._load, name, settings)
        except Exception as error:  # noqa: BLE001 - a model that fails must not take search down
            self.models.fail(name, "it could not be loaded; the log of the sidecar says why")
            log.error("model_failed", model=name, error=str(error))
            return None

    async def _watch_health(self) -> None:
        """Publish the health of reranking whenever it changes, since a stuck device raises no error. Also retries
        failing models: an unhealthy sidecar may get no calls that would."""
        told = self._can_rerank
        while True:
            await asyncio.sleep(_HEALTH_EVERY_S)
            self.scheduler.try_failing()
            if self._can_rerank != told:
                told = not told
                log.log(logging.INFO if told else logging.ERROR, "reranking_health", serving=told)
                await self._health.started(reranking=told)

    async def _greet(self, connector: Connector) -> None:
        """Log which engine answers; wait in the background for one that does not."""
        if problem := await greeting.greet(connector):
            self._waiting[connector.name] = self._spawn(greeting.wait_for(connector, problem))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
