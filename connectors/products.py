"""Which engine answered, and whether it is the one that was configured. Pure, no I/O."""

import re

from connectors.base import EngineInfo

WRONG_PRODUCT = "unsupported_product"
"""The ``error_type`` if another product answers."""
NAMES = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}
TESTED_MAJORS = {"elasticsearch": (8, 9), "opensearch": (2, 3)}


def wrong_product(expected: str, info: EngineInfo) -> str:
    """One sentence if the engine that answered is not the ``expected`` one; empty if it is.

    >>> wrong_product("elasticsearch", EngineInfo("opensearch", "3.8.0"))
    'this is OpenSearch 3.8.0; use `type: opensearch`'
    """
    if info.engine == expected:
        return ""
    if info.engine in NAMES:
        return f"this is {NAMES[info.engine]} {info.version}; use `type: {info.engine}`"
    return f"this is {info.engine} {info.version}, neither Elasticsearch nor OpenSearch"


def untested_version(info: EngineInfo) -> str:
    """One sentence if a known engine's version is not among :data:`TESTED_MAJORS`; empty otherwise."""
    tested = TESTED_MAJORS.get(info.engine)
    major = re.match(r"\d+(?=\.)", info.version)
    if tested is None or (major and int(major[0]) in tested):
        return ""
    versions = " and ".join(map(str, tested))
    return f"{NAMES[info.engine]} {info.version} is not a tested version; tested: {versions}"
