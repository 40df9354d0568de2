"""Reads YAML as plain values, with the line of each.

Only what a configuration needs is accepted: one document of mappings, lists and scalars, aliases included. Keys are
text whatever they look like. No message repeats a value of the file: it might be a secret.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from sidecar.setting_types import Keys

MAX_NODES = 10_000
MAX_DEPTH = 50
_SCALARS = ("null", "bool", "int", "float", "str")


@dataclass
class Located:
    """`tree` holds plain values; `lines` the 1-based line of each one (of its key, where it has one) by its keys.

    `faults` are the mistakes that still leave a usable tree: (line, keys, message).
    """

    tree: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[tuple[int, Keys, str]] = field(default_factory=list)

    def line_of(self, keys: Keys) -> int:
        """Return the line of `keys`, or of its nearest parent that is in the file; 1 if none is."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


class Unreadable(Exception):
    """The text cannot be used as YAML; `line` is None where the fault has none."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line


def read(text: str) -> Located:
    """Parse one YAML document; an empty one gives the tree None. Raises Unreadable."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_line(error.problem_mark or error.context_mark), _problem(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(line, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML") from None
    except RecursionError:
        raise Unreadable(None, "nested too deeply") from None
    return _Reader().read(root) if root is not None else Located()


def _line(mark: yaml.Mark | None) -> int | None:
    return None if mark is None else int(mark.line) + 1


def _problem(error: yaml.MarkedYAMLError) -> str:
    """The parser's message and position, without the names it quotes: `password: *hunter2` looks like an alias."""
    problem = re.sub(r"""(alias|anchor|handle) (['"]).*\2""", r"\1", error.problem or "syntax error").removeprefix(
        "but "
    )
    if "alias" in problem:
        problem += " (text that begins with * needs quotes)"
    column = f" at column {error.problem_mark.column + 1}" if error.problem_mark else ""
    began = f", {error.context} that began on line {_line(error.context_mark)}" if error.context_mark else ""
    return f"not valid YAML: {problem}{column}{began}"


class _Reader:
    """Turns nodes into values; aliases are followed, and their expansions count towards MAX_NODES."""

    def __init__(self) -> None:
        self.located = Located()
        self.scalars = yaml.SafeLoader("")
        self.nodes = 0

    def read(self, root: yaml.Node) -> Located:
        self.located.lines[()] = root.start_mark.line + 1
        self.located.tree = self._value(root, ())
        return self.located

    def _value(self, node: yaml.Node, keys: Keys) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise Unreadable(node.start_mark.line + 1, f"more than {MAX_NODES} values, those of aliases counted")
        if len(keys) > MAX_DEPTH:
            raise Unreadable(node.start_mark.line + 1, f"nested more than {MAX_DEPTH} levels deep")
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return {name: self._value(value, (*keys, name)) for name, value in self._pairs(node, keys)}
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self._entry(value, (*keys, place)) for place, value in enumerate(node.value)]
        return self._scalar(node, kind, keys)

    def _entry(self, node: yaml.Node, keys: Keys) -> Any:
        self.located.lines[keys] = node.start_mark.line + 1
        return self._value(node, keys)

    def _pairs(self, node: yaml.MappingNode, keys: Keys) -> Iterator[tuple[str, yaml.Node]]:
        """Yield each key with its value, and note its line; a repeated key is a fault, and its first value stays."""
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not key.value.isprintable():
                self._fault(line, keys, "a key must be plain text")
            elif key.tag == "tag:yaml.org,2002:merge":
                self._fault(line, keys, "`<<` is not supported; use an alias for a whole value, or write the keys out")
            elif key.value in seen:
                self._fault(line, (*keys, key.value), f"is here a second time; the first is on line {seen[key.value]}")
            else:
                seen[key.value] = self.located.lines[(*keys, key.value)] = line
                yield key.value, value

    def _scalar(self, node: yaml.Node, kind: str, keys: Keys) -> Any:
        if kind == "timestamp":  # no setting is a date, but an index may be named like one
            return node.value
        if kind not in _SCALARS or not isinstance(node, yaml.ScalarNode):
            self._fault(self.located.line_of(keys), keys, "has a tag (`!...`); text that begins with ! needs quotes")
            return None
        try:
            return self.scalars.construct_object(node)
        except (ValueError, KeyError):
            self._fault(self.located.line_of(keys), keys, f"is not a readable {kind}")
            return None

    def _fault(self, line: int, keys: Keys, message: str) -> None:
        self.located.faults.append((line, keys, message))
