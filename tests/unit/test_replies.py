"""The engine's JSON on its way out."""

import json

from sidecar.replies import to_json


def test_text_is_written_as_it_is() -> None:
    assert to_json({"a": ["東", 1.5, None]}) == '{"a":["東",1.5,null]}'


def test_a_lone_surrogate_stays_escaped() -> None:
    assert to_json({"a": "\ud800"}) == '{"a":"\\ud800"}'


def test_a_number_too_large_for_a_double_is_still_json() -> None:
    text = to_json({"a": [float("inf"), -float("inf"), 1.0], "b": float("nan")})
    assert json.loads(text, parse_constant=lambda name: name) == {
        "a": [1.7976931348623157e308, -1.7976931348623157e308, 1.0],
        "b": None,
    }
