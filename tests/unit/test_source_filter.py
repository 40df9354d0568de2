"""When the text in the hits is known to be whole."""

from typing import Any

import pytest

from sidecar.settings import TextSettings
from sidecar.source_filter import carries
from sidecar.types import Carried


@pytest.mark.parametrize(
    ("body", "params", "whole"),
    [
        ({}, {}, True),
        ({"_source": True}, {}, True),
        ({"_source": False}, {}, False),
        ({"_source": ["title", "author"]}, {}, True),
        ({"_source": ["title", "author.*"]}, {}, True),
        ({"_source": ["title"]}, {}, False),
        ({"_source": "*"}, {}, True),
        ({"_source": []}, {}, False),
        ({"_source": None}, {}, False),
        ({"_source": 5}, {}, False),
        ({"_source": {"includes": None}}, {}, False),
        ({"_source": {"includes": ["*"]}}, {}, True),
        ({"_source": {"includes": ["title"]}}, {}, False),
        ({"_source": {"excludes": ["body"]}}, {}, False),
        ({"stored_fields": ["title"]}, {}, False),
        ({}, {"_source": "title"}, False),
        ({}, {"_source_excludes": "title"}, False),
        ({}, {"routing": "x"}, True),
    ],
)
def test_carries(body: dict[str, Any], params: dict[str, str], whole: bool) -> None:
    settings = TextSettings.model_validate({"fields": ["title", "author.name"]})
    assert carries(body, params, settings) is (Carried.WHOLE if whole else Carried.FILTERED)
