"""Which product answered, in one sentence."""

import pytest

from connectors import EngineInfo
from connectors.products import untested_version, wrong_product


@pytest.mark.parametrize(
    ("expected", "engine", "version", "sentence"),
    [
        ("elasticsearch", "elasticsearch", "9.5.3", ""),
        ("opensearch", "opensearch", "1.3.0", ""),
        ("elasticsearch", "opensearch", "3.8.0", "this is OpenSearch 3.8.0; use `type: opensearch`"),
        ("opensearch", "elasticsearch", "8.19.2", "this is Elasticsearch 8.19.2; use `type: elasticsearch`"),
        ("opensearch", "easysearch", "1.0", "this is easysearch 1.0, neither Elasticsearch nor OpenSearch"),
    ],
)
def test_the_wrong_product_is_named(expected: str, engine: str, version: str, sentence: str) -> None:
    assert wrong_product(expected, EngineInfo(engine, version)) == sentence


@pytest.mark.parametrize(
    ("engine", "version", "tested"),
    [
        ("elasticsearch", "8.19.2", True),
        ("elasticsearch", "9.0.0", True),
        ("elasticsearch", "7.17.9", False),
        ("elasticsearch", "10.0.0", False),
        ("opensearch", "2.19.5", True),
        ("opensearch", "3.8.0", True),
        ("opensearch", "1.3.0", False),
        ("opensearch", "22.0.0", False),
        ("opensearch", "serverless", False),
        ("opensearch", "3", False),
        ("memory", "0.3.16", True),
    ],
)
def test_an_untested_version_is_told(engine: str, version: str, tested: bool) -> None:
    sentence = untested_version(EngineInfo(engine, version))
    assert (sentence == "") == tested
    assert tested or f"{version} is not a tested version; tested: " in sentence
