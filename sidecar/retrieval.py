"""The first half of a search: from a call to the engine's hits, and all that was decided of it on the way."""

from dataclasses import replace

from connectors.base import Connector
from connectors.errors import ConnectorError, InvalidQuery
from connectors.hits import Hits
from sidecar import window
from sidecar.calls import Clock, RerankCall, SearchCall
from sidecar.deadline import Deadline
from sidecar.errors import DeadlinePassed
from sidecar.gate import Gate, Prepared, Reach
from sidecar.names import Known, Names

_NAMES_SHARE = 0.5
"""Share of the time left that asking for names may take: a search must follow it."""


class Retrieval:
    """Asks the engine: for what is to be known before a search, and for the hits."""

    def __init__(self, gate: Gate, names: Names, *, reserve_s: float) -> None:
        self._gate = gate
        self._names = names
        self._reserve_s = reserve_s

    async def search(self, call: SearchCall) -> tuple[Prepared, Hits]:
        """The engine's answer, and under which plan it was asked.

        Raises:
            RequestError: the call is not valid or not allowed.
            ConnectorError: the search failed.
        """
        connector = self._gate.for_search(call)
        deadline = self._deadline(call.clock, connector)
        prepared = await self._prepare(call, connector, deadline)
        prepared, hits = await self._ask(prepared, deadline)
        known = prepared.known
        strangers = {hit.ref.index for hit in hits.hits if known and not known.knows(hit.ref.index)}
        for index in strangers:
            self._names.forget(connector, call.index, known, index)
        return await self._ask_again(prepared, hits, deadline) if strangers else (prepared, hits)

    async def prepare(self, call: SearchCall) -> Prepared:
        """All that is decided of a search before it is sent. Raises as :meth:`search`."""
        connector = self._gate.for_search(call)
        return await self._prepare(call, connector, self._deadline(call.clock, connector))

    async def reach(self, call: RerankCall) -> Reach:
        """Which policy and which documents a Rerank call may use.

        Raises:
            RequestError: the call is not valid or not allowed.
        """
        name, connector = self._gate.for_rerank(call)
        known = None
        if connector and (self._gate.must_ask(connector, call) or self._gate.hides_members(connector, call)):
            known = await self._known(connector, call.index, self._deadline(call.clock, connector))
        return self._gate.reach(call, name, connector, known)

    async def _prepare(self, call: SearchCall, connector: Connector, deadline: Deadline) -> Prepared:
        if call.template is not None:
            body = await connector.render(call.template, timeout_s=deadline.remaining_s())
            call = replace(call, body=body, template=None)
        asks = self._gate.must_ask(connector, call)
        known = await self._known(connector, call.index, deadline) if asks else None
        return self._gate.prepare(call, connector, known, deadline.remaining_s())

    async def _known(self, connector: Connector, expression: str, deadline: Deadline) -> Known:
        return await self._names.members(connector, expression, timeout_s=deadline.remaining_s() * _NAMES_SHARE)

    async def _ask(self, prepared: Prepared, deadline: Deadline) -> tuple[Prepared, Hits]:
        """The engine's answer; a search that it refuses with the window and takes without is skipped, not failed."""
        request = prepared.request
        try:
            found = await prepared.connector.search(
                request.index, request.body, timeout_s=deadline.remaining_s(), params=request.params
            )
            refused = window.is_refused(found.raw)
        except InvalidQuery:
            if request.window is None:
                raise
            refused = True
        if request.window is None or not refused:
            return prepared, found
        return await self._ask(self._gate.as_asked(prepared), deadline)

    async def _ask_again(self, prepared: Prepared, hits: Hits, deadline: Deadline) -> tuple[Prepared, Hits]:
        """As hits show, the expression has come to stand for other indices: the answer under the policy of these.

        It is the first one where the plan is the same, or where asking again fails.
        """
        try:
            again = await self._prepare(prepared.call, prepared.connector, deadline)
            return (prepared, hits) if again.plan == prepared.plan else await self._ask(again, deadline)
        except ConnectorError:
            return prepared, hits

    def _deadline(self, clock: Clock, connector: Connector) -> Deadline:
        """Until when the engine may answer: that may be after the budget, but not after the client has gone."""
        patience_s = None if clock.client_time_left_s is None else clock.client_time_left_s - self._reserve_s
        deadline = Deadline.earliest(clock.received_at, self._gate.search_timeout_s(connector), patience_s)
        if deadline.expired:
            raise DeadlinePassed("the client's deadline leaves no time to search")
        return deadline
