"""The engines that can be started here, and what each is made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
POM = "{http://maven.apache.org/POM/4.0.0}"
PASSWORD = "Engine-test-9200!"  # of throwaway nodes on 127.0.0.1; java/opensearch/internal_users.yml holds its hash

Kind = Literal["elasticsearch", "opensearch"]


class EngineError(RuntimeError):
    """The engine cannot be prepared or started; the message says why, or ends with the node's log."""


class Missing(EngineError):
    """This machine lacks a program that the engine needs; the message names it."""


@dataclass(frozen=True)
class Spec:
    """What an engine is made of. The version is that of the Maven profile called ``profile``.

    ``sources`` are folders of Java beside the launcher's, ``lacks`` the features that its jars leave out.
    """

    name: str
    kind: Kind
    profile: str
    min_jdk: int
    user: str | None = None
    sources: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """Where the pom and the launcher's source are."""
        return HERE / "java" / self.kind

    @property
    def main(self) -> str:
        """The launcher's class."""
        return {"opensearch": "OpenSearchMain", "elasticsearch": "ElasticsearchMain"}[self.kind]

    @property
    def version(self) -> str:
        """The engine's version, such as ``9.5.3``."""
        pom = self.folder / "pom.xml"
        for profile in ElementTree.parse(pom).iter(f"{POM}profile"):
            if profile.findtext(f"{POM}id") == self.profile:
                return profile.findtext(f"{POM}properties/{POM}engine.version", "")
        raise EngineError(f"{pom.name} of {self.kind} has no profile {self.profile}")


# Published jars hold a part of what a distribution has: docs/engines.md has the whole list.
NOT_IN_OPENSEARCH = frozenset({"dense vectors", "hybrid query", "rrf"})
NOT_IN_ELASTICSEARCH = frozenset(
    {"painless", "parent-join", "percolator", "search templates", "reindex", "ingest", "rrf"}
)

ENGINES = {
    spec.name: spec
    for spec in (
        Spec("opensearch-3", "opensearch", "opensearch-3", 21, lacks=NOT_IN_OPENSEARCH),
        Spec("opensearch-2", "opensearch", "opensearch-2", 17, lacks=NOT_IN_OPENSEARCH),
        Spec("elasticsearch-9", "elasticsearch", "elasticsearch-9", 21, None, ("rest-9",), NOT_IN_ELASTICSEARCH),
        Spec("elasticsearch-8", "elasticsearch", "elasticsearch-8", 17, None, ("rest-8",), NOT_IN_ELASTICSEARCH),
        Spec("opensearch-3-secured", "opensearch", "opensearch-3-secured", 21, "admin", lacks=NOT_IN_OPENSEARCH),
        Spec(
            "elasticsearch-9-secured",
            "elasticsearch",
            "elasticsearch-9",
            21,
            "elastic",
            ("rest-9",),
            NOT_IN_ELASTICSEARCH,
        ),
        Spec(
            "elasticsearch-8-secured",
            "elasticsearch",
            "elasticsearch-8",
            17,
            "elastic",
            ("rest-8",),
            NOT_IN_ELASTICSEARCH,
        ),
    )
}


def spec_of(name: str) -> Spec:
    """The engine of that name; ``EngineError`` when there is none."""
    try:
        return ENGINES[name]
    except KeyError:
        raise EngineError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}") from None
