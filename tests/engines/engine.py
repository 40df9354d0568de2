"""An engine as the tests see it: a node that was started for them, or a cluster that somebody named."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.engines.catalog import PASSWORD, EngineError, Kind, spec_of
from tests.engines.node import Node, running
from tests.engines.rest import Access, CallRefused, Json

LOCAL = {"number_of_shards": 1, "number_of_replicas": 0}


@dataclass
class Engine:
    """A running engine. ``user``, ``password``, ``ca_certs`` and ``api_key`` are None where it needs none.

    ``lacks`` names the features that its jars leave out; ``node`` is None when it is a cluster that somebody named.
    """

    name: str
    kind: Kind
    version: str
    access: Access
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    lacks: frozenset[str] = frozenset()
    node: Node | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Such as ``http://127.0.0.1:9200``."""
        return self.access.url

    @property
    def ca_certs(self) -> str | None:
        """The file of the CA certificates to trust."""
        return self.access.ca_certs

    @property
    def secured(self) -> bool:
        """Whether it asks who is calling."""
        return self.access.authorization is not None

    @property
    def major(self) -> int:
        """The first number of its version."""
        return int(self.version.partition(".")[0])

    def call(
        self,
        method: str,
        path: str,
        body: Json | str | None = None,
        *,
        authorization: str | None = None,
        timeout_s: float = 60,
    ) -> Json:
        """Ask the engine itself, see :meth:`tests.engines.rest.Access.call`; ``authorization`` asks as another user."""
        access = Access(self.url, authorization or self.access.authorization, self.ca_certs)
        return access.call(method, path, body, timeout_s=timeout_s)

    def bulk(self, index: str, documents: Mapping[str, Json], *, routing: str | None = None) -> None:
        """Write documents by id and make them searchable; ``EngineError`` when one is refused."""
        action = {"_index": index} | ({"routing": routing} if routing else {})
        lines = [line for key, source in documents.items() for line in ({"index": {**action, "_id": key}}, source)]
        answer = self.call("POST", "/_bulk?refresh=true", "".join(f"{json.dumps(line)}\n" for line in lines))
        if answer["errors"]:
            refused = [row for row in answer["items"] if "error" in row["index"]]
            raise EngineError(f"{self.name} refused {len(refused)} documents, first: {json.dumps(refused[0])}")

    def needs(self, feature: str) -> None:
        """Skip the test when the engine's jars leave that feature out."""
        if feature in self.lacks:
            pytest.skip(f"the published jars of {self.name} lack {feature}")

    def needs_own_node(self) -> None:
        """Skip the test on somebody's cluster: it changes a setting of the whole."""
        if self.node is None:
            pytest.skip(f"{self.name} is somebody's cluster, whose settings are left alone")

    def kill(self) -> None:
        """End the node as a crash would."""
        self._node().kill()

    def restart(self, timeout_s: float = 120) -> None:
        """Start the node again at the same address with the same data, killing it first if it runs."""
        self._node().restart(timeout_s)

    def log(self) -> str:
        """What the node has printed so far."""
        return self._node().log()

    def _node(self) -> Node:
        if self.node is None:
            raise EngineError(f"{self.name} is somebody's cluster, not a node of these tests")
        return self.node


@contextmanager
def started(name: str, **options: Any) -> Iterator[Engine]:
    """The engine of that name for the length of a ``with`` block; options as for :func:`tests.engines.node.running`."""
    spec = spec_of(name)
    with running(spec, **options) as node:
        password = PASSWORD if spec.user else None
        yield Engine(name, spec.kind, spec.version, node.access, spec.user, password, lacks=spec.lacks, node=node)


class Indices:
    """Gives out names that nobody else uses, and deletes what was made under them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prefix = f"rerank-sidecar-test-{uuid.uuid4().hex[:8]}"
        self._names: list[str] = []

    def __call__(self, label: str, body: Json | None = None, documents: Mapping[str, Json] | None = None) -> str:
        """A new name; with a body or documents the index is made (one shard unless the body says more) and filled."""
        return self.named(f"{self._prefix}-{len(self._names)}-{label}", body, documents)

    def named(self, name: str, body: Json | None = None, documents: Mapping[str, Json] | None = None) -> str:
        """The same for a name that the test makes, which begins with one given out."""
        self._names.append(name)
        if body is not None or documents is not None:
            body = body or {}
            settings = {**LOCAL, **body.get("settings", {})}
            self._engine.call("PUT", f"/{name}", {**body, "settings": settings})
        if documents:
            self._engine.bulk(name, documents)
        return name

    def stream(self, label: str, documents: Sequence[Json]) -> str:
        """The name of a new data stream of these documents, each of which needs its ``@timestamp``."""
        name = self(label)
        template = {"index_patterns": [name], "data_stream": {}, "template": {"settings": LOCAL}, "priority": 999}
        self._engine.call("PUT", f"/_index_template/{name}", template)
        for document in documents:
            self._engine.call("POST", f"/{name}/_doc?op_type=create&refresh=true", document)
        return name

    def drop(self) -> None:
        """Delete the indices, data streams and templates of all names given out.

        The published jars of Elasticsearch cannot delete a data stream, which then stays as long as its node.
        """
        for name in reversed(self._names):
            for path in (f"/{name}", f"/_data_stream/{name}", f"/_index_template/{name}"):
                try:
                    self._engine.call("DELETE", path)
                except CallRefused as error:
                    if error.status not in (400, 404, 405):
                        raise


@contextmanager
def indices(engine: Engine) -> Iterator[Indices]:
    """Names for the length of a ``with`` block."""
    names = Indices(engine)
    try:
        yield names
    finally:
        names.drop()
