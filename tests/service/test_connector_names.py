"""What every connector promises of the names of indices, checked on all of them: a part of the connector contract."""

import pytest

from connectors import Connector, EngineTimeout, IndexNotFound, InvalidQuery
from tests.service.test_connector_contract import BOOKS, EMPTY, FILMS, PREFIX, connector, kind, url

__all__ = ["connector", "kind", "url"]  # its fixtures


class TestResolve:
    @pytest.mark.parametrize(
        ("expression", "indices"),
        [
            (BOOKS, [BOOKS]),
            (f"{BOOKS},{FILMS}", [BOOKS, FILMS]),
            (f"{PREFIX}-*", [BOOKS, EMPTY, FILMS]),
            (f"{PREFIX}-b*,{FILMS}", [BOOKS, FILMS]),
            (f"{BOOKS},{PREFIX}-b*", [BOOKS]),
            ("no-such-index-of-tests-*", []),
        ],
    )
    async def test_names_the_indices_meant(self, connector: Connector, expression: str, indices: list[str]) -> None:
        members = await connector.resolve(expression, timeout_s=10)
        assert sorted(member.index for member in members) == indices
        assert {member.via for member in members} <= {()}

    @pytest.mark.parametrize("expression", ["no-such-index", f"{BOOKS},no-such-index"])
    async def test_unknown_index(self, connector: Connector, expression: str) -> None:
        with pytest.raises(IndexNotFound, match="no-such-index") as caught:
            await connector.resolve(expression, timeout_s=10)
        assert (caught.value.status, caught.value.error_type) == (404, "index_not_found_exception")

    async def test_all_indices(self, connector: Connector) -> None:
        everything = {member.index for member in await connector.resolve("_all", timeout_s=10)}
        assert everything >= {BOOKS, FILMS, EMPTY}
        assert everything == {member.index for member in await connector.resolve("*", timeout_s=10)}

    @pytest.mark.parametrize("expression", ["", ".", "..", "_cluster", "_cat,x"])
    async def test_names_that_would_change_the_path(self, connector: Connector, expression: str) -> None:
        with pytest.raises(InvalidQuery):
            await connector.resolve(expression, timeout_s=10)

    async def test_without_time_nothing_is_asked(self, connector: Connector) -> None:
        with pytest.raises(EngineTimeout):
            await connector.resolve(BOOKS, timeout_s=0)
