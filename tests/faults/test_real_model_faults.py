"""A real cross-encoder that breaks while it is served: the engine's order with the reason, and it comes back."""

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.client import RerankClient
from tests import checkpoints
from tests.calls import BUDGET_S, PATIENCE_S, assert_engines_order, quick, search, within
from tests.conftest import Serve


@pytest.fixture
def real(tmp_path: Path) -> Any:
    """A tiny BERT with random weights."""
    return checkpoints.scorer(checkpoints.build(tmp_path))


def raises(*_: object) -> None:
    raise RuntimeError("the device")


def sleeps(*_: object) -> None:
    time.sleep(2 * BUDGET_S)


@pytest.mark.parametrize(("hook", "reason"), [(raises, "MODEL_ERROR"), (sleeps, "BUDGET_EXHAUSTED")])
async def test_a_pass_that_raises_or_takes_too_long(
    serve: Serve, real: Any, hook: Callable[..., None], reason: str
) -> None:
    async with serve(real, configured=quick()) as (client, _):
        hooked = real._model.base_model.embeddings.register_forward_pre_hook(hook)
        async with within(BUDGET_S):
            await assert_engines_order(await search(client), "ORIGINAL_ORDER", reason)
        hooked.remove()
        await until_reranked(client)


async def test_no_memory_for_a_single_pair(serve: Serve, real: Any) -> None:
    async with serve(real, configured=quick()) as (client, _):
        sizes = checkpoints.limited(real, 0, checkpoints.cpu_error)
        await assert_engines_order(await search(client), "ORIGINAL_ORDER", "MODEL_ERROR")
        assert sizes[-1] == 1
        real._model.base_model.embeddings._forward_pre_hooks.clear()
        await until_reranked(client)


async def test_scores_that_are_not_finite(serve: Serve, real: Any) -> None:
    bias = real._model.classifier.bias
    sound = bias.detach().clone()
    async with serve(real, configured=quick()) as (client, _):
        for bad in (math.nan, math.inf):
            bias.data.fill_(bad)
            await assert_engines_order(await search(client), "ORIGINAL_ORDER", "NON_FINITE_SCORE")
        bias.data.copy_(sound)
        await until_reranked(client)


async def until_reranked(client: RerankClient) -> None:
    """A pass that is still under way, or took long, may cost the next call its turn."""
    async with asyncio.timeout(PATIENCE_S):
        while (await search(client)).outcome != "RERANKED":  # noqa: ASYNC110 - asked as callers ask
            await asyncio.sleep(0.1)
