"""Measures the effect of reranking on a reply, and lately on a policy's replies: whether it still has any. Pure.

The worst failure of a reranker is a silent one: calls succeed, the order is the engine's, and nobody notices.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.types import Outcome, Ranking

PAGE = 10
WINDOW_S = 600.0
"""Age from which a reply no longer counts."""
MOST_KEPT = 1000
"""Most replies that are kept of one policy."""
ENOUGH = 20
"""Fewest replies that anything is concluded from."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect on one reply of a policy; ``reason`` is why it was not reranked, empty if it was. Shares are 0 to 1.

    ``moved``: whether any hit changed its place; ``displacement``: by how many places on average; ``overlap``: share
    of the engine's first :data:`PAGE` hits that are still among them; ``constant``: whether all scores were the same;
    ``without_text``: share of the candidates, pinned ones aside (0 if only partly reranked); ``truncated``: share of
    the passages that are longer than the model reads.
    """

    reason: str = ""
    moved: bool = False
    displacement: float = 0.0
    overlap: float = 1.0
    constant: bool = False
    without_text: float = 0.0
    truncated: float = 0.0

    @classmethod
    def of(cls, ranking: Ranking, truncated: float = 0.0) -> "Effect":
        """Measure a ranking against the engine's order; ``truncated`` is kept as given."""
        if ranking.outcome not in (Outcome.RERANKED, Outcome.PARTIAL):
            return cls(reason=ranking.reason.name)
        order = ranking.order
        meant = len(order) - ranking.pinned
        scores = [place.relevance_score for place in order if place.relevance_score is not None]
        shifts = [abs(place.rank - new) for new, place in enumerate(order)]
        page = min(PAGE, len(order))
        return cls(
            moved=any(shifts),
            displacement=sum(shifts) / len(shifts) if shifts else 0.0,
            overlap=sum(place.rank < page for place in order[:page]) / page if page else 1.0,
            constant=len(scores) > 1 and min(scores) == max(scores),
            without_text=1 - len(scores) / meant if meant and ranking.outcome is Outcome.RERANKED else 0.0,
            truncated=truncated,
        )

    @property
    def reranked(self) -> bool:
        """Whether the reply was reranked, at least in part."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Summary:
    """A policy's replies of the last :data:`WINDOW_S` seconds. Figures are means over those ``reranked``, except
    ``reasons``: replies that were not reranked, by reason, as shares of all ``replies``."""

    replies: int
    reranked: int
    reasons: Mapping[str, float]
    unmoved: float
    constant: float
    without_text: float
    truncated: float
    displacement: float
    overlap: float

    @property
    def fallbacks(self) -> float:
        """Share of all replies that are in the engine's order although they were to be reranked."""
        return sum(share for reason, share in self.reasons.items() if reason not in _MEANT)

    def findings(self) -> Iterator[str]:
        """Yield a sentence for each problem; none from fewer than :data:`ENOUGH` replies."""
        if self.replies >= ENOUGH and self.fallbacks > _MOST_FALLBACKS:
            worst = max((one for one in self.reasons if one not in _MEANT), key=lambda one: self.reasons[one])
            yield f"{self.fallbacks:.0%} of replies are in the engine's order, most of them for {worst}"
        if self.reranked < ENOUGH:
            return
        for share, most, sentence in (
            (self.unmoved, _MOST_UNMOVED, "of reranked replies no hit changed its place"),
            (self.constant, _MOST_CONSTANT, "of reranked replies all scores are the same"),
            (self.without_text, _MOST_WITHOUT_TEXT, "of candidates have no text in the policy's fields"),
            (self.truncated, _MOST_TRUNCATED, "of passages are longer than the model reads"),
        ):
            if share > most:
                yield f"in {share:.0%} {sentence}" if "replies" in sentence else f"{share:.0%} {sentence}"


_MEANT = frozenset(
    (
        "POLICY_DISABLED",
        "NOT_RELEVANCE_SORTED",
        "NO_CANDIDATES",
        "BEYOND_WINDOW",
        "LANGUAGE",
        "NO_POLICY",
        "HELD_OUT",
        "SHADOW",
    )
)
"""Reasons for which the engine's order is what was wanted."""
_MOST_FALLBACKS = 0.5
_MOST_UNMOVED = 0.95
_MOST_CONSTANT = 0.5
_MOST_WITHOUT_TEXT = 0.5
_MOST_TRUNCATED = 0.8


@dataclass
class Effects:
    """The last replies of one policy."""

    _kept: deque[tuple[float, Effect]] = field(default_factory=lambda: deque(maxlen=MOST_KEPT))

    def add(self, effect: Effect, now: float) -> None:
        """Add a reply; ``now`` is in seconds of a monotonic clock."""
        while self._kept and self._kept[0][0] < now - WINDOW_S:
            self._kept.popleft()
        self._kept.append((now, effect))

    def summary(self, now: float) -> Summary:
        """Summarise the replies not older than :data:`WINDOW_S`; may run in another thread than :meth:`add`."""
        effects = [effect for at, effect in list(self._kept) if at >= now - WINDOW_S]  # atomic, as `list` is in C
        reranked = [effect for effect in effects if effect.reranked]
        reasons = Counter(effect.reason for effect in effects if not effect.reranked)
        return Summary(
            len(effects),
            len(reranked),
            {reason: count / len(effects) for reason, count in reasons.items()},
            _mean([not effect.moved for effect in reranked]),
            _mean([effect.constant for effect in reranked]),
            _mean([effect.without_text for effect in reranked]),
            _mean([effect.truncated for effect in reranked]),
            _mean([effect.displacement for effect in reranked]),
            _mean([effect.overlap for effect in reranked], empty=1.0),
        )


def _mean(values: Sequence[float], empty: float = 0.0) -> float:
    return sum(values) / len(values) if values else empty
