"""`rerank-sidecar health`, as the probes of containers call it."""

import asyncio
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli import app
from tests.conftest import SERVER, Serve, settings
from tests.pki import ca, issued

DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"


async def health(port: int, *options: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["health", "--target", f"127.0.0.1:{port}", *options])


async def test_plain_text_is_the_default(serve: Serve) -> None:
    async with serve() as (_, sidecar):
        found = await health(sidecar.port)
    assert (found.exit_code, found.output.strip()) == (0, "SERVING")


async def test_with_tls_it_trusts_a_ca_and_the_certificates_own_name(serve: Serve, tmp_path: Path) -> None:
    """A container asks itself on loopback, and its certificate is for the name that clients use."""
    trusted = ca(tmp_path, "ca")
    cert, key = issued(tmp_path, "server", "ca", names="DNS:rerank.search.svc")
    configured = settings(server={**SERVER, "tls": {"cert": cert, "key": key}})
    options = ["--tls-ca", str(trusted)]
    async with serve(configured=configured) as (_, sidecar):
        assert (await health(sidecar.port)).exit_code == 1
        assert (await health(sidecar.port, *options)).exit_code == 1
        assert (await health(sidecar.port, *options, "--tls-name", "another.svc")).exit_code == 1
        found = await health(sidecar.port, *options, "--tls-name", "rerank.search.svc")
        for name, code in (("rerank.search.svc", 0), ("another.svc", 2)):
            asked = ["search", "apple", "--index", "docs", "--target", f"127.0.0.1:{sidecar.port}"]
            searched = await asyncio.to_thread(CliRunner().invoke, app, [*asked, *options, "--tls-name", name])
            assert searched.exit_code == code, searched.output
    assert (found.exit_code, found.output.strip()) == (0, "SERVING")


async def test_the_images_health_check_takes_options_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the Dockerfile, run by a shell, with a program of that name that tells its arguments."""
    found = re.search(r'^HEALTHCHECK .* CMD \["sh", "-c", "(.*)"\]$', DOCKERFILE.read_text(), re.MULTILINE)
    assert found
    program = tmp_path / "rerank-sidecar"
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    async def arguments() -> str:
        process = await asyncio.create_subprocess_exec("sh", "-c", found[1], stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode()

    assert await arguments() == "health|"
    monkeypatch.setenv("HEALTH_OPTIONS", "--tls-ca /tls/ca.crt --tls-name a.b")
    assert await arguments() == "health|--tls-ca|/tls/ca.crt|--tls-name|a.b|"
