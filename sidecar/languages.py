"""Whether the texts of a call, and its query by itself, are in a language that the policy's model is for.

A model trained on one language orders texts of another one, or by a query in another one, worse than the engine did.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any
from unicodedata import normalize

from sidecar.errors import ModelError, OtherLanguage
from sidecar.logs import log

SURE = 0.01
"""A text whose probability of being in the known languages is below this is taken to be in another one. On query and
three passages of sixteen collections no English text was mistaken, and no German, Spanish, Russian or Chinese one was
missed."""
SURE_OF_QUERY = 1e-5
"""The same for a query by itself in Latin script, which may be made of foreign names: a list of Brazilian cities has
3e-4, of Italian dishes 1e-5. Of 43,695 English queries of 28 collections none was mistaken; of 1,190 each in German,
Spanish, Russian and Chinese 48, 67, 99 and 98 % were found: short ones in Latin script are not identified."""
_PASSAGES, _CHARS = 3, 100
_LEAST_LETTERS = 40
"""A text with fewer letters is not identified: a part number is in no language. Unless half of them are not Latin."""
_LEAST_OF_ANOTHER_SCRIPT = 2
_LATIN_ENDS, _MORE_LATIN = 0x250, range(0x1E00, 0x1F00)
_GREEK = range(0x370, 0x400)
"""Its letters are symbols in any language."""
_NO_LANGUAGE = "zxx"
_PLAINLY_ENGLISH = frozenset(
    (
        *("the", "and", "with", "which", "from", "that", "this", "are", "for", "into", "these", "those", "because"),
        *("what", "when", "where", "how", "why", "does", "did", "would", "should", "could", "their", "there", "they"),
        *("you", "your", "between", "through", "about", "before", "using", "used"),
    )
)
"""A text with two of these words counts as English without identification, which takes 0.4 ms: texts in other languages
hardly ever have two. Of calls on twelve English collections 92 to 100 % have two, on tables 57 %; of 4,760 in German,
Spanish, Russian and Chinese six, which hold an English title."""

_ADVICE = "it needs a writable temporary directory, such as /tmp, for a moment; or set `languages: null`"


@cache
def identifier() -> Any:
    """Return the language identifier (py3langid, 140 languages); the first call takes half a second and 100 MiB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def prepare() -> None:
    """Load the identifier ahead of the first call. A failure is logged, and each call tries to load it again."""
    try:
        identifier()
    except OSError as error:
        log.error("language_identifier_failed", error=str(error), advice=_ADVICE)


def check(query: str, passages: Iterable[Sequence[str]], known: Collection[str]) -> None:
    """Check that query and first passages, by document, and the query by itself, may be in a language of ``known``.

    Raises:
        OtherLanguage: they are surely in none.
        ModelError: the identifier cannot be loaded, which is not the texts' fault and should be noticed.
    """
    try:
        found, what = other(text_of(query, passages), known), "texts are"
        if not found:
            start = _start_of(query)
            sure = SURE if _is_of_another_script(start) else SURE_OF_QUERY
            found, what = other(start, known, sure), "query is"
    except OSError as error:
        raise ModelError(f"the language of the texts could not be identified: {error}") from error
    if found:
        raise OtherLanguage(f"the {what} in {found!r}, and the policy's model is for {', '.join(sorted(known))}")


def _start_of(query: str) -> str:
    return query[: 3 * _CHARS]


def text_of(query: str, passages: Iterable[Sequence[str]]) -> str:
    """Return the text that identifies a call's language: the start of its query and of its first three documents."""
    starts = (texts[0][:_CHARS] for texts in islice(passages, _PASSAGES))
    return " ".join((_start_of(query), *starts))


def pass_at_once(query: str, passages: Iterable[Sequence[str]], known: Collection[str]) -> bool:
    """Whether :func:`check` passes without identifying a language."""
    return _passes_at_once(text_of(query, passages), known) and _passes_at_once(_start_of(query), known)


def _passes_at_once(text: str, known: Collection[str]) -> bool:
    """Whether the text says too little of its language, or is plainly English and English is known."""
    if sum(map(str.isalpha, text)) < _LEAST_LETTERS and not _is_of_another_script(text):
        return True
    return "en" in known and len(_PLAINLY_ENGLISH.intersection(text.lower().split())) > 1


def _is_of_another_script(text: str) -> bool:
    """Whether at least half of the letters, two or more, are neither Latin, full width included, nor Greek."""
    if text.isascii():
        return False
    letters = [ord(letter) for letter in normalize("NFKC", text) if letter.isalpha()]
    others = sum(one >= _LATIN_ENDS and one not in _MORE_LATIN and one not in _GREEK for one in letters)
    return others >= max(_LEAST_OF_ANOTHER_SCRIPT, len(letters) / 2)


def other(text: str, known: Collection[str], sure: float = SURE) -> str:
    """Return the language of a text, a code of ISO 639, if its probability of being in ``known`` is below ``sure``.

    Otherwise, and for a text that says too little of its language, return an empty string.
    """
    if _passes_at_once(text, known):
        return ""
    ranked = [(str(name), float(probability)) for name, probability in identifier().rank(text)]
    ours = sum(probability for name, probability in ranked if name in known or name == _NO_LANGUAGE)
    return ranked[0][0] if ours < sure else ""
