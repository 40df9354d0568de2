"""The issuer's keys, asked over https: known ones never wait, unknown ones ask seldom, a silent issuer hangs nobody."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from sidecar.auth_settings import AuthSettings
from sidecar.authentication import Authentication
from sidecar.errors import NoAuthorization
from sidecar.metrics import Metrics
from tests.calls import until
from tests.connector_fixtures import Asked, Server, serving
from tests.pki import ca, issued


@dataclass
class Issuer:
    """An issuer of tokens, whose address gives its public keys, or not, and a clock for whoever asks it."""

    keys: dict[str, RSAPrivateKey] = field(default_factory=dict)
    silent: asyncio.Event | None = None
    status: int = 200
    now: float = 0.0
    server: Server = field(default_factory=lambda: Server(""))

    def add(self, kid: str) -> None:
        self.keys[kid] = generate_private_key(65537, 2048)

    async def answer(self, _: Asked) -> web.StreamResponse:
        if self.silent:
            await self.silent.wait()
        public = [
            {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid}
            for kid, key in self.keys.items()
        ]
        return web.json_response({"keys": public}, status=self.status)

    def token(self, kid: str, key: RSAPrivateKey | None = None) -> str:
        claims = {"sub": "ann", "iss": "https://id", "aud": "search", "role": "shop", "exp": time.time() + 60}
        return jwt.encode(claims, key or self.keys[kid], "RS256", headers={"kid": kid})

    def authentication(self) -> Authentication:
        told = {"jwks_url": f"{self.server.url}/jwks.json", "issuer": "https://id", "audience": "search"}
        settings = AuthSettings.model_validate({"jwt": told, "roles": {"shop": {}}})
        return Authentication(settings, Metrics(), lambda: self.now)


@pytest.fixture
async def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    trusted = ca(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issued(tmp_path, "issuer", "ca"))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    made = Issuer()
    made.add("first")
    async with serving(made.answer, context) as made.server:
        yield made


async def who(authentication: Authentication, token: str) -> str:
    """Who calls, or why he is not let in."""
    metadata: list[tuple[str, Any]] = [("authorization", f"Bearer {token}")]
    try:
        return (await authentication.caller(metadata)).name
    except NoAuthorization as error:
        return str(error)


async def test_a_known_key_is_asked_for_once_and_a_new_one_is_found(issuer: Issuer) -> None:
    door = issuer.authentication()
    assert [await who(door, issuer.token("first")) for _ in range(5)] == ["ann"] * 5
    assert len(issuer.server.asked) == 1
    issuer.add("second")
    issuer.now += 10
    assert await who(door, issuer.token("second")) == "ann"
    assert len(issuer.server.asked) == 2


async def test_many_first_calls_ask_once(issuer: Issuer) -> None:
    door = issuer.authentication()
    assert await asyncio.gather(*(who(door, issuer.token("first")) for _ in range(50))) == ["ann"] * 50
    assert len(issuer.server.asked) == 1


async def test_made_up_keys_make_no_more_than_one_request_in_ten_seconds(issuer: Issuer) -> None:
    door = issuer.authentication()
    other = generate_private_key(65537, 2048)
    for number in range(20):
        assert await who(door, issuer.token(f"made-up-{number}", other)) == "the token is not valid"
    assert len(issuer.server.asked) == 1
    assert await who(door, issuer.token("first", other)) == "the token is not valid", "a known name, another's key"


async def test_keys_grow_old_and_are_fetched_beside_the_calls(issuer: Issuer) -> None:
    door = issuer.authentication()
    assert await who(door, issuer.token("first")) == "ann"
    token = issuer.token("first")
    del issuer.keys["first"]
    issuer.add("second")
    issuer.now += 301
    assert await who(door, token) == "ann", "this call does not wait for what it causes"
    await until(lambda: len(issuer.server.asked) == 2)
    await asyncio.sleep(0.2)
    assert await who(door, token) == "the token is not valid", "its key was withdrawn"


async def test_a_silent_issuer_holds_nobody_up_whose_key_is_known(issuer: Issuer) -> None:
    door = issuer.authentication()
    assert await who(door, issuer.token("first")) == "ann"
    issuer.silent = asyncio.Event()
    issuer.now += 301
    started = time.monotonic()
    assert [await who(door, issuer.token("first")) for _ in range(20)] == ["ann"] * 20
    assert time.monotonic() - started < 1
    stranger = issuer.token("unknown", generate_private_key(65537, 2048))
    assert await who(door, stranger) == "the token is not valid"
    assert time.monotonic() - started < 8, "whose key is not known waits for one request, which ends"
    issuer.silent.set()


async def test_an_issuer_that_fails_is_asked_again_later(issuer: Issuer) -> None:
    door = issuer.authentication()
    issuer.status = 500
    assert await who(door, issuer.token("first")) == "the token is not valid"
    issuer.status = 200
    assert await who(door, issuer.token("first")) == "the token is not valid", "too soon"
    issuer.now += 10
    assert await who(door, issuer.token("first")) == "ann"


async def test_an_issuer_that_nobody_vouches_for_is_not_believed(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca(tmp_path, "other")))
    assert await who(issuer.authentication(), issuer.token("first")) == "the token is not valid"
