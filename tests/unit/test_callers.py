"""Who calls is the host that gRPC names, without what changes with each connection."""

import pytest

from sidecar.callers import host_of


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:50000", "10.0.0.7"),
        ("ipv6:%5B::1%5D:50000", "%5B::1%5D"),
        ("ipv6:[fe80::1]:1", "[fe80::1]"),
        ("unix:", "unix"),
        ("unix:/run/sidecar.sock", "unix"),
        ("", ""),
    ],
)
def test_the_port_of_a_peer_does_not_count(peer: str, host: str) -> None:
    assert host_of(peer) == host
