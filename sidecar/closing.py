"""Closes connectors and ends background tasks that are no longer needed."""

import asyncio
from collections.abc import Collection, Iterable

from connectors.base import Connector

ENDS_WITHIN_S = 1.0
"""A task that takes longer to end once it is cancelled is not waited for."""


async def close(connectors: Iterable[Connector]) -> None:
    """Close connectors, one after the other."""
    for connector in connectors:
        await connector.close()


async def end(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel tasks and wait until they have ended, at most :data:`ENDS_WITHIN_S`."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(list(tasks), timeout=ENDS_WITHIN_S)
