"""What the model reads of real hits: wherever the app leaves the text, the order is right and the hits are its own."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from connectors.base import Connector
from connectors.hits import DocumentRef, Json
from sidecar.v1 import rerank_pb2 as pb
from tests.engines.conftest import ConnectorOf, SidecarOn
from tests.engines.engine import Engine, Indices
from tests.engines.reading import QUERY, has_fetched, ids, own_hits, passages, reading, searched

DOCUMENTS: dict[str, Json] = {
    "1": {"title": "car repair", "body": "engines and wheels", "tags": ["steel"], "day": "2025-01-01"},
    "2": {"title": "apple pie", "body": "with a crust", "tags": ["apple", "fruit"], "day": "2025-01-02"},
    "3": {"title": "cakes", "body": "an apple tart of some kind", "tags": ["apple", "tart"], "day": "2025-01-03"},
}
STORED = {"type": "text", "store": True, "fields": {"keyword": {"type": "keyword"}}}
MAPPING: Json = {
    "properties": {"title": STORED, "body": STORED, "tags": {"type": "keyword"}, "day": {"type": "date"}},
}


@pytest.mark.parametrize(
    ("body", "fetched"),
    [
        ({}, False),
        ({"_source": False}, True),
        ({"_source": ["title"]}, True),
        ({"_source": ["t*", "body"]}, False),
        ({"_source": {"excludes": ["body"]}}, True),
        ({"_source": {"excludes": ["bod*"]}}, True),
        ({"_source": {"excludes": ["tags"]}}, False),
        ({"_source": False, "fields": ["title", "body"]}, False),
        ({"_source": False, "fields": ["*"]}, False),
        ({"_source": ["title"], "fields": ["bo*", {"field": "day", "format": "yyyy"}]}, False),
        ({"_source": False, "fields": ["title"]}, True),
        ({"stored_fields": ["title", "body"]}, False),
        ({"stored_fields": ["title"]}, True),
        ({"_source": False, "docvalue_fields": ["title.keyword", "body.keyword"]}, True),
        ({"_source": False, "highlight": {"fields": {"*": {}}}}, True),
    ],
    ids=json.dumps,
)
async def test_the_order_is_the_same_whatever_the_app_asks_to_see(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, body: Json, fetched: bool
) -> None:
    index = index_name("pies", {"mappings": MAPPING}, DOCUMENTS)
    page = await searched(sidecar_on, engine, index, body, reading())
    assert (page.outcome, ids(page)) == ("RERANKED", ["3", "2", "1"])
    assert passages(page)["3"] == "cakes\nan apple tart of some kind"
    assert has_fetched(page) is fetched


async def test_doc_values_and_formatted_fields_are_text(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    index = index_name("pies", {"mappings": MAPPING}, DOCUMENTS)
    body = {"_source": False, "docvalue_fields": ["tags"], "fields": [{"field": "day", "format": "dd/MM/yyyy"}]}
    page = await searched(sidecar_on, engine, index, body, reading("tags", "day"))
    assert ids(page) == ["3", "2", "1"]
    assert passages(page)["3"] == "apple\ntart\n03/01/2025"
    assert not has_fetched(page)


async def test_a_missing_field_is_not_scored_as_an_empty_text(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    """As OpenSearch's own reranking does. A document without text keeps the place that the engine gave it."""
    empty: dict[str, Json] = {
        "0": {"other": "x"},
        "1": {"title": "car"},
        "2": {"title": " ", "body": None},
        "3": {"body": "apple"},
    }
    index = index_name("gaps", documents=empty)
    page = await searched(sidecar_on, engine, index, {}, reading())
    assert ids(page) == ["0", "3", "2", "1"]
    assert [result.HasField("relevance_score") for result in page.results] == [False, True, False, True]
    assert not has_fetched(page)


async def test_all_values_are_joined_by_the_separator(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    """OpenSearch's own reranking joins fields with nothing between them and reads the first value alone."""
    documents: dict[str, Json] = {
        "1": {"title": "x", "by": {"name": "y"}},
        "2": {"title": ["a", "b"], "by": [{"name": "c"}, {"name": "d"}]},
    }
    index = index_name("many", documents=documents)
    for body in ({}, {"_source": False}, {"_source": False, "fields": ["*"]}):
        page = await searched(sidecar_on, engine, index, body, reading("title", "by.name", separator=" | "))
        assert passages(page) == {"1": "x | y", "2": "a | b | c | d"}


@pytest.mark.parametrize("body", [{}, {"_source": False}], ids=["nothing to fetch", "nothing found"])
async def test_a_disabled_source_is_told(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, body: Json
) -> None:
    index = index_name("bare", {"mappings": {**MAPPING, "_source": {"enabled": False}}}, DOCUMENTS)
    page = await searched(sidecar_on, engine, index, body, reading())
    assert (page.outcome, page.reason, ids(page)) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE", ["1", "2", "3"])
    assert "`_source`" in page.message.meta.detail
    assert "disable" in page.message.meta.detail


async def test_stored_fields_stand_in_for_a_disabled_source(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    index = index_name("bare", {"mappings": {**MAPPING, "_source": {"enabled": False}}}, DOCUMENTS)
    page = await searched(sidecar_on, engine, index, {"stored_fields": ["title", "body"]}, reading())
    assert (ids(page), has_fetched(page)) == (["3", "2", "1"], False)


async def test_beside_an_index_without_source_the_others_are_scored(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    bare = index_name("a", {"mappings": {**MAPPING, "_source": {"enabled": False}}}, {"0": {"title": "apple tart"}})
    full = index_name("b", {"mappings": MAPPING}, DOCUMENTS)
    page = await searched(sidecar_on, engine, f"{bare},{full}", {"_source": False}, reading())
    own = list(own_hits(engine, f"{bare},{full}", {}).values())
    place = [hit["_id"] for hit in own].index("0")
    assert page.outcome == "RERANKED"
    assert ids(page)[place] == "0"
    assert [key for key in ids(page) if key != "0"] == ["3", "2", "1"]


async def test_what_the_mapping_excludes_from_the_source_is_not_asked_for_again(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    index = index_name("cut", {"mappings": {**MAPPING, "_source": {"excludes": ["body"]}}}, DOCUMENTS)
    page = await searched(sidecar_on, engine, index, {}, reading())
    assert (ids(page), has_fetched(page)) == (["2", "1", "3"], False)
    page = await searched(sidecar_on, engine, index, {"_source": True, "stored_fields": ["body"]}, reading())
    assert (ids(page), has_fetched(page)) == (["3", "2", "1"], False)


async def test_a_synthetic_source_is_read(engine: Engine, index_name: Indices, sidecar_on: SidecarOn) -> None:
    if engine.kind != "elasticsearch":
        pytest.skip("synthetic source is a feature of Elasticsearch")
    settings = {"index.mapping.source.mode": "synthetic"}
    index = index_name("made", {"mappings": MAPPING, "settings": settings}, DOCUMENTS)
    assert own_hits(engine, index, {})[f"{index}/2"]["_source"]["day"] == "2025-01-02T00:00:00.000Z", "not synthetic"
    for body in ({}, {"_source": False}):
        page = await searched(sidecar_on, engine, index, body, reading())
        assert ids(page) == ["3", "2", "1"]


HIGHLIGHT = {"fields": {"title": {"number_of_fragments": 0}, "body": {"pre_tags": ["[["], "post_tags": ["]]"]}}}


@pytest.mark.parametrize("sources", [["source", "highlight"], ["highlight", "source", "fields"]], ids=" then ".join)
async def test_fragments_are_read_without_their_tags_where_the_policy_says_so(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, sources: Sequence[str]
) -> None:
    long = {"title": "apple", "body": "An apple. " + "Other things. " * 40 + "A tart."}
    index = index_name("marks", {"mappings": MAPPING}, {"1": {"title": "apple", "body": "apple"}, "2": long})
    query = {"multi_match": {"query": QUERY, "fields": ["title", "body"]}}
    body = {"query": query, "_source": False, "highlight": {"pre_tags": ["<b>"], "post_tags": ["</b>"], **HIGHLIGHT}}
    page = await searched(sidecar_on, engine, index, body, reading(sources=sources))
    assert page.outcome == "RERANKED"
    assert not has_fetched(page)
    read = passages(page)["2"].split("\n")
    assert read[0] == "apple"
    assert "tart" in read[-1]
    assert not any(mark in passages(page)["2"] for mark in ("<b>", "[[", "]]", "<em>"))
    assert len(passages(page)["2"]) < len(long["body"])


async def test_a_document_is_fetched_with_the_routing_it_was_written_with(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    mapping = {**MAPPING, "_routing": {"required": True}}
    index = index_name("routed", {"mappings": mapping, "settings": {"number_of_shards": 5}})
    for number, (key, source) in enumerate(DOCUMENTS.items()):
        engine.bulk(index, {key: source}, routing=f"customer-{number}")
    page = await searched(sidecar_on, engine, index, {"_source": False}, reading())
    assert (ids(page), page.message.meta.scored) == (["3", "2", "1"], 3)
    async with sidecar_on(engine, policy=reading()) as (client, _):
        given = [pb.Candidate(id=key, index=index, routing=f"customer-{n}") for n, key in enumerate(DOCUMENTS)]
        reply = await client.rerank(QUERY, given)
    assert [result.id for result in reply.results] == ["3", "2", "1"]


async def test_an_alias_over_two_indices_with_the_same_ids(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    """The text of a hit is that of its own index, whatever the name that was searched."""
    first = index_name("a", {"mappings": MAPPING}, {"1": {"title": "apple"}, "2": {"title": "wheel"}})
    second = index_name("b", {"mappings": MAPPING}, {"1": {"title": "road"}, "2": {"title": "apple tart"}})
    alias = f"{first}-alias"
    actions = [{"add": {"index": index, "alias": alias}} for index in (first, second)]
    engine.call("POST", "/_aliases", {"actions": actions})
    page = await searched(sidecar_on, engine, alias, {"_source": False}, reading())
    read = {(hit["_index"], hit["_id"]): result.passage for hit, result in zip(page.hits, page.results, strict=True)}
    assert read == {(first, "1"): "apple", (first, "2"): "wheel", (second, "1"): "road", (second, "2"): "apple tart"}
    assert [(result.index, result.id) for result in page.results][:2] == [(second, "2"), (first, "1")]


async def test_the_documents_of_a_data_stream_are_fetched_from_its_backing_indices(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    first, *others = [{**source, "@timestamp": "2026-01-01T00:00:00Z"} for source in DOCUMENTS.values()]
    stream = index_name.stream("stream", [first])
    for document in others:
        engine.call("POST", f"/{stream}/_rollover")
        engine.call("POST", f"/{stream}/_doc?op_type=create&refresh=true", document)
    page = await searched(sidecar_on, engine, stream, {"_source": False}, reading())
    titles = [result.passage.split("\n")[0] for result in page.results]
    assert titles == ["cakes", "apple pie", "car repair"]
    assert len({hit["_index"] for hit in page.hits}) == 3
    assert all(hit["_index"].startswith(".ds-") for hit in page.hits)


class Between:
    """A connector before whose fetches something happens to the documents."""

    def __init__(self, inner: Connector, happens: Callable[[], object]) -> None:
        self._inner = inner
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], **more: Any
    ) -> Mapping[DocumentRef, Json]:
        """Fetch, afterwards."""
        self._happens()
        return await self._inner.fetch(refs, fields, **more)


@pytest.mark.parametrize("source", [False, ["title"]], ids=["no text in the hit", "some text in the hit"])
async def test_a_document_deleted_between_search_and_fetch_keeps_its_place_unscored(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, connector_of: ConnectorOf, source: Any
) -> None:
    index = index_name("gone", {"mappings": MAPPING}, DOCUMENTS)
    async with connector_of(engine) as own:
        deleting = Between(own, lambda: engine.call("DELETE", f"/{index}/_doc/2?refresh=true"))
        connector = cast(Connector, deleting)
        page = await searched(sidecar_on, engine, index, {"_source": source}, reading(), connector=connector)
    assert (page.outcome, ids(page)) == ("RERANKED", ["3", "2", "1"])
    assert [result.HasField("relevance_score") for result in page.results] == [True, False, True]
    assert page.message.meta.scored == 2


async def test_ids_of_deleted_documents_are_never_given_a_score(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    index = index_name("gone", {"mappings": MAPPING}, DOCUMENTS)
    engine.call("DELETE", f"/{index}/_doc/1?refresh=true")
    given = [pb.Candidate(id=key, index=index) for key in DOCUMENTS]
    async with sidecar_on(engine, policy=reading()) as (client, _):
        reply = await client.rerank(QUERY, given)
        assert [result.id for result in reply.results] == ["1", "3", "2"]
        assert not reply.results[0].HasField("relevance_score")
        reply = await client.rerank(QUERY, given[:1])
    assert (reply.outcome, reply.reason) == (pb.OUTCOME_ORIGINAL_ORDER, pb.REASON_TEXT_UNAVAILABLE)
    assert "deleted" in reply.meta.detail


@pytest.mark.parametrize("index", ["no-such-index", "elsewhere:pies"])
async def test_a_document_of_an_index_that_cannot_be_read_costs_only_itself(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, index: str
) -> None:
    pies = index_name("pies", {"mappings": MAPPING}, DOCUMENTS)
    given = [pb.Candidate(id="1", index=index), *(pb.Candidate(id=key, index=pies) for key in DOCUMENTS)]
    async with sidecar_on(engine, policy=reading()) as (client, _):
        reply = await client.rerank(QUERY, given)
    assert reply.outcome == pb.OUTCOME_RERANKED
    assert [result.original_rank for result in reply.results] == [0, 3, 2, 1]


async def test_fields_that_are_no_text_do_no_harm(engine: Engine, index_name: Indices, sidecar_on: SidecarOn) -> None:
    odd: Json = {
        "object": {"a": "apple tart"},
        "binary": base64.b64encode(bytes(range(256)) * 20).decode(),
        "place": {"lat": 1.5, "lon": 2.5},
        "flag": True,
        "number": 7,
        "lists": [["apple"], [["tart"]]],
        "none": None,
    }
    types = {"binary": {"type": "binary"}, "place": {"type": "geo_point"}, "lists": {"type": "keyword"}}
    index = index_name("odd", {"mappings": {"properties": types}}, {"1": {"number": 1}, "2": odd})
    for body in ({}, {"_source": False}, {"_source": False, "fields": ["*"]}):
        page = await searched(sidecar_on, engine, index, body, reading(*odd))
        assert passages(page) == {"1": "1", "2": "7\napple\ntart"}
        assert ids(page) == ["2", "1"]


async def test_ten_megabytes_of_html_are_read_in_time(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    page_of = "<script>apple tart</script><p>An <b>apple</b> tart &amp; more</p>" + "<div>filler" * 900_000
    mapping = {"properties": {"body": {"type": "text", "index": False}}}
    index = index_name("long", {"mappings": mapping}, {"1": {"body": "plain"}, "2": {"body": page_of}})
    policy = reading({"name": "body", "html": True, "max_chars": 40})
    page = await searched(sidecar_on, engine, index, {"_source": False}, policy)
    assert (page.outcome, ids(page)) == ("RERANKED", ["2", "1"])
    assert passages(page)["2"].startswith("An apple tart & more\nfiller\n")
    assert len(passages(page)["2"]) == 40
