"""Validates JSON Web Tokens with the issuer's keys. Needs PyJWT, the extra [jwt]."""

import asyncio
import http.client
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jwt

from sidecar.auth_settings import JwtSettings
from sidecar.errors import NoAuthorization
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.watched_file import WatchedFile

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
"""Asymmetric ones only: with a shared secret, whoever checks tokens could also make them."""
_LEEWAY_S = 30
_FRESH_S = 300.0
"""Age from which keys are fetched again, while calls go on with the known ones."""
_ASK_AGAIN_S = 10.0
"""Least time between two requests to the issuer, however many tokens have unknown keys or however silent it is."""
_STALE_S = 3600.0
"""Age from which calls wait for new keys: the known ones may have been withdrawn long ago. If the issuer does not
answer, they stay valid all the same."""
_FETCH_TIMEOUT_S = 2
_UNUSABLE = (jwt.PyJWTError, ValueError, AttributeError, TypeError)
"""Errors raised by an answer that is not a set of keys."""

Keys = Mapping[str | None, jwt.PyJWK]


class Tokens:
    """Checks tokens of one issuer."""

    def __init__(self, settings: JwtSettings, metrics: Metrics, clock: Callable[[], float]) -> None:
        """Raises OSError or ValueError if the file of keys cannot be used; a URL is fetched only later."""
        self._settings = settings
        file = settings.jwks_file
        self.file = WatchedFile(partial(_of_file, file), "jwks", file, metrics=metrics) if file else None
        self._issuer = _Issuer(settings.jwks_url, clock) if settings.jwks_url else None

    async def read(self, token: str) -> tuple[str, str]:
        """Return subject and role of a valid token; the role is empty if its claim is missing or not text.

        Raises:
            NoAuthorization: it is not valid; the message does not say why in detail.
        """
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=list(_ALGORITHMS),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise NoAuthorization("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError):  # the latter two where key and algorithm do not fit
            raise NoAuthorization("the token is not valid") from None
        if not claims["sub"]:
            raise NoAuthorization("the token names nobody: `sub` is empty")
        return str(claims["sub"]), _claim(claims, self._settings.role_claim)

    async def _key(self, wanted: str | None) -> jwt.PyJWK:
        keys = self.file.current() if self.file else await self._issuer.keys(wanted) if self._issuer else {}
        if wanted not in keys:
            raise jwt.InvalidTokenError("unknown key")
        return keys[wanted]


class _Issuer:
    """The keys at an issuer's URL. They stay valid while it is silent; calls wait only for unknown or stale ones."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=_FETCH_TIMEOUT_S)
        self._clock = clock
        self._known: Keys = {}
        self._asked_at = self._known_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, wanted: str | None) -> Keys:
        """Return all known keys; first wait for a fetch under way if ``wanted`` is unknown or they are stale."""
        now = self._clock()
        due = now >= self._known_at + _FRESH_S or wanted not in self._known
        if self._fetching is None and due and now >= self._asked_at + _ASK_AGAIN_S:
            self._asked_at = now
            self._fetching = asyncio.create_task(self._fetch())
        if self._fetching and (wanted not in self._known or now >= self._known_at + _STALE_S):
            await asyncio.wait([self._fetching], timeout=_FETCH_TIMEOUT_S)
        return self._known

    async def _fetch(self) -> None:
        try:
            fetched = asyncio.to_thread(self._client.get_jwk_set, refresh=True)
            self._known = _by_id(await asyncio.wait_for(fetched, _FETCH_TIMEOUT_S))
            self._known_at = self._clock()
        except (*_UNUSABLE, OSError, http.client.HTTPException) as error:
            log.error("issuer_keys_not_fetched", url=self._client.uri, error=type(error).__name__)
        finally:
            self._fetching = None


def _of_file(file: Path) -> Keys:
    try:
        return _by_id(jwt.PyJWKSet.from_json(file.read_text(encoding="utf-8")))
    except _UNUSABLE as error:
        raise ValueError(f"jwt.jwks_file: {file} holds no keys that can be used (JWKS, JSON): {error}") from error


def _by_id(keys: jwt.PyJWKSet) -> Keys:
    return {key.key_id: key for key in keys.keys if key.public_key_use in (None, "sig")}


def _claim(claims: Mapping[str, Any], name: str) -> str:
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
