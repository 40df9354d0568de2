"""API keys: made once, kept as salted hashes, and told apart."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from typer.testing import CliRunner

from sidecar import api_keys
from sidecar.api_keys import KeyFault
from sidecar.auth_settings import AuthSettings
from sidecar.authentication import Authentication, Rates
from sidecar.callers import Caller
from sidecar.cli import app
from sidecar.errors import NoAuthorization, NotAllowed, TooManyCalls
from sidecar.metrics import Metrics

ROLES: dict[str, Any] = {"search": {"indices": ["articles-*"]}, "busy": {"calls_per_s": 2}}
runner = CliRunner()


def who(auth: Authentication, *shown: str) -> Caller:
    return asyncio.run(auth.caller([("authorization", one) for one in shown]))


def test_a_key_is_recognised_and_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    result = runner.invoke(app, ["key", "shop", "search", "--file", str(file)])
    key = result.output.split()[-1]
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    again = runner.invoke(app, ["key", "shop", "search", "--file", str(file)])
    assert (again.exit_code, "holds a key of 'shop'" in again.output) == (2, True)
    auth = Authentication(AuthSettings(keys_file=file, roles=ROLES), Metrics())
    caller = who(auth, f"Bearer {key}")
    assert (caller.name, caller.role.indices) == ("shop", ("articles-*",))


@pytest.mark.parametrize("shown", [[], ["Bearer x"], ["Basic eDp5"], ["Bearer "], ["Bearer a", "Bearer b"], ["x"]])
def test_anything_else_is_nobody(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = api_keys.made("shop", "search")
    monkeypatch.setenv("KEYS", kept.line)
    with pytest.raises(NoAuthorization):
        who(Authentication(AuthSettings(keys_env="KEYS", roles=ROLES), Metrics()), *shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop:search:00", "f:1: expected NAME:ROLE:SALT:HASH, found 3 parts"),
        ("# comment\n\nshop:none:00:00", "f:3: role 'none' is not in `server.auth.roles`: search, busy"),
        ("shop:search:xx:00", "f:1: salt and hash are hexadecimal digits"),
        ("shop:search:00:00\nshop:search:00:00", "f:2: the name 'shop' occurs twice"),
    ],
)
def test_a_broken_line_is_told_without_its_secret(text: str, message: str) -> None:
    with pytest.raises(KeyFault, match=message):
        api_keys.read(text, "f", ROLES)


def test_a_key_is_told_among_a_hundred_thousand_by_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries keys that are none must not keep the sidecar busy."""
    key, kept = api_keys.made("shop", "search")
    other, _ = api_keys.made("shop", "search")
    stranger, _ = api_keys.made("stranger", "search")
    keys = {f"app-{number}": kept for number in range(100_000)} | {"shop": kept}
    hashed: list[str] = []
    digest = api_keys._digest

    def counted(salt: bytes, text: str) -> bytes:
        hashed.append(text)
        return digest(salt, text)

    monkeypatch.setattr(api_keys, "_digest", counted)
    assert api_keys.found(keys, key) is kept
    for wrong in (other, stranger, "", "rs_", "rs_shop", "rs_shop~", "shop", key[:-1], key + "x", "\ud800"):
        assert api_keys.found(keys, wrong) is None
    assert len(hashed) < 10


def test_keys_of_the_file_and_of_the_environment_may_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a key moves from one to the other."""
    (one, in_file), (two, in_environment) = api_keys.made("shop", "search"), api_keys.made("shop", "busy")
    monkeypatch.setenv("KEYS", in_environment.line)
    file = tmp_path / "keys.txt"
    file.write_text(in_file.line)
    auth = Authentication(AuthSettings(keys_file=file, keys_env="KEYS", roles=ROLES), Metrics())
    assert who(auth, f"Bearer {one}").role.indices == ("articles-*",)
    assert who(auth, f"bearer {two}").role.calls_per_s == 2, "the scheme's case does not matter (RFC 9110, 11.1)"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a~b", "x" * 65])
def test_names_that_would_break_the_file_are_refused(name: str) -> None:
    with pytest.raises(KeyFault):
        api_keys.made(name, "search")


def test_keys_are_read_again_when_the_file_changes_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    (first, kept), (second, other) = api_keys.made("one", "search"), api_keys.made("two", "search")
    file = tmp_path / "keys.txt"
    file.write_text(kept.line)
    auth = Authentication(AuthSettings(keys_file=file, roles=ROLES), Metrics())

    def write(text: str) -> None:
        file.write_text(text)
        auth.look()
        auth.look()

    write("nonsense")
    assert who(auth, f"Bearer {first}").name == "one"
    write(other.line)
    assert who(auth, f"Bearer {second}").name == "two"
    with pytest.raises(NoAuthorization):
        who(auth, f"Bearer {first}")


def test_a_caller_has_his_rate_and_others_theirs() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    assert [rates.allows("a", 2) for _ in range(3)] == [True, True, False]
    assert rates.allows("b", 2)
    now[0] = 0.5
    assert [rates.allows("a", 2) for _ in range(2)] == [True, False]
    now[0] = 1000.0
    assert [rates.allows("a", 2) for _ in range(3)] == [True, True, False], "what was not used is not saved up"
    assert all(rates.allows("c", None) for _ in range(100))


def test_too_many_calls_are_refused_with_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    key, kept = api_keys.made("shop", "busy")
    monkeypatch.setenv("KEYS", kept.line)
    auth = Authentication(AuthSettings(keys_env="KEYS", roles=ROLES), Metrics(), lambda: 0.0)
    for _ in range(2):
        who(auth, f"Bearer {key}")
    with pytest.raises(TooManyCalls, match="'shop' may make 2 calls in a second"):
        who(auth, f"Bearer {key}")


class Issuer:
    """Makes tokens, and publishes its keys."""

    def __init__(self, folder: Path) -> None:
        self.private = rsa.generate_private_key(65537, 2048)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key()))
        self.file = folder / "jwks.json"
        self.file.write_text(json.dumps({"keys": [{**public, "kid": "k1", "use": "sig"}]}))

    def token(self, kid: str = "k1", key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        claims = {
            "iss": "https://id",
            "aud": "search",
            "sub": "ann",
            "exp": time.time() + 60,
            "app": {"role": "search"},
        }
        claims |= changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, key or self.private, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


def with_tokens(issuer: Issuer, clock: Callable[[], float] = time.monotonic) -> Authentication:
    told = {"jwks_file": issuer.file, "issuer": "https://id", "audience": "search", "role_claim": "app.role"}
    return Authentication(AuthSettings.model_validate({"jwt": told, "roles": ROLES}), Metrics(), clock)


def test_a_valid_token_is_let_in(issuer: Issuer) -> None:
    caller = who(with_tokens(issuer), f"Bearer {issuer.token()}")
    assert (caller.name, caller.role.indices) == ("ann", ("articles-*",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": 1}, "the token has expired"),
        ({"exp": None}, "the token is not valid"),
        ({"sub": ""}, "the token names nobody"),
        ({"aud": "others"}, "the token is not valid"),
        ({"iss": "https://evil"}, "the token is not valid"),
        ({"kid": "k2"}, "the token is not valid"),
        ({"key": "secret" * 8, "algorithm": "HS256"}, "the token is not valid"),
        ({"key": rsa.generate_private_key(65537, 2048)}, "the token is not valid"),
        ({"key": ec.generate_private_key(ec.SECP256R1()), "algorithm": "ES256"}, "the token is not valid"),
    ],
)
def test_any_other_token_is_not(issuer: Issuer, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NoAuthorization, match=message):
        who(with_tokens(issuer), f"Bearer {issuer.token(**changes)}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "none"}]}', "\xff"])
def test_a_file_without_keys_is_named(issuer: Issuer, tmp_path: Path, text: str) -> None:
    issuer = Issuer(tmp_path)
    issuer.file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"jwks\.json holds no keys that can be used"):
        with_tokens(issuer)


def test_new_keys_of_a_file_are_taken_over_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    before = Issuer(tmp_path)
    auth = with_tokens(before)
    after = Issuer(tmp_path)
    assert who(auth, f"Bearer {before.token()}").name == "ann", "nobody has looked at it since"
    for text in (after.file.read_text(), "broken"):
        after.file.write_text(text)
        auth.look()
        auth.look()
        assert who(auth, f"Bearer {after.token()}").name == "ann"
        with pytest.raises(NoAuthorization):
            who(auth, f"Bearer {before.token()}")


def test_an_unsigned_token_is_not(issuer: Issuer) -> None:
    claims = {"iss": "https://id", "aud": "search", "sub": "ann", "exp": time.time() + 60}
    unsigned = jwt.encode(claims, "", "none")
    with pytest.raises(NoAuthorization, match="the token is not valid"):
        who(with_tokens(issuer), f"Bearer {unsigned}")


def test_a_token_without_a_role_of_this_sidecar_may_do_nothing(issuer: Issuer) -> None:
    for role in ("admin", None, 7):
        with pytest.raises(NotAllowed, match="names no role"):
            who(with_tokens(issuer), f"Bearer {issuer.token(app={'role': role})}")


def test_settings_by_which_nobody_could_call_are_refused() -> None:
    with pytest.raises(ValueError, match="nobody could call"):
        AuthSettings(roles=ROLES)
