"""Request targets, JSON bodies and answers, the same for both engines. Pure, no I/O."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from connectors.attempts import Call
from connectors.base import EngineInfo, Member
from connectors.errors import MalformedAnswer
from connectors.hits import DocumentRef, Hits, Json
from connectors.refusals import invalid_query, no_such_index

MGET = "/_mget"
RENDER = "/_render/template"
ALL_INDICES = "_all"
LONGEST_NAME = 200  # characters of an index in a message


def check_index(call: Call, index: str) -> None:
    """Refuse what cannot be an index expression, before any engine sees it.

    None may begin with ``_`` (except ``_all``): ``POST /_scripts/_search`` would store a script, not search. ``.`` and
    ``..`` vanish from a URL, which would make it a search on all indices, as would an empty name.

    Raises:
        InvalidQuery: the name is not an index expression.
    """
    if not _is_expression(index):
        raise invalid_query(call, "invalid_index_name_exception", f"{index!r} is not an index expression")


def _is_expression(index: str) -> bool:
    return index not in ("", ".", "..") and (not index.startswith("_") or index.split(",")[0] == ALL_INDICES)


def can_be_fetched(ref: DocumentRef) -> bool:
    """Whether an ``_mget`` may ask for it: an invalid index may fail all of it, and no other cluster is reached."""
    return _is_expression(ref.index) and ":" not in ref.index


def search_target(call: Call, index: str, params: Mapping[str, str] | None, *, pit: bool = False) -> str:
    """Return path and query string of a search; ``index`` stays one segment of the path whatever it holds.

    ``pit`` says that the body holds a point in time: only then may the index be empty.

    Raises:
        InvalidQuery: the name is not an index expression, or it or a parameter cannot be written in a URL.
    """
    if index or not pit:
        check_index(call, index)
    try:
        query = f"?{urlencode(params, quote_via=quote)}" if params else ""
        return f"/{quote(index, safe=',*')}/_search{query}" if index else f"/_search{query}"
    except UnicodeEncodeError as error:
        reason = "the index expression or a URL parameter holds a lone surrogate, which no URL can carry"
        raise invalid_query(call, "illegal_argument_exception", reason) from error


def resolve_target(call: Call, expression: str) -> str:
    """Return the path that asks what an index expression stands for.

    Raises:
        InvalidQuery: the name is not an index expression, or cannot be written in a URL.
    """
    check_index(call, expression)
    asked = ",".join("*" if part == ALL_INDICES else part for part in expression.split(","))
    try:
        return f"/_resolve/index/{quote(asked, safe=',*')}"  # to OpenSearch, `_all` is a name like any other here
    except UnicodeEncodeError as error:
        reason = "the index expression holds a lone surrogate, which no URL can carry"
        raise invalid_query(call, "illegal_argument_exception", reason) from error


def encode(call: Call, body: Json) -> bytes:
    """Return the body as JSON in ASCII, so that a lone surrogate is sent as its escape.

    Raises:
        InvalidQuery: the body is not a JSON object, holds a value that JSON does not have (such as NaN) or a cycle, or
            is nested too deeply.
    """
    if not isinstance(body, Mapping):
        raise invalid_query(call, "parsing_exception", "the body is not a JSON object")
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError) as error:
        reason = "the body holds a value that JSON does not know, such as a number that is not finite"
        raise invalid_query(call, "parsing_exception", reason) from error
    except RecursionError as error:
        raise invalid_query(call, "parsing_exception", "the body is nested too deeply") from error


def decode(call: Call, body: bytes) -> Json:
    """Decode the JSON object that an engine answered.

    Raises:
        MalformedAnswer: the answer is not a JSON object.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(call.sentence("the engine's answer is not complete JSON")) from error
    if not isinstance(answer, dict):
        raise MalformedAnswer(call.sentence("the engine's answer is JSON, but not an object"))
    return answer


def read_hits(call: Call, body: bytes) -> Hits:
    """Read the hits of a search's answer, or raise a ``MalformedAnswer`` that names the call."""
    try:
        return Hits.read(body.decode(errors="replace"))  # engines return invalid UTF-8 that was indexed
    except MalformedAnswer as error:
        raise MalformedAnswer(call.sentence(str(error))) from error


def read_members(call: Call, expression: str, answer: Json) -> tuple[Member, ...]:
    """Read what an index expression stands for from the answer to ``_resolve/index``; each concrete index once.

    OpenSearch ignores an unknown name, Elasticsearch answers 404: here both raise ``IndexNotFound``.

    Raises:
        IndexNotFound: a plain name is neither an index nor an alias nor a data stream.
        MalformedAnswer: a list is missing, or an entry has no name.
    """
    found: dict[str, dict[str, None]] = {}
    names: set[str] = set()
    try:
        for row in answer["indices"]:
            name = str(row["name"])
            streams = [f"{_cluster(name)}{row['data_stream']}"] if "data_stream" in row else []
            found.setdefault(name, {}).update(dict.fromkeys(streams))
        for kind, members in (("aliases", "indices"), ("data_streams", "backing_indices")):
            for row in answer[kind]:
                name = str(row["name"])
                names.add(name)
                for index in _texts(row[members]):
                    found.setdefault(f"{_cluster(name)}{index}", {})[name] = None
    except (KeyError, TypeError) as error:
        raise MalformedAnswer(
            call.sentence("the engine's answer does not list indices, aliases and data streams")
        ) from error
    for part in expression.split(","):
        if _is_plain(part) and part not in names | found.keys():
            raise no_such_index(call, part)
    return tuple(Member(index, tuple(via)) for index, via in found.items())


def _is_plain(part: str) -> bool:
    """Whether it is one name of this cluster: no pattern, exclusion, date math, remote name or ``_all``."""
    return part != ALL_INDICES and not part.startswith(("-", "<")) and not {"*", ":"} & set(part)


def _cluster(name: str) -> str:
    """Return the cluster prefix of a name, `eu:` of `eu:logs`; the answer lists the name's indices without it."""
    return name[: name.find(":") + 1]


def _texts(value: object) -> list[str]:
    """Return a list of strings; the engines write a list of one element as that element."""
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def read_template(call: Call, answer: Json) -> Json:
    """Read the search body that a template made.

    Raises:
        InvalidQuery: the template does not make a JSON object.
    """
    body = answer.get("template_output")
    if not isinstance(body, dict):
        raise invalid_query(call, "illegal_argument_exception", "the template does not make a JSON object")
    return body


def mget_body(refs: Sequence[DocumentRef], fields: Sequence[str]) -> Json:
    """The body of an ``_mget`` for ``refs``, in their order."""
    return {"docs": [_mget_row(ref, fields) for ref in refs]}


def _mget_row(ref: DocumentRef, fields: Sequence[str]) -> Json:
    routing = {} if ref.routing is None else {"routing": ref.routing}
    return {"_index": ref.index, "_id": ref.id, **routing, "_source": list(fields)}


def read_documents(call: Call, refs: Sequence[DocumentRef], answer: Json) -> dict[DocumentRef, Json]:
    """Read the documents that an ``_mget`` for ``refs`` found; missing and failed ones are left out.

    Raises:
        MalformedAnswer: there is no ``docs`` list.
    """
    docs = answer.get("docs")
    if not isinstance(docs, list):
        raise MalformedAnswer(call.sentence("the engine's answer has no `docs` list"))
    paired = zip(refs, docs, strict=True) if len(docs) == len(refs) else _pair_by_id(refs, docs)
    return {ref: doc["_source"] for ref, doc in paired if _is_found(doc) and doc.get("_id") == ref.id}


def _pair_by_id(refs: Sequence[DocumentRef], docs: list[Any]) -> list[tuple[DocumentRef, Any]]:
    """Pair the documents of an answer of another length by index and id, where these name only one reference."""
    asked: dict[tuple[object, object], list[DocumentRef]] = {}
    for ref in refs:
        asked.setdefault((ref.index, ref.id), []).append(ref)
    places = [(asked.get((str(doc.get("_index")), str(doc.get("_id"))), []), doc) for doc in docs if _is_found(doc)]
    return [(same[0], doc) for same, doc in places if len(same) == 1]


def _is_found(doc: object) -> bool:
    return isinstance(doc, dict) and doc.get("found") is True and isinstance(doc.get("_source"), dict)


def read_info(call: Call, answer: Json) -> EngineInfo:
    """Read name and version from the answer to ``GET /``; only OpenSearch states a ``distribution``.

    Raises:
        MalformedAnswer: there is no version number.
    """
    version = answer.get("version")
    number = version.get("number") if isinstance(version, dict) else None
    if not isinstance(version, dict) or not isinstance(number, str):
        raise MalformedAnswer(call.sentence("the engine's answer has no `version.number`"))
    return EngineInfo(str(version.get("distribution") or "elasticsearch"), number)
