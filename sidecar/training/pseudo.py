"""Pseudo-queries: training examples made from documents alone, for breadth that the labelled sets lack.

Three kinds: a title finds its text, a sentence finds the document it was taken from (the inverse cloze task, Lee et
al., ACL 2019), rare words find the document they come from. `contrasts` makes a fourth: "k without t" and "k with t".
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=[A-Z0-9\"'(])")
_WORD = re.compile(r"[a-z][a-z\-']{2,}")
_WITH = ("{k} with {t}", "{k} that uses {t}", "{k} about {t}", "{k} {t}", "{k} and {t}")
_WITHOUT = (
    "{k} without {t}",
    "{k} but no {t}",
    "{k} not about {t}",
    "{k} excluding {t}",
    "{k} that does not mention {t}",
)


@dataclass(frozen=True)
class PseudoQuery:
    """A query made from document number `source`; `passage` replaces that document's text where it is given."""

    text: str
    source: int
    passage: str | None = None
    titles: bool = True


@dataclass(frozen=True)
class Contrast:
    """A query that documents `positives` answer and the equally wordy documents `negatives` do not."""

    text: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]


def sentences(text: str) -> list[str]:
    """Split at sentence ends; joined by one space the parts give the text again, up to white space."""
    return [part for part in _SENTENCE_END.split(text) if part]


def title_query(number: int, title: str, text: str) -> PseudoQuery | None:
    """The title as a query for the text alone; None when the title has under 3 words or the text under 12."""
    if len(title.split()) < 3 or len(text.split()) < 12:
        return None
    return PseudoQuery(title, number, passage=text, titles=False)


def cloze_query(number: int, text: str, rng: random.Random) -> PseudoQuery | None:
    """One sentence of 5 to 30 words as a query for the rest of the text; None when too little would be left."""
    parts = sentences(text)
    usable = [place for place, part in enumerate(parts) if 5 <= len(part.split()) <= 30]
    if len(parts) < 3 or not usable:
        return None
    chosen = rng.choice(usable)
    rest = " ".join(part for place, part in enumerate(parts) if place != chosen)
    return PseudoQuery(parts[chosen], number, passage=rest) if len(rest.split()) >= 12 else None


def keyword_query(number: int, text: str, frequency: Counter[str], size: int, rng: random.Random) -> PseudoQuery | None:
    """Two to five telling words of the text, in its order; None if it has fewer than four, or only one is drawn.

    `frequency` counts documents per word, of `size` in all.
    """
    words = list(dict.fromkeys(_WORD.findall(text.lower())))
    telling = [word for word in words if 2 <= frequency[word] <= max(2, size // 20)]
    if len(telling) < 4:
        return None
    weights = [math.log(size / frequency[word]) for word in telling]
    chosen = set(rng.choices(telling, weights, k=rng.randint(2, 5)))
    return PseudoQuery(" ".join(word for word in telling if word in chosen), number) if len(chosen) > 1 else None


def document_frequency(texts: Sequence[str]) -> Counter[str]:
    """Number of texts that contain each word of three letters or more."""
    return Counter(word for text in texts for word in set(_WORD.findall(text.lower())))


def contrasts(texts: Sequence[str], count: int, rng: random.Random) -> list[Contrast]:
    """At most `count` pairs of queries (so twice as many): documents with word k split by whether they contain word t.

    "k with t" wants those that do, "k without t" those that do not; both lists hold at least 3 documents.
    """
    postings: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        for word in set(_WORD.findall(text.lower())):
            postings[word].append(number)
    heads = sorted(word for word, numbers in postings.items() if 8 <= len(numbers) <= max(8, len(texts) // 30))
    found: list[Contrast] = []
    for head in rng.sample(heads, min(count, len(heads))):
        found += _contrast(head, postings, texts, rng)
    return found


def _contrast(head: str, postings: dict[str, list[int]], texts: Sequence[str], rng: random.Random) -> list[Contrast]:
    group = postings[head]
    shared = Counter(word for number in group for word in set(_WORD.findall(texts[number].lower())) if word != head)
    usable = sorted(
        word
        for word, count in shared.items()
        if 3 <= count <= len(group) - 3 and len(postings[word]) <= max(20, len(texts) // 10)
    )
    if not usable:
        return []
    term = rng.choice(usable)
    having = set(postings[term])
    inside = tuple(number for number in group if number in having)
    outside = tuple(number for number in group if number not in having)
    return [
        Contrast(rng.choice(_WITH).format(k=head, t=term), inside, outside),
        Contrast(rng.choice(_WITHOUT).format(k=head, t=term), outside, inside),
    ]
