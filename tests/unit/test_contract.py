"""The code and the contract say the same."""

import re
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from connectors import errors as engine
from sidecar import errors
from sidecar.interceptors import status_of
from sidecar.types import Outcome, Reason
from sidecar.v1 import rerank_pb2 as pb

PROTO = (Path(__file__).parents[2] / "proto/sidecar/v1/rerank.proto").read_text()


@pytest.mark.parametrize(("ours", "contract"), [(Outcome, pb.Outcome), (Reason, pb.Reason)])
def test_enums_have_the_numbers_of_the_contract(ours: type[Outcome] | type[Reason], contract: object) -> None:
    prefix = ours.__name__.upper()
    assert {f"{prefix}_{one.name}": one.value for one in ours} == dict(contract.items())  # type: ignore[attr-defined]


def test_every_field_value_and_call_of_the_contract_is_documented() -> None:
    lines = [line.strip() for line in PROTO.splitlines()]
    declarations = re.compile(
        r"^(rpc |message |enum |service |(optional |repeated |map<)?[\w.<>, ]+ = \d+;|[A-Z_]+ = \d+;)"
    )
    bare = [line for before, line in pairwise(lines) if declarations.match(line) and not before.startswith("//")]
    assert bare == []


def _subclasses(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in _subclasses(sub))]


@pytest.mark.parametrize("kind", _subclasses(errors.RequestError)[1:] + _subclasses(engine.ConnectorError)[1:])
def test_every_error_that_can_reach_a_client_has_a_status_named_in_the_contract(kind: type[Exception]) -> None:
    code = status_of(kind("message"))
    assert code is not None
    assert re.search(rf"^//   {code.name} ", PROTO, re.MULTILINE)


def test_an_unforeseen_error_has_no_status_of_its_own() -> None:
    assert status_of(KeyError("x")) is None
    assert status_of(errors.ModelError("x")) is None


@pytest.mark.parametrize("kind", _subclasses(errors.Fallback)[1:])
def test_every_fallback_has_a_reason(kind: type[errors.Fallback]) -> None:
    assert kind.reason in Reason
    assert kind.reason is not Reason.UNSPECIFIED


def test_statuses_are_those_of_grpc() -> None:
    assert status_of(errors.InvalidRequest("x")) is grpc.StatusCode.INVALID_ARGUMENT
    assert status_of(engine.EngineTimeout("x")) is grpc.StatusCode.DEADLINE_EXCEEDED
