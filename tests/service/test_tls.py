"""TLS on the gRPC port: who is let in, and certificates that change while calls run."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from typer.testing import CliRunner

from sidecar.certificates import Certificates
from sidecar.cli import app
from sidecar.cli.serve import is_loopback
from sidecar.client import RerankClient, Tls
from sidecar.extras import StartError
from sidecar.metrics import Metrics
from sidecar.settings import Settings
from tests.conftest import SERVER, Serve, settings
from tests.pki import ca, issued, openssl

runner = CliRunner()
TEXTS = ["apple pie", "pears"]
LOOKED_AT_S = 2.5
"""Files are looked at once a second, and a change counts when two looks agree."""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    for name in ("ca", "other-ca"):
        ca(folder, name)
    issued(folder, "server", "ca")
    issued(folder, "next", "other-ca")
    issued(folder, "client", "ca")
    issued(folder, "stranger", "other-ca")
    return folder


def with_tls(folder: Path, **tls: Any) -> Settings:
    paths = {"cert": folder / "server.pem", "key": folder / "server-key.pem", **tls}
    return settings(server={**SERVER, "tls": paths})


async def outcome(port: int, tls: Tls | None) -> str:
    """`OK`, or the status of a call."""
    async with RerankClient(f"localhost:{port}", tls) as client:
        try:
            await client.rerank("apple", TEXTS, timeout_s=5)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


async def test_a_client_that_trusts_the_ca_is_served_and_plain_text_is_not(serve: Serve, pki: Path) -> None:
    async with serve(configured=with_tls(pki)) as (_, sidecar):
        assert await outcome(sidecar.port, Tls(pki / "ca.pem")) == "OK"
        assert await outcome(sidecar.port, Tls(pki / "other-ca.pem")) == "UNAVAILABLE"
        assert await outcome(sidecar.port, None) == "UNAVAILABLE"


async def test_with_a_client_ca_only_its_clients_are_served(serve: Serve, pki: Path) -> None:
    def shown(name: str) -> Tls:
        return Tls(pki / "ca.pem", pki / f"{name}.pem", pki / f"{name}-key.pem")

    async with serve(configured=with_tls(pki, client_ca=pki / "ca.pem")) as (_, sidecar):
        assert await outcome(sidecar.port, shown("client")) == "OK"
        assert await outcome(sidecar.port, shown("stranger")) == "UNAVAILABLE"
        assert await outcome(sidecar.port, Tls(pki / "ca.pem")) == "UNAVAILABLE"


async def test_certificates_are_read_again_when_they_change_and_no_call_is_lost(
    serve: Serve, pki: Path, tmp_path: Path
) -> None:
    def install(name: str) -> None:
        for kind in ("", "-key"):
            fresh = tmp_path / f"new{kind}"
            fresh.write_bytes((pki / f"{name}{kind}.pem").read_bytes())
            fresh.replace(tmp_path / f"server{kind}.pem")

    install("server")
    async with (
        serve(configured=with_tls(tmp_path)) as (_, sidecar),
        RerankClient(f"localhost:{sidecar.port}", Tls(pki / "ca.pem")) as lasting,
    ):
        await lasting.rerank("apple", TEXTS)
        (tmp_path / "server.pem").write_text("no certificate")
        await asyncio.sleep(LOOKED_AT_S)
        assert await outcome(sidecar.port, Tls(pki / "ca.pem")) == "OK", "a broken one changes nothing"
        install("next")
        await asyncio.sleep(LOOKED_AT_S)
        assert await outcome(sidecar.port, Tls(pki / "other-ca.pem")) == "OK"
        assert await outcome(sidecar.port, Tls(pki / "ca.pem")) == "UNAVAILABLE"
        await lasting.rerank("apple", TEXTS)


def revocation_list(folder: Path, by: str, *revoked: str) -> Path:
    """The list of a CA in which these certificates are revoked."""
    database = folder / f"{by}-database"
    database.write_text("")
    own = ["-cert", str(folder / f"{by}.pem"), "-keyfile", str(folder / f"{by}-key.pem"), "-batch"]
    configured = folder / f"{by}.cnf"
    configured.write_text(f"[ca]\ndefault_ca=own\n[own]\ndatabase={database}\ndefault_md=sha256\ndefault_crl_days=1\n")
    for name in revoked:
        openssl("ca", "-config", str(configured), "-revoke", str(folder / f"{name}.pem"), *own)
    found = folder / f"{by}-{len(revoked)}.crl"
    openssl("ca", "-config", str(configured), "-gencrl", "-out", str(found), *own)
    return found


async def test_a_certificate_that_is_revoked_is_refused_also_on_a_connection_that_stands(
    serve: Serve, pki: Path, tmp_path: Path
) -> None:
    issued(pki, "colleague", "ca")
    nobody, one = revocation_list(pki, "ca"), revocation_list(pki, "ca", "client")
    listed = tmp_path / "revoked.crl"
    listed.write_bytes(nobody.read_bytes())

    def shown(name: str) -> Tls:
        return Tls(pki / "ca.pem", pki / f"{name}.pem", pki / f"{name}-key.pem")

    async with (
        serve(configured=with_tls(pki, client_ca=pki / "ca.pem", client_crl=listed)) as (_, sidecar),
        RerankClient(f"localhost:{sidecar.port}", shown("client")) as lasting,
    ):
        await lasting.rerank("apple", TEXTS)
        listed.write_bytes(one.read_bytes())
        await asyncio.sleep(LOOKED_AT_S)
        with pytest.raises(grpc.aio.AioRpcError, match="this client certificate has been revoked") as refused:
            await lasting.rerank("apple", TEXTS)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert await outcome(sidecar.port, shown("colleague")) == "OK"
        listed.write_text("broken")
        await asyncio.sleep(LOOKED_AT_S)
        assert await outcome(sidecar.port, shown("client")) == "UNAUTHENTICATED", "a broken list changes nothing"
        foreign = revocation_list(pki, "other-ca").read_bytes()
        listed.write_bytes(foreign)
        await asyncio.sleep(LOOKED_AT_S)
        assert await outcome(sidecar.port, shown("client")) == "UNAUTHENTICATED", "nor does the list of another CA"
        listed.write_bytes(nobody.read_bytes() + foreign)
        await asyncio.sleep(LOOKED_AT_S)
        assert await outcome(sidecar.port, shown("client")) == "OK", "which may stand beside ours"


async def test_a_list_that_cannot_be_used_stops_the_start(serve: Serve, pki: Path, tmp_path: Path) -> None:
    foreign = revocation_list(pki, "other-ca", "stranger")
    with pytest.raises(StartError, match=r"other-ca-1.crl holds no list that is signed by a CA of .*/ca.pem"):
        async with serve(configured=with_tls(pki, client_ca=pki / "ca.pem", client_crl=foreign)):
            pass
    for text, told in (("nothing", "holds no list of revoked"), ("-----BEGIN X509 CRL-----\nx", "cannot be read")):
        (tmp_path / "broken.crl").write_text(text)
        with pytest.raises(StartError, match=rf"server.tls.client_crl: .*broken.crl.*{told}"):
            async with serve(configured=with_tls(pki, client_ca=pki / "ca.pem", client_crl=tmp_path / "broken.crl")):
                pass
    with pytest.raises(ValueError, match="`client_crl` needs `client_ca`"):
        with_tls(pki, client_crl=foreign)


async def test_files_that_cannot_be_used_stop_the_start_with_their_name(
    serve: Serve, pki: Path, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match=r"server.tls: .*server.pem with .*client-key.pem: KEY_VALUES_MISMATCH"):
        async with serve(configured=with_tls(pki, key=pki / "client-key.pem")):
            pass
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(StartError, match=r"ca\.pem holds no CA certificates"):
        async with serve(configured=with_tls(pki, client_ca=tmp_path / "ca.pem")):
            pass
    locked = tmp_path / "locked.pem"
    openssl("rsa", "-aes256", "-passout", "pass:x", "-in", str(pki / "server-key.pem"), "-out", str(locked))
    with pytest.raises(StartError, match=r"locked\.pem: the key has a password"):
        async with serve(configured=with_tls(pki, key=locked)):
            pass


async def test_commands_connect_with_tls(serve: Serve, pki: Path) -> None:
    async with serve(configured=with_tls(pki)) as (_, sidecar):
        target = ["--index", "docs", "--target", f"localhost:{sidecar.port}", "--tls-ca", str(pki / "ca.pem")]
        found = await asyncio.to_thread(runner.invoke, app, ["search", "apple", *target])
    assert found.exit_code == 0, found.output
    absent = runner.invoke(app, ["search", "apple", "--index", "docs", "--tls-ca", "/no/such/file"])
    assert (absent.exit_code, "/no/such/file cannot be read" in absent.output) == (2, True)
    half = runner.invoke(app, ["search", "apple", "--index", "docs", "--tls-cert", str(pki / "client.pem")])
    assert "--tls-cert and --tls-key go together" in half.output


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.4:1", False),
        ("search.example:1", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def configuration(folder: Path, **server: Any) -> Path:
    """A file with these server settings."""
    file = folder / "sidecar.yaml"
    server = {"address": "127.0.0.1:0", "metrics_address": None, **server}
    file.write_text(yaml.safe_dump({"server": server, "policies": {"p": {"text": {"fields": ["x"]}}}}))
    return file


def test_check_finds_what_serve_would_stop_for(pki: Path, tmp_path: Path) -> None:
    def checked(**server: Any) -> tuple[int, str]:
        found = runner.invoke(app, ["check", str(configuration(tmp_path, **server))])
        return found.exit_code, found.output

    good = {"cert": str(pki / "server.pem"), "key": str(pki / "server-key.pem"), "client_ca": str(pki / "ca.pem")}
    assert checked(tls=good)[0] == 0
    code, said = checked(tls={**good, "key": str(pki / "client-key.pem")})
    assert (code, "client-key.pem: KEY_VALUES_MISMATCH" in said) == (2, True)
    foreign = revocation_list(pki, "other-ca", "next")
    code, said = checked(tls={**good, "client_crl": str(foreign)})
    assert (code, "holds no list that is signed by a CA of" in said) == (2, True)
    keys = tmp_path / "keys.txt"
    keys.write_text("shop:search:00\n")
    code, said = checked(auth={"keys_file": str(keys), "roles": {"search": {}}})
    assert (code, "keys.txt:1: expected NAME:ROLE:SALT:HASH, found 3 parts" in said) == (2, True)


def test_a_certificate_that_cannot_be_read_just_now_is_read_once_it_can(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("", "-key"):
        (tmp_path / f"server{kind}.pem").write_bytes((pki / f"server{kind}.pem").read_bytes())
    tls, metrics = with_tls(tmp_path).server.tls, Metrics()
    assert tls
    certificates = Certificates(tls, metrics)

    def changed() -> bool:
        certificates.look()
        certificates.look()
        return certificates._changed() is not None

    assert not changed()

    def forbidden(*_: object) -> None:
        raise PermissionError("not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)
        (tmp_path / "server.pem").write_text((pki / "server.pem").read_text())
        assert not changed()
        assert metrics.registry.get_sample_value("sidecar_file_current", {"file": "certificates"}) == 0
    assert changed(), "it is tried again, although the file is the same"
    assert not changed()


def test_plain_text_for_others_asks_for_it_in_so_many_words(tmp_path: Path) -> None:
    file = configuration(tmp_path, address="0.0.0.0:0")
    refused = subprocess.run(
        [sys.executable, "-m", "sidecar", "serve", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert "0.0.0.0:0 can be reached from other machines, and there is no `server.tls`" in refused.stderr
