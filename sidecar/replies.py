"""Converts answers into the messages of the contract. Pure."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sidecar.calls import Answer, Result
from sidecar.effect import Summary
from sidecar.ranking import sigmoid
from sidecar.types import Ranking
from sidecar.v1 import rerank_pb2 as pb


def search_response(answer: Answer, request_id: str, *, return_passages: bool) -> pb.SearchResponse:
    """Return the reply to a Search."""
    reply = pb.SearchResponse(
        response=answer.response,
        outcome=pb.Outcome.ValueType(answer.ranking.outcome),
        reason=pb.Reason.ValueType(answer.ranking.reason),
        meta=_meta(answer, answer.ranking, request_id),
    )
    _add(answer.results, reply, return_passages)
    return reply


def rerank_response(answer: Answer, request_id: str, *, return_passages: bool) -> pb.RerankResponse:
    """Return the reply to a Rerank."""
    reply = pb.RerankResponse(
        outcome=pb.Outcome.ValueType(answer.ranking.outcome),
        reason=pb.Reason.ValueType(answer.ranking.reason),
        meta=_meta(answer, answer.ranking, request_id),
    )
    _add(answer.results, reply, return_passages)
    return reply


def policy_status(name: str, seen: Summary) -> pb.PolicyStatus:
    """Return the statistics of reranking under one policy."""
    return pb.PolicyStatus(
        policy=name,
        replies=seen.replies,
        reranked=seen.reranked,
        reasons=seen.reasons,
        unmoved_ratio=seen.unmoved,
        constant_scores_ratio=seen.constant,
        without_text_ratio=seen.without_text,
        truncated_ratio=seen.truncated,
        rank_displacement=seen.displacement,
        overlap_at_10=seen.overlap,
        findings=seen.findings(),
    )


def to_json(value: Any) -> str:
    """Return compact JSON that UTF-8 can encode; lone surrogates stay escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text


def _add(results: Iterable[Result], reply: pb.SearchResponse | pb.RerankResponse, return_passages: bool) -> None:
    """Add a message for each result, inside the reply.

    A message that is made by itself has memory of its own. Each 10,000th time that such memory is freed, protobuf 7.36
    has the C library return all that is free to the kernel: with 100 results in a reply, that was every 83rd call, and
    took up to 16 ms.
    """
    for result in results:
        candidate, score = result.candidate, result.ranked.relevance_score
        reply.results.add(
            id=_utf8(candidate.ref.id) if candidate.ref else "",
            index=_utf8(candidate.ref.index) if candidate.ref else "",
            original_rank=candidate.rank,
            original_score=candidate.score,
            relevance_score=score,
            normalized_score=None if score is None else sigmoid(score),
            passage=result.ranked.passage if return_passages else "",
            cosine=result.ranked.cosine,
            team=result.ranked.team,
        )


def _utf8(text: str) -> str:
    """Return the text with a question mark for each lone surrogate, which no protobuf string can hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _meta(answer: Answer, ranking: Ranking, request_id: str) -> pb.Meta:
    plan = answer.plan
    return pb.Meta(
        request_id=request_id,
        policy=plan.policy if plan else "",
        policy_version=plan.version if plan else "",
        model=plan.model if plan else "",
        model_version=ranking.model_version,
        candidates=len(ranking.order),
        scored=ranking.scored,
        fusion=ranking.fusion,
        timings=pb.Timings(**asdict(answer.timings)),
        remembered=ranking.remembered,
        detail=ranking.detail,
        cosine_version=ranking.cosine_version,
        compared=ranking.compared,
        truncated_ratio=ranking.truncated_ratio,
        arm=ranking.arm,
    )
