"""HTML to text."""

import html
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.markup import text_of


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("plain", "plain"),
        ("<p>one</p><p>two</p>", "one\ntwo"),
        ("<b>ap</b>ple <i>pie</i>", "apple pie"),
        ("<td>1</td><td>2</td>", "1\n2"),
        ("a<br/>b<BR>c", "a\nb\nc"),
        ("a\n  b\t c", "a b c"),
        ("Pies &amp; tarts&nbsp;&#33;&#x21;", "Pies & tarts !!"),
        ("&lt;script&gt;shown&lt;/script&gt;", "<script>shown</script>"),
        ("a<script>if (a < b) { alert('</p>') }</script>b", "ab"),
        ("a<SCRIPT src='>'>x</ScRipt >b", "ab"),
        ("<style>p { color: red }</style>c", "c"),
        ("<scripture>kept</scripture>", "kept"),
        ("a<!-- <p>hidden</p> -->b<!-->c<!--->d", "abcd"),
        ("<!doctype html><?xml version='1.0'?>a", "a"),
        ('<a title="a > b" href=x>link</a>', "link"),
        ("<p don't>text</p>", "text"),
        ("a < b and b > c, 1 <2", "a < b and b > c, 1 <2"),
        ("open <b>to the end", "open to the end"),
        ("cut off <a href='x", "cut off"),
        ("cut off <script>x", "cut off"),
        ("&#0;&#xD800;&#99999999999;", "\ufffd\ufffd\ufffd"),
        ("", ""),
    ],
)
def test_the_text_is_what_a_reader_would_see(markup: str, text: str) -> None:
    assert text_of(markup) == text


def test_a_number_too_long_for_python_is_no_fault() -> None:
    assert text_of(f"&#{'9' * 10_000};x") == "\ufffdx"


@pytest.mark.parametrize(
    "flood",
    [
        "<",
        "<a ",
        '<a "',
        "<a b='",
        "<!--",
        "<!x",
        "<div>",
        "</",
        "<script>",
        "<script></scrip",
        "&",
        "&#",
        "&#9",
        "<a =",
    ],
)
def test_ten_times_the_hostile_text_takes_no_more_than_some_ten_times_the_time(flood: str) -> None:
    def seconds(chars: int) -> float:
        text = (flood * (chars // len(flood) + 1))[:chars]
        started = time.process_time()
        text_of(text)
        return time.process_time() - started

    seconds(1000)
    short = min(seconds(40_000) for _ in range(3))
    assert seconds(400_000) < 40 * short + 0.05, "time that grows with the square would be a hundredfold"


PIECES = [*"<>a!-/='\"&#;x1 p?\n", "script", "</script>", "<!--", "-->"]


@given(st.lists(st.sampled_from(PIECES), max_size=100).map("".join))
def test_any_markup_is_read_as_lines_without_blanks_around_them(markup: str) -> None:
    lines = text_of(markup).split("\n")
    assert all(line == line.strip() for line in lines)
    assert lines == [""] or all(lines)


@given(st.text(st.characters(exclude_characters="\r\x1e", exclude_categories=["Cs", "Cc"]), max_size=100))
def test_escaped_text_comes_back_as_it_was_but_for_its_blanks(text: str) -> None:
    assert text_of(f"<div>{html.escape(text)}</div>") == " ".join(text.split())
