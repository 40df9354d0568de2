"""Groups: what one training step sees of a pool, freshly cut and freshly sampled each time."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.training.pools import Pool, PooledSet
from sidecar.training.pseudo import sentences

_JOINS = (" ", " ", ". ", "\n", ": ")
_ASKING = (
    "articles about {}",
    "I am interested in {}",
    "what is known about {}",
    "looking for information on {}",
    "papers that deal with {}",
    "tell me about {}",
    "find everything on {}, please",
)
_ASKED = 0.06
_SHORTENED = 0.15
_LONE_TITLES = 0.08
_TELLING_TITLE = 6
_SAYS_LITTLE = 3


@dataclass(frozen=True)
class Group:
    """One query with P passages: `labels` 1 or 0, `teacher` logits; `trusted` 0 silences the teacher."""

    query: str
    passages: tuple[str, ...]
    labels: tuple[float, ...]
    teacher: tuple[float, ...]
    trusted: float


def sample_group(pooled: PooledSet, pool: Pool, size: int, max_words: int, rng: random.Random) -> Group:
    """One positive and `size` - 1 negatives of `pool`, each cut to about `max_words` words; the positive comes first.

    All negatives or all but one are hard ones, drawn from the guarded candidates, higher-ranked ones likelier; missing
    ones are random documents of the set, whose teacher logit is taken to be 1 below the lowest known. Raises ValueError
    when the set is too small for that.
    """
    place = rng.randrange(len(pool.positives))
    hard = _draw(len(pool.negatives), size - 1 - rng.randint(0, 1), rng)
    known = set(pool.positives.tolist()) | set(pool.negatives.tolist())
    floor = float(min(pool.positive_teacher.min(), min(pool.negative_teacher, default=0.0))) - 1
    spare = _spare(len(pooled.bodies), known, size - 1 - len(hard), rng)
    if 1 + len(hard) + len(spare) < size:
        raise ValueError(
            f"{pooled.name}: only {len(hard) + len(spare)} negatives for {pool.query!r}, {size - 1} wanted"
        )
    numbers = [int(pool.positives[place]), *(int(pool.negatives[at]) for at in hard), *spare]
    teacher = [float(pool.positive_teacher[place]), *(float(pool.negative_teacher[at]) for at in hard)]
    return Group(
        _spoil(_ask(pool.query, rng), rng),
        tuple(_passages(pooled, pool, numbers, max_words, rng)),
        (1.0,) + (0.0,) * (size - 1),
        (*teacher, *(floor for _ in spare)),
        float(pool.trusted),
    )


def window(text: str, max_words: int, rng: random.Random, answers: Sequence[str] = ()) -> str:
    """Whole sentences around a random one (one that holds an answer, where given), about `max_words` words in all."""
    parts = sentences(text)
    holding = [place for place, part in enumerate(parts) if any(answer in part for answer in answers)]
    first = last = rng.choice(holding or range(len(parts)))
    words = len(parts[first].split())
    while words < max_words and (first > 0 or last < len(parts) - 1):
        if first > 0 and (last == len(parts) - 1 or rng.random() < 0.5):
            first -= 1
            words += len(parts[first].split())
        else:
            last += 1
            words += len(parts[last].split())
    return " ".join(parts[first : last + 1])


def _passages(pooled: PooledSet, pool: Pool, numbers: list[int], max_words: int, rng: random.Random) -> list[str]:
    titles = pool.titles and rng.random() < 0.85
    facts = rng.random() < 0.4
    join = rng.choice(_JOINS)
    passages = []
    for place, number in enumerate(numbers):
        body = pool.passage if place == 0 and pool.passage is not None else pooled.bodies[number]
        most = int(max_words * rng.uniform(0.3, 1)) if rng.random() < _SHORTENED else max_words
        if pool.answers and body:
            body = window(body, most, rng, pool.answers if place == 0 else ())
        title = pooled.titles[number] if titles else ""
        answers_in_body = place == 0 and bool(pool.answers)
        asked = pool.query if place == 0 else ""
        if not answers_in_body and _stands_alone(title, asked) and rng.random() < _LONE_TITLES:
            body = ""
        parts = [part for part in (title, pooled.facts[number] if facts else "", body) if part]
        passages.append(_first_words(join.join(parts) or pooled.titles[number], most))
    return passages


def _stands_alone(title: str, query: str) -> bool:
    """Whether a title says enough to be a document's only text, as for many in a library's catalogue.

    A positive's title has to share a third of the words of its `query`, or the label would be wrong; short words, which
    say little, do not count. For a negative `query` is empty.
    """
    words, asked = set(_words(title)), [word for word in _words(query) if len(word) > _SAYS_LITTLE]
    return len(words) >= _TELLING_TITLE and 3 * sum(word in words for word in asked) >= len(asked)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _ask(query: str, rng: random.Random) -> str:
    """Phrase some queries as people ask a librarian: such queries are long and hold words without meaning."""
    return rng.choice(_ASKING).format(query) if rng.random() < _ASKED else query


def _first_words(text: str, most: int) -> str:
    """`text` up to about `most` words (a fifth more, so that a window's last sentence is seldom cut)."""
    words = text.split(" ")
    return " ".join(words[: most + most // 5])


def _draw(count: int, wanted: int, rng: random.Random) -> list[int]:
    """Up to `wanted` different places below `count`, drawn at random; a place's weight falls off as 1 / (place + 5)."""
    keyed = sorted(range(count), key=lambda place: rng.random() ** (place + 5), reverse=True)
    return keyed[:wanted]


def _spare(size: int, known: set[int], wanted: int, rng: random.Random) -> list[int]:
    """`wanted` random documents that are not in `known`; fewer only if the set has no more."""
    sample = rng.sample(range(size), min(size, wanted + len(known)))
    return [number for number in sample if number not in known][:wanted]


def _spoil(query: str, rng: random.Random) -> str:
    """One letter dropped or two swapped in every twentieth query, as people type."""
    if rng.random() >= 0.05 or len(query) < 8:
        return query
    place = rng.randrange(1, len(query) - 2)
    middle = "" if rng.random() < 0.5 else query[place + 1] + query[place]
    return query[:place] + middle + query[place + len(middle or "x") :]
