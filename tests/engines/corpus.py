"""A corpus in which every feature of a hit occurs: three indices, an alias, and documents drawn at random."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.engines.engine import Engine, Indices
from tests.engines.rest import Json

_WORDS = """
apple pear quince orchard winter storage keeps well pie butter crust phone battery screen car engine starts cold
repair guide river stone bridge music violin lesson garden soil worm compost bread flour oven salt
"""
WORDS = _WORDS.split()
TAGS = ("fruit", "device", "vehicle", "kitchen", "a-rather-long-tag", "ümläut", 'quo"te')
BRANDS = ("acme", "orchard & co", "zenith")
LARGEST = 2**63 - 1
SIZES = {"main": 150, "side": 90, "routed": 60}
VECTOR = 4

_BOTH: Json = {
    "title": {"type": "text", "analyzer": "english", "fields": {"plain": {"type": "keyword"}}},
    "body": {"type": "text", "analyzer": "english", "term_vector": "with_positions_offsets"},
    "note": {"type": "text", "index_options": "offsets"},
    "tag": {"type": "keyword"},
    "short": {"type": "keyword", "ignore_above": 6},
    "code": {"type": "keyword", "store": True},
    "label": {"type": "alias", "path": "tag"},
    "views": {"type": "integer"},
    "big": {"type": "long"},
    "price": {"type": "double"},
    "grade": {"type": "half_float"},
    "day": {"type": "date", "format": "yyyy-MM-dd||epoch_millis"},
    "flag": {"type": "boolean"},
    "addr": {"type": "ip"},
    "place": {"type": "geo_point"},
    "span": {"type": "integer_range"},
    "maker": {"properties": {"name": {"type": "keyword"}, "age": {"type": "integer"}}},
    "parts": {"type": "nested", "properties": {"name": {"type": "text"}, "n": {"type": "integer"}}},
    "hint": {"type": "completion"},
    "blob": {"type": "binary"},
    "opaque": {"type": "object", "enabled": False},
    "odd": {"type": "object", "enabled": False},
}


@dataclass(frozen=True)
class Corpus:
    """The indices of one engine. ``documents`` are the texts as they were written, by index and id.

    ``features`` are what bodies may use beside what all engines have: see :func:`features_of`.
    """

    engine: Engine
    names: Mapping[str, str]
    alias: str
    documents: Mapping[tuple[str, str], str]
    features: frozenset[str]
    lookup: str = field(default="")

    @cached_property
    def texts(self) -> dict[tuple[str, str], str]:
        """What a policy with the fields ``title`` and ``body`` reads of each document: a line for each value."""
        return {key: _text_of(json.loads(source)) for key, source in self.documents.items()}

    @property
    def expressions(self) -> list[str]:
        """Index expressions to search: one index, an alias, a list, a pattern."""
        main, side, routed = self.names.values()
        return [main, main, self.alias, f"{main},{side}", f"{main[: -len('main')]}*,{routed}", self.alias]


def features_of(engine: Engine) -> frozenset[str]:
    """What this engine has that another one lacks."""
    if engine.kind == "elasticsearch":
        return frozenset({"knn", "retriever", "runtime", "flattened", "synthetic"})
    return frozenset({"painless", "join", "script_fields", "flat_object", "derived"} - engine.lacks)


def build(engine: Engine, names: Indices) -> Corpus:
    """Make the indices, fill them and merge each shard to one segment, so that the same search is answered alike."""
    features = features_of(engine)
    given = {label: names(f"corpus-{label}") for label in SIZES}
    alias = names("corpus-alias")
    for label, shards in zip(SIZES, (2, 1, 3), strict=True):
        synthetic = {"index.mapping.source.mode": "synthetic"} if label == "side" and "synthetic" in features else {}
        mapping = {"mappings": _mapping(features, label), "aliases": {alias: {}}}
        names.named(given[label], {**mapping, "settings": {"number_of_shards": shards, **synthetic}})
    documents = {
        (given[label], key): source for label, size in SIZES.items() for key, source in _documents(label, size)
    }
    answer = engine.call("POST", "/_bulk?refresh=true", "".join(_lines(documents, given["routed"])))
    refused = [row for row in answer["items"] if "error" in row["index"]]
    assert not refused, refused[0]
    engine.call("POST", f"/{alias}/_forcemerge?max_num_segments=1")
    engine.call("POST", f"/{alias}/_refresh")
    return Corpus(engine, given, alias, documents, features)


def routing_of(key: str) -> str:
    """The routing of a document of the index ``routed``."""
    return f"r{int(key[1:]) // 3 % 4}"


def _mapping(features: frozenset[str], label: str) -> Json:
    properties = dict(_BOTH)
    if label == "side":  # a field of another type, and some missing: a shard of one index fails, the others answer
        properties = {name: value for name, value in properties.items() if name not in ("place", "hint")}
        properties["tag"] = {"type": "text", "fielddata": False}
        del properties["label"]
    if "knn" in features and label != "side":
        properties["vec"] = {"type": "dense_vector", "dims": VECTOR, "index": True, "similarity": "l2_norm"}
    if "flattened" in features or "flat_object" in features:
        properties["flat"] = {"type": "flattened" if "flattened" in features else "flat_object"}
    mapping: Json = {"dynamic": False, "properties": properties}
    if "runtime" in features:
        mapping["runtime"] = {"shade": {"type": "keyword"}}
    if label == "routed":
        mapping["_routing"] = {"required": True}
        if "join" in features:
            properties["kin"] = {"type": "join", "relations": {"question": "answer"}}
    return mapping


def _documents(label: str, size: int) -> Iterator[tuple[str, str]]:
    dice = random.Random(label)
    for number in range(size):
        yield f"{label[0]}{number}", _source(dice, number, f"{label[0]}{number // 3 * 3}")


def _lines(documents: Mapping[tuple[str, str], str], routed: str) -> Iterator[str]:
    for (index, key), source in documents.items():
        action = {"_index": index, "_id": key, **({"routing": routing_of(key)} if index == routed else {})}
        yield f"{json.dumps({'index': action})}\n{source}\n"


def _source(dice: random.Random, number: int, parent: str) -> str:
    """One document as text, with numbers and escapes that reading and writing it again would change."""
    fields: dict[str, Any] = {
        "title": _words(dice, 1, 4),
        "tag": dice.sample(TAGS, dice.randint(1, 3)) if number % 3 else dice.choice(TAGS),
        "short": dice.choice(["tiny", "far too long a value", "small"]),
        "code": f"c{number % 7}",
        "views": dice.choice([0, 1, 5, 5, 5, 100, 2_000_000]),
        "big": LARGEST - dice.randint(0, 3) if number % 2 else -LARGEST + number,
        "day": f"2026-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}",
        "flag": dice.random() < 0.5,
        "addr": f"10.0.{dice.randint(0, 3)}.{dice.randint(0, 255)}",
        "place": {"lat": round(dice.uniform(-60, 60), 4), "lon": round(dice.uniform(-170, 170), 4)},
        "span": {"gte": number % 5, "lt": number % 5 + 10},
        "maker": {"name": dice.choice(BRANDS), "age": dice.randint(1, 90)},
        "parts": [{"name": _words(dice, 1, 3), "n": dice.randint(0, 9)} for _ in range(dice.randint(0, 3))],
        "hint": {"input": [_words(dice, 1, 2)], "weight": dice.randint(1, 50)},
        "vec": [round(dice.uniform(-1, 1), 3) for _ in range(VECTOR)],
        "flat": {"k1": dice.choice("abc"), "k2": {"deep": dice.choice("xyz")}},
        "shade": dice.choice(["dark", "light"]),
        "kin": {"name": "answer", "parent": parent} if number % 3 else "question",
        "blob": "U29tZSBieXRlcw==",
        "opaque": {"any": [1, {"thing": None}]},
        "note": f"{_words(dice, 1, 6)} é\u2028 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    }
    if number % 5:
        fields["body"] = [_words(dice, 3, 12), _words(dice, 2, 5)] if number % 4 == 0 else _words(dice, 3, 30)
    text = json.dumps(fields, ensure_ascii=number % 2 == 0)
    return f'{text[:-1]}, "price": {dice.choice(_PRICES)}, "odd": {dice.choice(_ODD)}}}'


_PRICES = ("1.0E10", "0.10", "1e-7", "-3", "12.50", "4.9E-324")
_ODD = ('"\\u00e9\\/"', "[1.00, 2]", "{}", "null", '{"z": 1, "a": {"b": []}}')


def _words(dice: random.Random, least: int, most: int) -> str:
    weights = [1 / (place + 3) for place in range(len(WORDS))]
    return " ".join(dice.choices(WORDS, weights, k=dice.randint(least, most)))


def _text_of(source: Json) -> str:
    values = [source.get("title"), *(body if isinstance(body := source.get("body"), list) else [body])]
    return "\n".join(value for value in values if value)
