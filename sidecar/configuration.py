"""Reads the configuration file; all its faults are reported at once, each with its line.

rerank-sidecar.yaml:14: policies.articles.fusion.method: 'linaer' is not allowed; allowed: linear, rrf, replace
"""

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sidecar import located_yaml
from sidecar.located_yaml import Located
from sidecar.references import dangling_names
from sidecar.setting_schema import Place, find
from sidecar.setting_types import Faults, Keys
from sidecar.settings import Settings

MAX_BYTES = 1 << 20

_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_TEXTS = {
    "int_": "{value} is not a whole number",
    "float_": "{value} is not a number",
    "finite_number": "{value} is not a finite number",
    "bool_": "{value} is neither true nor false",
    "literal_error": "{value} is not allowed",
    "string_pattern_mismatch": "{value} is not allowed",
    "string_too_short": "must not be empty",
    "string_type": "{value} is not text; text that looks like something else needs quotes",
    "path_type": "{value} is not a path",
    "dict_type": "{value} is not a mapping (`key: value`)",
    "model_": "{value} is not a mapping (`key: value`)",
    "tuple_type": "{value} is not a list (`- entry` lines, or [a, b])",
    "too_short": "needs at least one entry",
    **dict.fromkeys(_RANGE, "{value} is out of range"),
}


@dataclass(frozen=True, order=True, slots=True)
class Fault:
    """One fault in a file; ``line`` is 0 and ``path`` empty where there is none to name."""

    line: int
    path: str
    message: str

    def at(self, file: Path) -> str:
        """`FILE:LINE: path: message`."""
        place = f"{file}:{self.line}" if self.line else str(file)
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigurationError(ValueError):
    """The file cannot be used; ``faults`` holds every fault found, sorted by line; the text has a line for each."""

    def __init__(self, file: Path, *faults: Fault) -> None:
        super().__init__("\n".join(fault.at(file) for fault in faults))
        self.file = file
        self.faults = faults


def load(path: str | Path) -> Settings:
    """Return the settings in a file; its relative paths start at its folder. Raises ConfigurationError."""
    file = Path(path)
    try:
        located = located_yaml.read(_text(file))
    except located_yaml.Unreadable as error:
        raise ConfigurationError(file, Fault(error.line or 0, "", str(error))) from None
    if located.tree is None and not located.faults:
        raise ConfigurationError(file, Fault(0, "", "is empty; `rerank-sidecar init` writes a file to start from"))
    settings, faults = _validate(located, file.parent.resolve())
    if settings is None or faults:
        raise ConfigurationError(file, *sorted(faults))
    return settings


def _text(file: Path) -> str:
    try:
        content = _start_of(file)
        if len(content) <= MAX_BYTES:
            return content.decode()
        message = f"is larger than {MAX_BYTES >> 20} MiB"
    except FileNotFoundError:
        message = "there is no such file; `rerank-sidecar init` writes one to start from"
    except IsADirectoryError:
        message = "is a folder, not a file"
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text (byte {error.start + 1})"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigurationError(file, Fault(0, "", message))


def _start_of(file: Path) -> bytes:
    """Read at most one byte more than MAX_BYTES; raises OSError for a pipe, which could block."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EINVAL, "it is neither a file nor a link to one")
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _validate(located: Located, folder: Path) -> tuple[Settings | None, set[Fault]]:
    """Return the settings (None if invalid) and every fault: of the YAML, of single values, of undefined names."""
    settings = None
    faults = {Fault(line, _dotted(find(keys).keys), message) for line, keys, message in located.faults}
    spoilt = {(line, keys) for line, keys, _ in located.faults}
    found = _misplaced_booleans(located.tree)
    found += dangling_names(located.tree) if isinstance(located.tree, Mapping) else []
    try:
        settings = Settings.model_validate(located.tree, context={"folder": folder})
    except ValidationError as error:
        told = {keys for keys, _ in found}
        found += [(keys, text) for keys, text in _in_words(error) if keys not in told]
    lines = ((located.line_of(keys), keys, text) for keys, text in found)
    faults |= {Fault(line, _dotted(keys), text) for line, keys, text in lines if (line, keys) not in spoilt}
    return settings, faults


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _in_words(error: ValidationError) -> list[tuple[Keys, str]]:
    """Keys and a message for each of pydantic's errors, except those that another error caused."""
    errors = error.errors(include_url=False)
    meant = {(find(each["loc"][:-1]).keys, near) for each in errors if (near := _nearest(each))}
    return [found for each in errors if not _follows(each, meant) for found in _one_in_words(each)]


def _follows(error: ErrorDetails, meant: set[tuple[Keys, str]]) -> bool:
    """Whether another error caused this one: the missing key is misspelt, or the list lacks only its bad entries."""
    if error["type"] == "missing":
        return (find(error["loc"][:-1]).keys, error["loc"][-1]) in meant
    return error["type"] == "too_short" and len(error["input"]) > 0


def _one_in_words(error: ErrorDetails) -> Iterator[tuple[Keys, str]]:
    place = find(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            section = find(error["loc"][:-1])
            yield place.keys, _unknown_key("" if place.secret else _nearest(error), section.allowed_keys)
        case "missing":
            yield find(error["loc"][:-1]).keys, f"the key {error['loc'][-1]!r} is missing{_allowed(place)}"
        case "union_tag_not_found":
            yield _without_type(place, error["input"])
        case "union_tag_invalid":
            yield (*place.keys, "type"), f"{_shown(place, error['input']['type'])} is not allowed{_allowed(place)}"
        case "value_error":
            yield from _own_error(error, place)
        case kind:
            text = next((text for start, text in _TEXTS.items() if kind.startswith(start)), "{value} is not valid")
            yield place.keys, text.format(value=_shown(place, error["input"])) + _allowed(place)


def _own_error(error: ErrorDetails, place: Place) -> Iterator[tuple[Keys, str]]:
    """Keys and message of each fault that a validator of the settings raised."""
    cause = error["ctx"]["error"]
    if not isinstance(cause, Faults):
        yield place.keys, str(cause)
    else:
        yield from (((*place.keys, *keys), message) for keys, message in cause.faults)


def _nearest(error: ErrorDetails) -> str:
    """The allowed key that an unknown one was probably meant to be."""
    if error["type"] != "extra_forbidden":
        return ""
    return next(iter(get_close_matches(str(error["loc"][-1]), find(error["loc"][:-1]).allowed_keys, n=1)), "")


def _unknown_key(nearest: str, allowed_keys: tuple[str, ...]) -> str:
    hint = f" did you mean {nearest!r}?" if nearest else ""
    return f"unknown key;{hint} allowed: {', '.join(allowed_keys)}"


def _without_type(place: Place, section: object) -> tuple[Keys, str]:
    """The fault of a connector without `type`; the key may only be misspelt."""
    names = [key for key in section if isinstance(key, str)] if isinstance(section, Mapping) else []
    for typo in get_close_matches("type", names, n=1):
        return (*place.keys, typo), f"unknown key; did you mean 'type'? allowed types: {place.allowed}"
    return place.keys, f"the key 'type' is missing{_allowed(place)}"


def _allowed(place: Place) -> str:
    return f"; allowed: {place.allowed}" if place.allowed and not place.secret else ""


def _shown(place: Place, value: object) -> str:
    """A value as an error may show it: short, as it is written in YAML, and never a secret."""
    if place.secret:
        return "the value"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (Mapping, list)):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    if not place.keys:
        return "the file's content"
    if isinstance(value, int) and value.bit_length() > 64:
        return "this number"
    text = re.sub(r"//[^/@]*@", "//***@", value) if isinstance(value, str) else str(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return repr(text) if isinstance(value, str) else text


def _misplaced_booleans(tree: object) -> list[tuple[Keys, str]]:
    """Faults of booleans where a number is expected: `rank_window_size: yes` would become 1 otherwise."""
    found = []
    for keys, value in _leaves(tree):
        place = find(keys)
        if isinstance(value, bool) and (place.annotation in (int, float) or place.annotation == Literal[0, 1]):
            found.append((place.keys, f"{_shown(place, value)} is not a number{_allowed(place)}"))
    return found


def _leaves(tree: object, keys: Keys = ()) -> Iterator[tuple[Keys, object]]:
    if isinstance(tree, (Mapping, list)):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(value, (*keys, key))
    else:
        yield keys, tree
