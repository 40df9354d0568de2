"""When the text in the hits is known to be whole."""

from typing import Any

import pytest

from sidecar.source_filter import carries


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
    assert carries(body, params, ["title", "author.name"]) == whole
