"""Query clauses drawn at random for the corpus: every kind that the engine has, nested into each other."""

import random
from collections.abc import Callable
from typing import Any

from tests.engines.corpus import BRANDS, TAGS, VECTOR, WORDS, Corpus
from tests.engines.rest import Json

Clause = Callable[[], Json]
Rows = list[tuple[int, Clause]]


class Queries:
    """Draws queries; each kind is a method, what all engines have is in the list of :meth:`query`."""

    def __init__(self, dice: random.Random, corpus: Corpus) -> None:
        self._dice = dice
        self._corpus = corpus
        self._names = 0

    def query(self, depth: int = 2) -> Json:
        """Any query; compound ones down to ``depth`` levels. Now and then it has a name."""
        rows = self._leaves() + (self._compounds(depth - 1) if depth else [])
        clause = self._dice.choices([make for _, make in rows], [weight for weight, _ in rows])[0]()
        return self._named(clause) if self._dice.random() < 0.2 else clause

    def words(self, most: int = 3) -> str:
        """Some words of the corpus, the common ones more often."""
        return " ".join(self._dice.choice(WORDS[: self._dice.choice([6, 12, 36])]) for _ in range(self._upto(most)))

    def full_text(self) -> Json:
        """A query whose scores differ."""
        return self._dice.choice([self._match, self._multi_match, self._match_title])()

    def filter(self) -> Json:
        """A query that is usually a filter."""
        return self._dice.choice([self._term, self._range, self._ids, self._exists, self._terms])()

    def vector(self) -> list[float]:
        """A query vector."""
        return [round(self._dice.uniform(-1, 1), 2) for _ in range(VECTOR)]

    def inner_hits(self, name: str) -> Json:
        """What is asked of inner hits; the names in one body have to differ."""
        self._names += 1
        return {
            "name": f"{name}{self._names}",
            "size": self._upto(4),
            **self._maybe({"_source": False}, {"explain": True}, {"version": True}, {"from": 1}),
        }

    def _upto(self, most: int) -> int:
        return self._dice.randint(1, most)

    def _maybe(self, *options: Json) -> Json:
        return {key: value for option in options if self._dice.random() < 0.3 for key, value in option.items()}

    def _named(self, clause: Json) -> Json:
        """The same with `_name`, where the kind has that key beside others."""
        ((kind, inner),) = clause.items()
        self._names += 1
        if kind in ("bool", "dis_max", "function_score", "ids", "exists", "constant_score", "multi_match", "nested"):
            return {kind: {**inner, "_name": f"q{self._names}"}}
        return {"bool": {"must": [clause], "_name": f"q{self._names}"}}

    def _leaves(self) -> Rows:
        some: Rows = [
            (9, self._match),
            (3, self._match_title),
            (4, self._multi_match),
            (2, self._phrase),
            (2, self._query_string),
            (2, self._simple_query_string),
            (1, self._more_like_this),
            (2, self._by_spelling),
            (1, self._intervals),
            (1, self._spans),
            (1, self._geo),
            (1, self._ids),
            (1, self._exists),
            (2, self._range),
            (2, self._term),
            (1, self._terms),
            (1, lambda: {"match_all": self._maybe({"boost": 2.5})}),
            (1, lambda: {"distance_feature": {"field": "day", "pivot": "30d", "origin": "2026-06-01"}}),
            (1, lambda: {"combined_fields": {"query": self.words(), "fields": ["title", "body"]}}),
        ]
        if "knn" in self._corpus.features:
            some.append((2, self._knn))
            some.append((1, lambda: {"term": {"shade": self._dice.choice(["dark", "light"])}}))
        return some

    def _compounds(self, depth: int) -> Rows:
        some: Rows = [
            (9, lambda: self._bool(depth)),
            (2, lambda: self._dis_max(depth)),
            (3, lambda: self._function_score(depth)),
            (1, lambda: {"constant_score": {"filter": self.filter(), "boost": self._dice.choice([1, 2.5])}}),
            (2, lambda: self._boosting(depth)),
            (3, self._nested),
        ]
        if "painless" in self._corpus.features:
            some.append((3, lambda: self._script_score(depth)))
        if "join" in self._corpus.features:
            some.append((2, self._joined))
        return some

    def _match(self) -> Json:
        options = self._maybe({"operator": "and"}, {"minimum_should_match": "75%"}, {"fuzziness": "AUTO"}, {"boost": 3})
        return {"match": {"body": {"query": self.words(), **options}}}

    def _match_title(self) -> Json:
        return {"match": {"title": self.words(2)}}

    def _multi_match(self) -> Json:
        kinds = ["best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix"]
        options = self._maybe({"tie_breaker": 0.3})
        fields = self._dice.choice([["title^2", "body"], ["title", "body", "note"], ["*ody", "title.plain"]])
        return {"multi_match": {"query": self.words(), "type": self._dice.choice(kinds), "fields": fields, **options}}

    def _phrase(self) -> Json:
        if self._dice.random() < 0.4:
            return {"match_phrase_prefix": {"note": {"query": self.words(2), "max_expansions": 20}}}
        return {"match_phrase": {"body": {"query": self.words(2), "slop": self._upto(9)}}}

    def _query_string(self) -> Json:
        forms = ["{} AND {}", "title:{} OR {}^2", "+{} -{}", '"{} {}"~5', "{}* {}", "views:>3 {} {}"]
        text = self._dice.choice(forms).format(self.words(1), self.words(1))
        return {"query_string": {"query": text, "fields": ["title", "body"], **self._maybe({"lenient": True})}}

    def _simple_query_string(self) -> Json:
        text = self._dice.choice(["{} | {}", "+{} {}", '"{} {}"~3', "{}* -{}"]).format(self.words(1), self.words(1))
        return {"simple_query_string": {"query": text, "fields": ["title^3", "body"]}}

    def _more_like_this(self) -> Json:
        like: Any = self.words(6)
        if self._dice.random() < 0.5:
            like = [{"_index": self._corpus.names["main"], "_id": f"m{self._upto(99)}"}, like]
        options = {"min_term_freq": 1, "min_doc_freq": 2, **self._maybe({"include": True})}
        return {"more_like_this": {"fields": ["title", "body"], "like": like, **options}}

    def _by_spelling(self) -> Json:
        word = self.words(1)
        return self._dice.choice(
            [
                {"prefix": {"title": {"value": word[:2]}}},
                {"wildcard": {"code": {"value": "c?"}}},
                {"fuzzy": {"body": {"value": word[::-1], "fuzziness": 2}}},
                {"regexp": {"body": {"value": f"{word[:2]}.*"}}},
                {"fuzzy": {"body": {"value": word}}},
            ]
        )

    def _intervals(self) -> Json:
        first, second = {"match": {"query": self.words(1)}}, {"match": {"query": self.words(1)}}
        rule = {"all_of": {"intervals": [first, second], "max_gaps": 10}}
        return {"intervals": {"body": self._dice.choice([rule, {"any_of": {"intervals": [first, second]}}])}}

    def _spans(self) -> Json:
        terms = [{"span_term": {"body": self.words(1)[:5]}} for _ in range(2)]
        first = {"span_first": {"match": terms[0], "end": 4}}
        return self._dice.choice([{"span_near": {"clauses": terms, "slop": 9}}, {"span_or": {"clauses": terms}}, first])

    def _geo(self) -> Json:
        around = {"distance": "4000km", "place": {"lat": self._dice.randint(-40, 40), "lon": 0}}
        return {"geo_distance": {**around, **self._maybe({"ignore_unmapped": True}, {"ignore_unmapped": True})}}

    def _ids(self) -> Json:
        return {"ids": {"values": [f"{self._dice.choice('msr')}{self._upto(60)}" for _ in range(self._upto(20))]}}

    def _exists(self) -> Json:
        return {"exists": {"field": self._dice.choice(["body", "short", "parts.n", "maker", "nowhere", "place"])}}

    def _range(self) -> Json:
        return {
            "range": self._dice.choice(
                [
                    {"views": {"gte": 1, "lt": 101}},
                    {"big": {"gte": 2**63 - 3}},
                    {"day": {"gte": "2026-03-01", "lte": "2026-11-01"}},
                    {"addr": {"gte": "10.0.1.0"}},
                    {"price": {"gt": 0.05}},
                    {"span": {"gte": 3, "lt": 9, "relation": "intersects"}},
                ]
            )
        }

    def _term(self) -> Json:
        return {
            "term": self._dice.choice(
                [
                    {"tag": self._dice.choice(TAGS)},
                    {"flag": self._dice.random() < 0.5},
                    {"maker.name": {"value": self._dice.choice(BRANDS), "boost": 1.5}},
                    {"addr": "10.0.0.0/16"},
                    {"label": self._dice.choice(TAGS)},
                    {"flat.k1": "a"},
                ]
            )
        }

    def _terms(self) -> Json:
        if self._dice.random() < 0.4:
            lookup = {"index": self._corpus.names["main"], "id": f"m{self._upto(99)}", "path": "tag"}
            return {"terms": {"tag": lookup}}
        return {"terms": {"code": [f"c{self._upto(6)}" for _ in range(3)]}}

    def _knn(self) -> Json:
        sizes = {"num_candidates": 50, **({"k": self._upto(30)} if self._dice.random() < 0.8 else {})}
        return {"knn": {"field": "vec", "query_vector": self.vector(), **sizes}}

    def _bool(self, depth: int) -> Json:
        parts = {
            "must": [self.query(depth) for _ in range(self._dice.randint(0, 2))],
            "should": [self.query(depth) for _ in range(self._dice.randint(0, 3))],
            "filter": [self.filter() for _ in range(self._dice.randint(0, 1))],
            "must_not": [self.filter() for _ in range(self._dice.choice([0, 0, 0, 1]))],
        }
        parts = {name: clauses for name, clauses in parts.items() if clauses}
        least = self._maybe({"minimum_should_match": self._dice.choice([0, 1, "50%"])}) if "should" in parts else {}
        return {"bool": {**parts, **least}}

    def _dis_max(self, depth: int) -> Json:
        return {"dis_max": {"queries": [self.query(depth) for _ in range(2)], "tie_breaker": 0.4}}

    def _boosting(self, depth: int) -> Json:
        return {"boosting": {"positive": self.query(depth), "negative": self.filter(), "negative_boost": 0.3}}

    def _function_score(self, depth: int) -> Json:
        functions: list[Json] = [
            {"weight": 2, "filter": self.filter()},
            {"field_value_factor": {"field": "views", "factor": 1.2, "modifier": "log1p", "missing": 1}},
            {"gauss": {"day": {"origin": "2026-06-01", "scale": "40d", "decay": 0.4}}},
            {"linear": {"views": {"origin": 5, "scale": 50}}},
            {"random_score": {"seed": self._upto(9), "field": "_seq_no"}},
        ]
        chosen = self._dice.sample(functions, self._upto(3))
        modes = self._maybe({"score_mode": "sum"}, {"boost_mode": "replace"}, {"max_boost": 10}, {"min_score": 1.5})
        return {"function_score": {"query": self.query(depth), "functions": chosen, **modes}}

    def _script_score(self, depth: int) -> Json:
        script = {"source": "_score + doc['views'].value * params.f", "params": {"f": self._dice.choice([0.01, 2])}}
        return {"script_score": {"query": self.query(depth), "script": script}}

    def _joined(self) -> Json:
        inner = {"inner_hits": self.inner_hits("kin")} if self._dice.random() < 0.7 else {}
        query = {
            "query": self.full_text(),
            **self._maybe({"ignore_unmapped": True}, {"ignore_unmapped": True}),
            **inner,
        }
        if self._dice.random() < 0.5:
            return {"has_parent": {"parent_type": "question", "score": True, **query}}
        return {"has_child": {"type": "answer", "score_mode": self._dice.choice(["max", "sum", "none"]), **query}}

    def _nested(self) -> Json:
        inner = {"inner_hits": self.inner_hits("parts")} if self._dice.random() < 0.7 else {}
        query = self._dice.choice([{"match": {"parts.name": self.words(2)}}, {"range": {"parts.n": {"gte": 4}}}])
        mode = self._dice.choice(["avg", "max", "sum"])
        return {"nested": {"path": "parts", "query": query, "score_mode": mode, **inner}}
