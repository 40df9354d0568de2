"""JSON on its way out."""

from sidecar.replies import to_json


def test_text_is_written_as_it_is() -> None:
    assert to_json({"a": ["東", 1.5, None]}) == '{"a":["東",1.5,null]}'


def test_a_lone_surrogate_stays_escaped() -> None:
    assert to_json({"a": "\ud800"}) == '{"a":"\\ud800"}'
