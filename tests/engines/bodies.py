"""Searches drawn at random: index expression, body and URL parameters, with all that a search can ask of its hits.

The same seed and number always give the same search for the same kind of engine, so a failing one can be had again.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.engines.corpus import LARGEST, Corpus
from tests.engines.queries import Queries
from tests.engines.rest import Json

PREFERENCE = "always-the-same-shards"
"""Makes an engine with replicas ask the same ones each time."""


@dataclass(frozen=True)
class Search:
    """One search. With ``pit`` it is to be run on a point in time of ``index``, whose id goes into the body."""

    index: str
    body: Json
    params: dict[str, str] = field(default_factory=dict)
    pit: bool = False


def draw(seed: int, number: int, corpus: Corpus) -> Search:
    """The search of that number."""
    return _Bodies(random.Random(f"{seed}-{number}"), corpus).search()


class _Bodies:
    def __init__(self, dice: random.Random, corpus: Corpus) -> None:
        self._dice = dice
        self._corpus = corpus
        self._queries = Queries(dice, corpus)

    def search(self) -> Search:
        body: Json = {}
        for part in (self._what, self._page, self._order, self._of_each_hit, self._beside, self._limits):
            body |= part()
        self._mind_what_excludes(body)
        params = self._params()
        if "k" not in body.get("knn", {"k": 0}):
            params.pop("size", None)  # such a `knn` takes `k` from the body's size: see test_pages.py
        found = Search(self._dice.choice(self._corpus.expressions), body, params)
        if self._dice.random() < 0.04:
            return self._on_point_in_time(found)
        return replace(found, body={**found.body, **self._mistake()}) if self._dice.random() < 0.03 else found

    def _often(self, share: float, part: Callable[[], Json]) -> Json:
        return part() if self._dice.random() < share else {}

    def _what(self) -> Json:
        """The query, in one of its places."""
        features, chance = self._corpus.features, self._dice.random()
        if "retriever" in features and chance < 0.08:
            return {"retriever": self._retriever()}
        if "knn" in features and chance < 0.16:
            return {"knn": self._knn(), **self._often(0.5, lambda: {"query": self._queries.full_text()})}
        query = self._queries.full_text() if chance < 0.5 else self._queries.query()
        return {
            "query": query,
            **self._often(0.12, lambda: {"post_filter": self._queries.filter()}),
            **self._often(0.1, lambda: {"min_score": self._dice.choice([0.1, 0.5, 1.5])}),
            **self._often(0.1, lambda: {"rescore": self._rescore()}),
            **self._often(0.1, lambda: {"collapse": self._collapse()}),
            **self._often(0.08, lambda: {"indices_boost": self._indices_boost()}),
        }

    def _page(self) -> Json:
        return {
            **self._often(0.7, lambda: {"size": self._dice.choice([0, 1, 2, 3, 7, 10, 12, 15, 20, 40, 500])}),
            **self._often(0.4, lambda: {"from": self._dice.choice([0, 1, 3, 5, 11, 12, 13, 60, 9990])}),
        }

    def _order(self) -> Json:
        chance = self._dice.random()
        if chance < 0.75:
            return {}
        by_score: list[Any] = ["_score", {"views": "asc"}, {"code": "desc"}]
        others: list[Any] = [
            "_score",
            {"_score": {"order": "desc"}},
            by_score,
            by_score,
            [{"_score": "desc"}, "_doc"],
            [{"views": "desc"}, "_score"],
            {"day": {"order": "asc", "mode": "min"}},
            [{"parts.n": {"order": "desc", "mode": "max", "nested": {"path": "parts"}}}],
            [{"_score": "asc"}],
            "tag",
        ]
        sort = {"sort": self._dice.choice(others), **self._often(0.4, lambda: {"track_scores": True})}
        if chance < 0.97:
            return sort
        return {"sort": ["_score", {"big": "asc"}], "search_after": [1.1, self._dice.choice([0, LARGEST - 2])]}

    def _of_each_hit(self) -> Json:
        """What is told of every hit."""
        fields = ["title", "bo*", "parts.*", "label", "short", {"field": "day", "format": "yyyy"}, "place", "nowhere"]
        values = ["views", "big", "tag", {"field": "day", "format": "epoch_millis"}, "flag", "addr", "code"]
        return {
            **self._often(0.35, lambda: {"_source": self._source()}),
            **self._often(
                0.1, lambda: {"stored_fields": self._dice.choice(["_none_", "code", ["code", "_source"], []])}
            ),
            **self._often(0.2, lambda: {"fields": self._dice.sample(fields, self._dice.randint(1, 4))}),
            **self._often(0.2, lambda: {"docvalue_fields": self._dice.sample(values, self._dice.randint(1, 3))}),
            **self._often(0.25, lambda: {"highlight": self._highlight()}),
            **self._often(0.12, lambda: {"explain": True}),
            **self._often(0.12, lambda: {"version": True}),
            **self._often(0.12, lambda: {"seq_no_primary_term": True}),
            **self._often(0.15, self._computed),
        }

    def _source(self) -> Any:
        excluded = {"includes": ["*"], "excludes": self._dice.choice([["body"], ["bo*", "maker.age"], ["parts"]])}
        return self._dice.choice(
            [
                False,
                False,
                True,
                "title",
                ["t*", "maker.*"],
                ["body", "big"],
                [],
                excluded,
                {"includes": ["opaque", "odd"]},
            ]
        )

    def _computed(self) -> Json:
        """Fields that are made while the engine searches."""
        some: list[Json] = []
        if "painless" in self._corpus.features:
            script = {"source": "doc['views'].value * 2L"}
            fields = {"twice": {"script": script}, "half": {"script": script, "ignore_failure": True}}
            some.append({"script_fields": fields})
        if "derived" in self._corpus.features:
            emit = {"type": "long", "script": {"source": "emit(doc['views'].value + 1)"}}
            some.append({"derived": {"next": emit}, "fields": ["next", "title"]})
        if "runtime" in self._corpus.features:
            some.append({"runtime_mappings": {"extra": {"type": "keyword"}}, "fields": ["extra", "shade"]})
        return self._dice.choice(some) if some else {}

    def _highlight(self) -> Json:
        kind = self._dice.choice(["unified", "plain", "fvh"])
        options: Json = {
            "type": kind,
            **self._often(0.5, lambda: {"number_of_fragments": self._dice.choice([0, 1, 3])}),
            **self._often(0.3, lambda: {"fragment_size": 30}),
            **self._often(0.3, lambda: {"pre_tags": ["<b>"], "post_tags": ["</b>"]}),
            **self._often(0.2, lambda: {"encoder": "html"}),
            **self._often(0.2, lambda: {"order": "score"}),
            **self._often(0.2, lambda: {"no_match_size": 20}),
            **self._often(0.2, lambda: {"require_field_match": False}),
        }
        fields: Any = {"body": {}} if kind == "fvh" else self._dice.choice([{"body": {}, "title": {}}, {"*": {}}])
        return {**options, "fields": fields}

    def _beside(self) -> Json:
        """What stands beside the hits in the answer."""
        return {
            **self._often(0.2, lambda: {"aggs": self._aggs()}),
            **self._often(0.1, lambda: {"suggest": self._suggest()}),
            **self._often(0.06, lambda: {"profile": True}),
        }

    def _aggs(self) -> Json:
        tops = {"top_hits": {"size": 2, "_source": ["title"], "highlight": {"fields": {"body": {}}}}}
        some: Json = {
            "codes": {"terms": {"field": "code"}, "aggs": {"best": tops, "mean": {"avg": {"field": "views"}}}},
            "tags": {"terms": {"field": "tag", "size": 3}},
            "views": {"histogram": {"field": "views", "interval": 50, "min_doc_count": 1}},
            "months": {"date_histogram": {"field": "day", "calendar_interval": "month"}},
            "two": {"filters": {"filters": {"flagged": {"term": {"flag": True}}, "old": self._queries.filter()}}},
            "all": {"global": {}, "aggs": {"sum": {"sum": {"field": "big"}}}},
            "parts": {"nested": {"path": "parts"}, "aggs": {"n": {"stats": {"field": "parts.n"}}}},
            "kinds": {"cardinality": {"field": "maker.name"}},
            "some": {"sampler": {"shard_size": 5}, "aggs": {"codes": {"terms": {"field": "code"}}}},
            "unnamed": {"missing": {"field": "short"}},
        }
        return {name: some[name] for name in self._dice.sample(list(some), self._dice.randint(1, 3))}

    def _suggest(self) -> Json:
        text = self._queries.words(2)
        some: Json = {
            "spelling": {"text": text[::-1], "term": {"field": "title"}},
            "phrases": {"text": text, "phrase": {"field": "body", "max_errors": 2}},
            "hints": {"prefix": text[:1], "completion": {"field": "hint", "size": 3, "skip_duplicates": True}},
        }
        return {name: some[name] for name in self._dice.sample(list(some), self._dice.randint(1, 2))}

    def _limits(self) -> Json:
        return {
            **self._often(0.25, lambda: {"track_total_hits": self._dice.choice([True, False, 5, 25, 10_000])}),
            **self._often(0.06, lambda: {"terminate_after": self._dice.choice([1, 3, 11, 500])}),
            **self._often(0.1, lambda: {"timeout": "30s"}),
            **self._often(0.05, lambda: {"stats": ["a-group"]}),
        }

    def _params(self) -> dict[str, str]:
        some = {
            "typed_keys": "true",
            "rest_total_hits_as_int": "true",
            "request_cache": "true",
            "ignore_unavailable": "true",
            "search_type": "dfs_query_then_fetch",
            "batched_reduce_size": "2",
            "track_scores": "true",
            "pre_filter_shard_size": "1",
            "allow_partial_search_results": "true",
            "max_concurrent_shard_requests": "2",
            "routing": "r1,r3",
            "include_named_queries_score": "true",
            "_source_includes": "title,views",
            "_source": "false",
            "docvalue_fields": "views",
            "version": "true",
            "explain": "true",
            "size": "4",
            "from": "2",
            "sort": self._dice.choice(["_score", "_score:desc,views:asc", "views:desc"]),
            "timeout": "20s",
            "scroll": "30s",
            "q": "body:apple",
            "error_trace": "true",
            "pretty": "true",
            "human": "true",
            "filter_nothing": "1",
        }
        chosen = [
            name for name in some if self._dice.random() < (0.005 if name in ("scroll", "filter_nothing") else 0.025)
        ]
        return {"preference": PREFERENCE, **{name: some[name] for name in chosen}}

    def _rescore(self) -> Any:
        query = {"rescore_query": self._queries.full_text(), "query_weight": 0.7, "rescore_query_weight": 1.2}
        one = {"window_size": self._dice.choice([3, 10, 60]), "query": query}
        return self._dice.choice([one, [one, {**one, "window_size": 5}]])

    def _collapse(self) -> Json:
        inner = {**self._queries.inner_hits("same"), **self._often(0.5, lambda: {"sort": [{"views": "asc"}]})}
        field = self._dice.choice(["code", "code", "maker.name", "views"])
        return {"field": field, **self._often(0.7, lambda: {"inner_hits": inner, "max_concurrent_group_searches": 2})}

    def _indices_boost(self) -> Any:
        return [{self._corpus.names["main"]: 1.7}, {self._corpus.names["routed"]: 0.4}]

    def _knn(self) -> Json:
        sizes = {"num_candidates": 60, **self._often(0.7, lambda: {"k": self._dice.choice([3, 12, 50])})}
        return {"field": "vec", "query_vector": self._queries.vector(), **sizes, **self._often(0.3, self._filtered)}

    def _filtered(self) -> Json:
        return {"filter": self._queries.filter()}

    def _retriever(self) -> Json:
        standard = {"standard": {"query": self._queries.query(), **self._often(0.3, lambda: {"min_score": 0.3})}}
        rescorer = {"retriever": standard, "rescore": {**self._rescore_once(), "window_size": 30}}
        knn = {"k": 10, "num_candidates": 40, "field": "vec", "query_vector": self._queries.vector()}
        return self._dice.choice(
            [standard, {"knn": {**knn, **self._often(0.3, self._filtered)}}, {"rescorer": rescorer}]
        )

    def _rescore_once(self) -> Json:
        return {"query": {"rescore_query": self._queries.full_text()}}

    def _on_point_in_time(self, found: Search) -> Search:
        taken = ("preference", "routing", "ignore_unavailable", "scroll", "allow_partial_search_results")
        params = {name: value for name, value in found.params.items() if name not in taken}
        return Search(found.index, {**found.body, **self._often(0.3, self._slice)}, params, pit=True)

    def _slice(self) -> Json:
        return {"slice": {"id": self._dice.randint(0, 1), "max": 2}}

    def _mistake(self) -> Json:
        """Something that the engine refuses, wholly or on some shards."""
        return self._dice.choice(
            [
                {"query": {"no_such_query": {}}},
                {"query": {"match": {"views": "not a number"}}},
                {"query": {"range": {"day": {"gte": "the other day"}}}},
                {"no_such_key": 1},
                {"sort": [{"nowhere": "asc"}]},
                {"query": {"match": {"body": {"query": "apple", "operator": "sometimes"}}}},
                {"aggs": {"broken": {"terms": {"field": "body"}}}},
                {"highlight": {"fields": {"body": {"type": "crayon"}}}},
                {"query": {"query_string": {"query": "AND ((("}}},
                {"size": 10_001},
                {"size": -1},
                {"query": {"bool": {"must": [{"span_term": {}}]}}},
                {"collapse": {"field": "body"}},
                {"_source": 7},
                {"min_score": "high"},
            ]
        )

    def _mind_what_excludes(self, body: Json) -> None:
        """Take out what the engines refuse together, most of the time, so that most searches are answered."""
        if {"sort", "collapse"} & body.keys():  # with a completion suggester OpenSearch may fail, or never answer
            body.get("suggest", {}).pop("hints", None)
        if self._dice.random() < 0.03:
            return
        if "collapse" in body or "sort" in body or "search_after" in body:
            body.pop("rescore", None)
        if "search_after" in body:
            body.pop("from", None)
            body.pop("collapse", None)
        if "retriever" in body:
            for key in ("terminate_after", "sort", "min_score", "search_after", "track_scores"):
                body.pop(key, None)
        if body.get("stored_fields") == "_none_":
            for key in ("_source", "version", "fields"):
                body.pop(key, None)
