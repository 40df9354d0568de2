"""The demo's corpus, queries and judgments: well formed, complete, and within reach of the first stage."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import bm25s
import pytest

DEMO = Path(__file__).resolve().parents[2] / "sidecar" / "demo"
KINDS = {"ambiguity", "paraphrase", "negation", "qualification", "plain"}
RECALL_WINDOW = 40

Record = dict[str, str]
Qrels = dict[str, dict[str, int]]


def read_jsonl(path: Path) -> Iterator[Record]:
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert isinstance(record, dict)
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in record.items())
        yield record


def read_qrels(path: Path) -> Iterator[tuple[str, str, int]]:
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    for line in lines:
        query_id, document_id, grade = line.split("\t")
        yield query_id, document_id, int(grade)


@pytest.fixture(scope="module")
def corpus() -> list[Record]:
    return list(read_jsonl(DEMO / "corpus.jsonl"))


@pytest.fixture(scope="module")
def queries() -> list[Record]:
    return list(read_jsonl(DEMO / "queries.jsonl"))


@pytest.fixture(scope="module")
def qrels() -> Qrels:
    grades: Qrels = {}
    for query_id, document_id, grade in read_qrels(DEMO / "qrels.tsv"):
        assert document_id not in grades.setdefault(query_id, {}), f"{query_id} judges {document_id} twice"
        grades[query_id][document_id] = grade
    return grades


def test_documents_have_their_fields_and_lengths(corpus: list[Record]) -> None:
    assert len(corpus) >= 300
    for document in corpus:
        assert set(document) == {"_id", "title", "text", "domain"}
        assert document["_id"].startswith(document["domain"] + "-")
        assert 3 <= len(document["title"].split()) <= 8, document["_id"]
        assert 35 <= len(document["text"].split()) <= 110, document["_id"]


def test_several_domains_are_covered(corpus: list[Record]) -> None:
    sizes = Counter(document["domain"] for document in corpus)
    assert len(sizes) >= 10
    assert min(sizes.values()) >= 15


@pytest.mark.parametrize("field", ["_id", "title", "text"])
def test_no_two_documents_are_alike(corpus: list[Record], field: str) -> None:
    values = Counter(" ".join(document[field].lower().split()) for document in corpus)
    assert [value for value, count in values.items() if count > 1] == []


def test_queries_have_their_fields_and_every_kind(queries: list[Record]) -> None:
    assert len(queries) >= 30
    assert all(set(query) == {"_id", "text", "kind"} and query["text"].strip() for query in queries)
    assert {query["kind"] for query in queries} == KINDS
    assert len({query["_id"] for query in queries}) == len({query["text"] for query in queries}) == len(queries)


def test_judgments_name_what_exists(corpus: list[Record], queries: list[Record], qrels: Qrels) -> None:
    assert set(qrels) == {query["_id"] for query in queries}
    assert {document_id for grades in qrels.values() for document_id in grades} <= {doc["_id"] for doc in corpus}
    assert {grade for grades in qrels.values() for grade in grades.values()} == {0, 1, 2}


def test_every_query_has_a_full_answer(qrels: Qrels) -> None:
    assert [query_id for query_id, grades in qrels.items() if 2 not in grades.values()] == []


def test_bm25_recalls_a_relevant_document_for_every_query(
    corpus: list[Record], queries: list[Record], qrels: Qrels
) -> None:
    retriever = bm25s.BM25()
    texts = [f"{document['title']} {document['text']}" for document in corpus]
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize([query["text"] for query in queries], stopwords="en", show_progress=False)
    positions, scores = retriever.retrieve(tokens, k=RECALL_WINDOW, show_progress=False, n_threads=1)
    missed = []
    for query, row, row_scores in zip(queries, positions, scores, strict=True):
        found = {corpus[int(position)]["_id"] for position, score in zip(row, row_scores, strict=True) if score > 0}
        if not any(qrels[query["_id"]].get(document_id, 0) > 0 for document_id in found):
            missed.append(query["text"])
    assert missed == []
