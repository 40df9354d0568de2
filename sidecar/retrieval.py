"""The first half of a search: from a call to the engine's hits and the plan they were asked under."""

import asyncio
from dataclasses import replace

from connectors.base import Connector
from connectors.errors import ConnectorError, EngineUnavailable, InvalidQuery
from connectors.hits import Hits
from connectors.refusals import CIRCUIT_BROKEN
from sidecar import window
from sidecar.calls import Clock, RerankCall, SearchCall
from sidecar.deadline import Deadline
from sidecar.errors import DeadlinePassed
from sidecar.gate import Access, Gate, Prepared
from sidecar.json_text import check_depth
from sidecar.names import Known, Names

_BROKEN = 500

_RESOLVED_AT_ONCE = 4
"""Index names of one Rerank call that are resolved concurrently; other calls ask the engine as well."""
_MANY_MEMBERS = 1000
"""With more indices than this, a policy is worked out in a thread: it takes some 4 us for each."""


class Retrieval:
    """Asks the engine what index names stand for, and for the hits."""

    def __init__(self, gate: Gate, names: Names, *, reserve_s: float) -> None:
        self._gate = gate
        self._names = names
        self._reserve_s = reserve_s

    async def search(self, call: SearchCall) -> tuple[Prepared, Hits]:
        """The engine's hits, and the prepared search (with its plan) that found them.

        Raises:
            RequestError: the call is not valid or not allowed.
            ConnectorError: the search failed.
        """
        connector = self._gate.for_search(call)
        deadline = self._search_deadline(call.clock, connector)
        prepared = await self._prepare(call, connector, deadline)
        prepared, hits = await self._ask(prepared, deadline)
        known = None if "pit" in prepared.call.body else prepared.known  # a point in time keeps its own indices
        if known is None or all(known.knows(hit.ref.index) for hit in hits.hits):
            return prepared, hits
        self._names.forget(connector, call.index, known)
        return await self._ask_again(prepared, hits, deadline)

    async def prepare(self, call: SearchCall) -> Prepared:
        """Everything decided about a search before it is sent; raises as :meth:`search`."""
        connector = self._gate.for_search(call)
        return await self._prepare(call, connector, self._search_deadline(call.clock, connector))

    async def access(self, call: RerankCall) -> Access:
        """The plan, the connector and the closed indices of a Rerank call.

        Raises:
            RequestError: the call is not valid or not allowed.
        """
        name, connector = self._gate.for_rerank(call)
        if connector is None:
            return self._gate.access(call, self._gate.plan_of(call, name, None), name, None, {})
        deadline = self._deadline(call.clock, connector)
        known = await self._known(connector, call, deadline) if self._gate.must_ask(connector, call) else None
        planned = self._gate.plan_of(call, name, known)
        named = self._gate.to_be_resolved(connector, call)
        found: dict[str, Known] = {}
        for start in range(0, len(named), _RESOLVED_AT_ONCE):
            some = named[start : start + _RESOLVED_AT_ONCE]
            timeout_s = min(self._gate.names_timeout_s(call), deadline.remaining_s())
            asked = (self._names.members(connector, index, timeout_s=timeout_s, fresh=True) for index in some)
            found |= zip(some, await asyncio.gather(*asked), strict=True)
        return self._gate.access(call, planned, name, connector, found)

    async def _prepare(self, call: SearchCall, connector: Connector, deadline: Deadline) -> Prepared:
        if call.template is not None:
            body = await connector.render(call.template, timeout_s=deadline.remaining_s())
            check_depth(body, "template")
            call = replace(call, body=body, template=None)
        known = await self._known(connector, call, deadline) if self._gate.must_ask(connector, call) else None
        return self._gate.prepare(call, connector, known, deadline.remaining_s())

    async def _known(self, connector: Connector, call: SearchCall | RerankCall, deadline: Deadline) -> Known:
        timeout_s = min(self._gate.names_timeout_s(call), deadline.remaining_s())
        known = await self._names.members(connector, call.index, timeout_s=timeout_s)
        if len(known.members) > _MANY_MEMBERS and known.resolution is None:
            await asyncio.to_thread(self._gate.work_out, connector.name, call.index, known)
        return known

    async def _ask(self, prepared: Prepared, deadline: Deadline) -> tuple[Prepared, Hits]:
        """Search; if the engine refuses the widened request, send the app's own and skip reranking."""
        request = prepared.request
        try:
            found = await prepared.connector.search(
                request.index, request.body, timeout_s=deadline.remaining_s(), params=request.params
            )
            refused = window.is_refused(found.raw)
        except (InvalidQuery, EngineUnavailable) as error:
            if not request.widened or not _is_refusal(error):
                raise
            refused = True
        if not request.widened or not refused:
            return prepared, found
        return await self._ask(self._gate.as_asked(prepared, deadline.remaining_s()), deadline)

    async def _ask_again(self, prepared: Prepared, hits: Hits, deadline: Deadline) -> tuple[Prepared, Hits]:
        """Search anew under the policy of the indices that the expression, as hits show, stands for by now.

        Return the first answer if the plan is the same, or if asking again raises a ConnectorError.
        """
        try:
            again = await self._prepare(prepared.call, prepared.connector, deadline)
            return (prepared, hits) if again.plan == prepared.plan else await self._ask(again, deadline)
        except ConnectorError:
            return prepared, hits

    def _deadline(self, clock: Clock, connector: Connector) -> Deadline:
        """When the engine must have answered: perhaps after the budget, but before the client's own deadline."""
        patience_s = None if clock.client_time_left_s is None else clock.client_time_left_s - self._reserve_s
        return Deadline.earliest(clock.received_at, self._gate.search_timeout_s(connector), patience_s)

    def _search_deadline(self, clock: Clock, connector: Connector) -> Deadline:
        deadline = self._deadline(clock, connector)
        if deadline.expired:
            raise DeadlinePassed("the client's deadline leaves no time to search")
        return deadline


def _is_refusal(error: ConnectorError) -> bool:
    """Whether a smaller search may succeed: this one was invalid, a 500, or stopped by the engine's memory breaker.

    False if the engine asks to retry later.
    """
    if isinstance(error, EngineUnavailable) and error.retry_after_s is not None:
        return False
    return isinstance(error, InvalidQuery) or error.status == _BROKEN or error.error_type == CIRCUIT_BROKEN
