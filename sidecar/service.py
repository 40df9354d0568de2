"""The contract's two services: parse the request, run the pipeline, reply."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from sidecar import parsing, policy, replies
from sidecar.callers import calling
from sidecar.calls import Answer, Clock
from sidecar.effect import WINDOW_S, Effect
from sidecar.errors import InvalidRequest, NotAllowed, ReplyTooLarge
from sidecar.gate import fits
from sidecar.interceptors import request_id
from sidecar.live import Current, Switches
from sidecar.loaded import Models
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.pipeline import Pipeline
from sidecar.resolution import UnknownPolicy
from sidecar.settings import Settings
from sidecar.tracing import spans
from sidecar.types import Outcome, Reason
from sidecar.unread import Unread, reply_bytes
from sidecar.v1 import rerank_pb2 as pb
from sidecar.v1 import rerank_pb2_grpc as pb_grpc
from sidecar.watch import Watch

_FRAME_BYTES = 64
"""Bytes that a reply needs beside its own, as a field of another message."""


def _clock(context: Any) -> Clock:
    return Clock(time.monotonic(), context.time_remaining())


def _user(context: Any) -> str | None:
    """Return the end user's own credentials for the engine, if the call carries any.

    Only connectors that forward them use them. They are in `x-engine-authorization`; else in `authorization`, unless
    that identified the caller to the sidecar.

    Raises:
        InvalidRequest: the call carries one of these more than once.
    """
    names = ("x-engine-authorization",) if calling.get().name else ("x-engine-authorization", "authorization")
    metadata = list(context.invocation_metadata() or ())
    for name in names:
        found = [value for key, value in metadata if key == name]
        if len(found) > 1:
            raise InvalidRequest(f"the call has more than one metadata `{name}`; send one")
        if found:
            return found[0] if isinstance(found[0], str) else None
    return None


class RerankService(pb_grpc.RerankServiceServicer):
    """Search, Rerank and SearchProgressive."""

    def __init__(
        self, pipeline: Pipeline, metrics: Metrics, watch: Watch, unread: Unread, max_reply_bytes: int
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._watch = watch
        self._unread = unread
        self._max_reply_bytes = max_reply_bytes

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        """See the contract."""
        answer = await self._pipeline.search(
            parsing.search_call(request, _clock(context), _user(context), calling.get())
        )
        reply = replies.search_response(answer, request_id.get(), return_passages=request.options.return_passages)
        self._check_room(reply, context)
        self._report("Search", answer)
        return reply

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """See the contract."""
        answer = await self._pipeline.rerank(
            parsing.rerank_call(request, _clock(context), _user(context), calling.get())
        )
        reply = replies.rerank_response(answer, request_id.get(), return_passages=request.options.return_passages)
        self._check_room(reply, context)
        self._report("Rerank", answer)
        return reply

    async def SearchProgressive(
        self, request: pb.SearchProgressiveRequest, context: Any
    ) -> AsyncIterator[pb.SearchProgressiveResponse]:
        """See the contract."""
        passages = request.search.options.return_passages
        call = parsing.search_call(request.search, _clock(context), _user(context), calling.get())
        retrieved = await self._pipeline.retrieve(call)
        original = replies.search_response(retrieved.original(), request_id.get(), return_passages=passages)
        self._check_room(original, context)
        yield pb.SearchProgressiveResponse(stage=pb.STAGE_ORIGINAL, search=original)
        answer = await self._pipeline.finish(retrieved)
        final = replies.search_response(answer, request_id.get(), return_passages=passages)
        self._check_room(final, context)
        yield pb.SearchProgressiveResponse(stage=pb.STAGE_FINAL, search=final)
        self._report("SearchProgressive", answer)  # a caller who leaves before this is counted as cancelled

    def _check_room(self, reply: Message, context: Any) -> None:
        """Refuse a reply over the size limit, or to a caller who leaves answers unread.

        gRPC itself would refuse a reply that is too large without a reason and a request id.
        """
        self._unread.check(context.peer())
        reply_bytes.set(reply.ByteSize())
        size = reply_bytes.get() + _FRAME_BYTES
        if size > self._max_reply_bytes:
            raise ReplyTooLarge(
                f"the reply has {size} bytes, `server.max_message_mib` allows {self._max_reply_bytes}: "
                "ask for fewer hits, or filter `_source`"
            )

    def _report(self, method: str, answer: Answer) -> None:
        """Describe the outcome in the call's span; count and log the call once the reply is on its way."""
        ranking = answer.ranking
        spans().describe(
            {
                "sidecar.request_id": request_id.get(),
                "sidecar.policy": answer.plan.policy if answer.plan else "",
                "sidecar.outcome": ranking.outcome.name,
                "sidecar.reason": ranking.reason.name,
                "sidecar.candidates": len(ranking.order),
                "sidecar.scored": ranking.scored,
            }
        )
        asyncio.get_running_loop().call_soon(self._count, method, answer)

    def _count(self, method: str, answer: Answer) -> None:
        name, ranking = answer.plan.policy if answer.plan else "", answer.ranking
        self._metrics.requests.labels(method, name, ranking.outcome.name, ranking.reason.name).inc()
        effect = Effect.of(ranking, ranking.truncated_ratio)
        self._watch.saw(name, effect)
        if answer.plan and ranking.outcome is not Outcome.SKIPPED:
            used = answer.timings.total_ms / answer.plan.budget_ms
            self._metrics.observe_reply(name, used, constant=effect.constant)
        log.info(
            "call",
            policy=name,
            outcome=ranking.outcome.name,
            reason=ranking.reason.name,
            candidates=len(ranking.order),
            scored=ranking.scored,
            total_ms=round(answer.timings.total_ms, 2),
        )


class PolicyService(pb_grpc.PolicyServiceServicer):
    """List, Explain, Status and Switch."""

    def __init__(self, current: Current, switches: Switches, models: Models, watch: Watch) -> None:
        self._current = current
        self._switches = switches
        self._watch = watch
        self._models = models

    @property
    def _settings(self) -> Settings:
        return self._current.live.settings

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:  # noqa: ARG002
        """See the contract."""
        role, settings = calling.get().role, self._settings
        default = settings.default_policy or ""
        return pb.ListResponse(
            policies=[self._policy(name, settings) for name in settings.policies if fits(role.policies, name)],
            default_policy=default if fits(role.policies, default) else "",
            connectors=[name for name in settings.connectors if fits(role.connectors, name)],
        )

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """See the contract."""
        live = self._current.live  # used throughout, whatever a reload does meanwhile
        prepared = await live.retrieval.prepare(
            parsing.explained_call(request, _clock(context), _user(context), calling.get())
        )
        plan, skip = prepared.plan, prepared.skip
        return pb.ExplainResponse(
            policy=self._policy(plan.policy, live.settings) if plan else None,
            why=prepared.why,
            rank_window_size=plan.rank_window_size if plan else 0,
            budget_ms=plan.budget_ms if plan else 0,
            engine_body=replies.to_json(prepared.request.body),
            changes=prepared.request.changes,
            skip_reason=pb.Reason.ValueType(skip[0] if skip else Reason.UNSPECIFIED),
        )

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:  # noqa: ARG002
        """See the contract."""
        policies = [name for name in self._settings.policies if fits(calling.get().role.policies, name)]
        if request.policy and request.policy not in policies:
            raise UnknownPolicy(f"policy {request.policy!r} is not configured; allowed: {', '.join(policies)}")
        names = [request.policy] if request.policy else list(policies)
        found = [replies.policy_status(name, self._watch.summary(name)) for name in names]
        return pb.StatusResponse(policies=found, window_s=WINDOW_S)

    async def Switch(self, request: pb.SwitchRequest, context: Any) -> pb.SwitchResponse:  # noqa: ARG002
        """See the contract."""
        if not calling.get().role.admin:
            raise NotAllowed("Switch needs a role with `admin: true`, in a sidecar with `server.auth`")
        if request.policy and request.policy not in self._settings.policies:
            raise UnknownPolicy(f"policy {request.policy!r} is not configured")
        names = [request.policy] if request.policy else list(self._settings.policies)
        if others := [name for name in names if not fits(calling.get().role.policies, name)]:
            raise NotAllowed(f"policy {others[0]!r} is not for the role of {calling.get().name!r}")
        self._switches.turn(request.policy, on=request.on)
        self._switches.show(self._settings.policies)
        log.warning("reranking_switched", policy=request.policy or "all", on=request.on)
        return pb.SwitchResponse(all_off=self._switches.all_off, off=sorted(self._switches.off))

    def _policy(self, name: str, settings: Settings) -> pb.Policy:
        chosen = settings.policies[name]
        return pb.Policy(
            name=name,
            version=policy.version_of(settings, name),
            match=[f"{one.connector}:{one.index}" if one.connector else one.index for one in chosen.match],
            enabled=settings.enabled and chosen.is_on and not self._switches.is_off(name),
            model=chosen.model,
            model_ready=self._models.is_ready(chosen.model),
            settings=chosen.model_dump_json(),
        )
