"""Queries and documents of known size, the same for the same seed."""

import random

QUERY = "which apple varieties keep well in winter storage"
_QUERY_TOKENS = 12
"""Tokens of the query and the special tokens of a pair."""
_SIGMA = 0.6
_MEAN_OF_UNIT = 1.2
"""Mean of a lognormal draw with mu = 0 and sigma = 0.6: exp(0.6 ** 2 / 2)."""
_ALL_WORDS = """
apple storage winter cellar keep cool paper fruit price orchard sugar skin soil tree pear plum water light wind market
late early season frost harvest flower spring autumn barrel wood stone river field garden north south sweet sour green
red yellow hard soft long short old young farm house road town year month week day night rain snow the and with from
that for which are this these
"""
_WORDS = tuple(_ALL_WORDS.split())


def passages(mean_tokens: int, count: int = 100, seed: int = 7) -> list[str]:
    """Texts of plain English words, a token each or so, whose pairs with :data:`QUERY` average ``mean_tokens`` tokens.

    Lengths are lognormal with sigma 0.6, so a few are long.
    """
    draw = random.Random(seed)
    words = [tokens - _QUERY_TOKENS for tokens in _lengths(mean_tokens, count, draw)]
    return [" ".join(draw.choices(_WORDS, k=length)) for length in words]


def lengths(mean_tokens: int, count: int = 100, seed: int = 7) -> list[int]:
    """Tokens of the pairs that :func:`passages` makes, for a model whose tokenizer cuts English words to pieces."""
    return _lengths(mean_tokens, count, random.Random(seed))


def _lengths(mean_tokens: int, count: int, draw: random.Random) -> list[int]:
    units = (draw.lognormvariate(0, _SIGMA) for _ in range(count))
    return [max(4 + _QUERY_TOKENS, round(unit * mean_tokens / _MEAN_OF_UNIT)) for unit in units]


def of_characters(chars: int, count: int = 100, seed: int = 7) -> list[str]:
    """Texts of exactly ``chars`` characters."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(_WORDS, k=chars))[:chars].rstrip().ljust(chars, ".") for _ in range(count)]


def of_words(words: int, count: int = 100, seed: int = 7) -> list[str]:
    """Texts of exactly ``words`` words, about as many tokens."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(_WORDS, k=words)) for _ in range(count)]


def queries(seed: int = 7) -> "Queries":
    """An endless iterator of new queries."""
    return Queries(seed)


class Queries:
    """An endless iterator of queries of eight words, no two the same in practice."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def __iter__(self) -> "Queries":
        return self

    def __next__(self) -> str:
        return " ".join(self._draw.choices(_WORDS, k=8))
