"""Asks each engine, from the start until it answers, whether it is the one that was configured."""

import asyncio
from collections.abc import Awaitable, Callable

from connectors.base import Connector
from connectors.errors import ConnectorError, EngineRefused, NotAuthenticated, NotPermitted
from connectors.products import WRONG_PRODUCT, untested_version
from sidecar.logs import log

ANSWER_WITHIN_S = 5.0
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0

Sleep = Callable[[float], Awaitable[None]]


async def greet(connector: Connector, told: str = "") -> str:
    """Ask once and log what answered; a problem of the kind ``told`` has been logged before and is not again.

    Returns:
        Empty if an engine answered, even to refuse the credentials; otherwise the kind of problem, after which to
        ask again.
    """
    try:
        info = await connector.info(timeout_s=ANSWER_WITHIN_S)
    except (NotAuthenticated, NotPermitted) as error:
        log.warning("engine_not_checked", connector=connector.name, error=str(error))
        return ""  # it is there; repeated calls with the same credentials may lock them
    except ConnectorError as error:
        problem = f"{type(error).__name__} {error.error_type}"
        if problem != told:
            tell, event = (log.error, "engine_refused") if _is_wrong(error) else (log.warning, "engine_not_found")
            tell(event, connector=connector.name, error=str(error))
        return problem
    log.info("engine_found", connector=connector.name, engine=info.engine, version=info.version)
    if advice := untested_version(info):
        log.warning("engine_version_untested", connector=connector.name, advice=advice)
    return ""


async def wait_for(connector: Connector, problem: str, sleep: Sleep = asyncio.sleep) -> None:
    """Ask again, after waits of 1 s doubling to 30 s, until the right engine answers; log that and changed problems.

    ``problem`` is what :func:`greet` returned.
    """
    wait_s = _FIRST_WAIT_S
    while problem:
        await sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        problem = await greet(connector, problem)


def _is_wrong(error: ConnectorError) -> bool:
    return isinstance(error, EngineRefused) and error.error_type == WRONG_PRODUCT
