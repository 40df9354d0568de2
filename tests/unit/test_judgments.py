"""Judgments as people have them: qrels, and tables in whatever dialect a spreadsheet wrote."""

import json
from pathlib import Path

import pytest

from sidecar.evaluation.judgments import JudgmentError, read

WANT = {"apple pie": {"d1": 3, "d2": 0}, "car repair": {"d7": 1}}


def queries(folder: Path, **texts: str) -> Path:
    file = folder / "queries.jsonl"
    file.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items()))
    return file


@pytest.mark.parametrize(
    "content",
    [
        b"query,docid,rating\napple pie,d1,3\napple pie,d2,0\ncar repair,d7,1\n",
        b"\xef\xbb\xbfQuery;DocId;Rating\r\napple pie;d1;3\r\napple pie;d2;0\r\n\r\ncar repair;d7;1\r\n",
        b"rating\tquery text\tdoc id\n3\tapple pie\td1\n0\tapple pie\td2\n1\tcar repair\td7\n",
        "query|docid|rating\napple pie|d1|3.0\napple pie|d2|-1\ncar repair|d7|1".encode("utf-16"),
        b'query,docid,rating,explanation\n"apple pie",d1,3,"a, b"\napple pie,d2,0,\ncar repair,d7,1,\nthe,d9,,\n',
    ],
    ids=["commas", "semicolons, a mark, CRLF", "tabs, another order", "UTF-16, halves", "quotes, unrated"],
)
def test_a_table_is_read_in_any_dialect(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "judgments.csv"
    file.write_bytes(content)
    found = read(file)
    assert found.grades == WANT
    assert found.queries == {query: query for query in WANT}
    assert found.notes == ()


@pytest.mark.parametrize(
    "content",
    ["query-id\tcorpus-id\tscore\nq1\td1\t3\nq1\td2\t0\nq2\td7\t1\n", "q1 0 d1 3\nq1 0 d2 0\nq2 0 d7 1\n"],
    ids=["BEIR", "TREC"],
)
def test_qrels_go_with_their_queries(tmp_path: Path, content: str) -> None:
    file = tmp_path / "qrels"
    file.write_text(content)
    found = read(file, queries(tmp_path, q1="apple pie", q2="car repair"))
    assert found.queries == {"q1": "apple pie", "q2": "car repair"}
    assert found.grades == {"q1": WANT["apple pie"], "q2": WANT["car repair"]}


def test_a_separator_of_lines_inside_a_text_is_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "qrels"
    file.write_text("q1\td1\t1\n")
    texts = tmp_path / "queries.jsonl"
    texts.write_text('{"_id": "q1", "text": "apple\u2028pie"}\n', encoding="utf-8")
    assert read(file, texts).queries == {"q1": "apple\u2028pie"}


def test_queries_that_no_order_can_please_are_left_out_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "qrels"
    file.write_text("q1\td1\t1\nq2\td1\t0\n")
    found = read(file, queries(tmp_path, q1="a", q2="b", q3="c", q4="d"))
    assert list(found.queries) == ["q1"]
    assert found.notes == (
        "1 of 2 queries have no document above 0 and were left out",
        "2 of 4 queries have no judgment and were left out",
    )


def test_a_sample_is_drawn_by_its_seed_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "judgments.csv"
    file.write_text("query,docid,rating\n" + "".join(f"q{number},d,1\n" for number in range(50)))
    found = read(file)
    drawn = found.sampled(10, seed=3)
    assert len(drawn.queries) == 10
    assert drawn.queries.keys() == drawn.grades.keys()
    assert drawn == found.sampled(10, seed=3) != found.sampled(10, seed=4)
    assert drawn.notes == ("a sample of 10 of 50 queries",)
    assert found.sampled(50, seed=3) is found.sampled(None, seed=3) is found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query,doc,rating\na,b,1\n", ":1: its heading has no column docid; found: query, doc, rating"),
        ("", ":1: its heading has no column query, docid, rating; found: nothing"),
        ("query,docid,rating\na,b,good\n", ":2: grade 'good' is not a number"),
        ("query,docid,rating\na,b,0.5\n", ":2: grade '0.5' is not a whole number"),
        ("query,docid,rating\na,b,nan\n", ":2: grade 'nan' is not a whole number"),
        ("query,docid,rating\na,b,3000000000\n", ":2: grade '3000000000' is above 1000"),
        ("query,docid,rating\na,b,1e300\n", ":2: grade '1e300' is above 1000"),
        ("query,docid,rating\na,b\n", ":2: has 2 columns, the heading has 3 or more"),
        ('query,docid,rating\n"a,b,1\n', "unexpected end of data"),
        ("query,docid,rating\n,b,1\n", ":2: the query is empty"),
        ("query,docid,rating\na,,1\n", ":2: the document id is empty"),
        ("query,docid,rating\na,b,1\na,b,2\n", ":3: document 'b' is judged 1 and 2 for the same query"),
        ("query,docid,rating\n", ": holds no judgment"),
        ("query,docid,rating\na,b,0\n", ": no judgment is above 0"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_by_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "judgments.csv"
    file.write_text(content)
    with pytest.raises(JudgmentError) as told:
        read(file)
    assert str(told.value).startswith(str(file))
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("qrels", "texts", "message"),
    [
        ("q1\td1\n", '{"_id": "q1", "text": "a"}', "qrels:1: has 2 columns; allowed: 3"),
        ("q9\td1\t1\n", '{"_id": "q1", "text": "a"}', "qrels:1: query 'q9' is not among the queries"),
        ("q1\td1\t1\n", '{"_id": "q1"}', "queries.jsonl:1: is not a JSON object with `_id` and `text`"),
        ("q1\td1\t1\n", '\n{"_id": "q1", "text": " "}', "queries.jsonl:2: query 'q1' has no text"),
        ("q1\td1\t1\n", '{"_id": "q1", "text": null}', "queries.jsonl:1: query 'q1' has no text"),
        (
            "q1\td1\t1\n",
            '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}',
            "queries.jsonl:2: query 'q1' occurs twice, with different texts",
        ),
        ("q1\td1\t1\n", "{", "queries.jsonl:1: is not JSON"),
    ],
)
def test_qrels_that_cannot_be_used_are_told_by_line(tmp_path: Path, qrels: str, texts: str, message: str) -> None:
    file, explained = tmp_path / "qrels", tmp_path / "queries.jsonl"
    file.write_text(qrels)
    explained.write_text(texts)
    with pytest.raises(JudgmentError) as told:
        read(file, explained)
    assert message in str(told.value)


def test_what_cannot_be_read_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(JudgmentError, match="cannot be read: No such file"):
        read(tmp_path / "none.csv")
    file = tmp_path / "bytes.csv"
    file.write_bytes(b"query,docid,rating\n\x81\x8d,b,1\n")
    with pytest.raises(JudgmentError, match="in none of the supported encodings"):
        read(file)
