"""Who calls, by what the call shows: an API key or a JSON Web Token; and how often he may."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sidecar import api_keys
from sidecar.auth_settings import AuthSettings, JwtSettings, Role
from sidecar.callers import NOBODY, Caller
from sidecar.errors import NoAuthorization, NotAllowed, TooManyCalls
from sidecar.logs import log

_BEARER = "Bearer "
_LOOK_EVERY_S = 1.0
_MOST_CALLERS = 10_000
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
"""Asymmetric ones only: with a shared secret whoever checks a token could make one."""
_LEEWAY_S = 30


class Authentication:
    """Tells callers apart. Without settings everybody is let in."""

    def __init__(self, settings: AuthSettings | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises KeyFault and ImportError."""
        self._settings = settings
        self._keys = _Keys(settings, clock) if settings else None
        self._tokens = _Tokens(settings.jwt) if settings and settings.jwt else None
        self._rates = Rates(clock)

    @property
    def asks(self) -> bool:
        """Whether callers have to show who they are."""
        return self._settings is not None

    async def caller(self, metadata: Iterable[tuple[str, Any]]) -> Caller:
        """Who calls, with one more call counted.

        Raises:
            NoAuthorization: nothing is shown, or what is shown is not valid.
            NotAllowed: he has no role here.
            TooManyCalls: he has called too often lately.
        """
        if self._settings is None or self._keys is None:
            return NOBODY
        shown = [value for key, value in metadata if key == "authorization"]
        if len(shown) != 1 or not isinstance(shown[0], str) or not shown[0].startswith(_BEARER):
            raise NoAuthorization("send one metadata `authorization: Bearer KEY`")
        secret = shown[0].removeprefix(_BEARER).strip()
        if key := api_keys.found(self._keys.current(), secret):
            caller = Caller(key.name, self._settings.roles[key.role])
        else:
            caller = await self._by_token(secret, self._settings.roles)
        if not self._rates.allows(caller.name, caller.role.calls_per_s):
            raise TooManyCalls(f"{caller.name!r} may make {caller.role.calls_per_s:g} calls in a second")
        return caller

    async def _by_token(self, token: str, roles: Mapping[str, Role]) -> Caller:
        if self._tokens is None or token.count(".") != 2:
            raise NoAuthorization("the key is not valid")
        name, role = await self._tokens.read(token)
        if role not in roles:
            raise NotAllowed("the token names no role that is configured here")
        return Caller(name, roles[role])


class _Keys:
    """The keys of a file and of the environment; the file is read again when it has changed."""

    def __init__(self, settings: AuthSettings, clock: Callable[[], float]) -> None:
        self._file, self._roles, self._clock = settings.keys_file, settings.roles, clock
        variable = settings.keys_env
        self._own = api_keys.read(os.environ.get(variable, ""), f"${variable}", self._roles) if variable else []
        self._looked_at, self._stamp = clock(), _stamp(self._file)
        self._kept = self._read()

    def current(self) -> list[api_keys.ApiKey]:
        """All that are valid now; a file that cannot be read any more changes nothing."""
        if self._file and self._clock() >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = self._clock()
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._kept = self._read()
                    log.info("api_keys_replaced", keys=len(self._kept))
                except (api_keys.KeyFault, OSError, UnicodeDecodeError) as error:
                    log.error("api_keys_not_replaced", error=str(error))
        return self._kept

    def _read(self) -> list[api_keys.ApiKey]:
        text = self._file.read_text(encoding="utf-8") if self._file else ""
        return [*api_keys.read(text, str(self._file), self._roles), *self._own]


def _stamp(file: Path | None) -> tuple[int, int] | None:
    try:
        status = file.stat() if file else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if status else None


class _Tokens:
    """Checks JSON Web Tokens with PyJWT."""

    def __init__(self, settings: JwtSettings) -> None:
        import jwt

        self._jwt: Any = jwt
        self._settings = settings
        if settings.jwks_file:
            keys = jwt.PyJWKSet.from_json(settings.jwks_file.read_text())
            self._fixed = {key.key_id: key for key in keys.keys}
            self._remote = None
        else:
            self._fixed = {}
            self._remote = jwt.PyJWKClient(str(settings.jwks_url), cache_keys=True, lifespan=300, timeout=5)

    async def read(self, token: str) -> tuple[str, str]:
        """Subject and role of a valid token.

        Raises:
            NoAuthorization: it is not valid; why, it is not told in detail.
        """
        try:
            key = self._fixed_key(token) if self._remote is None else await asyncio.to_thread(self._remote_key, token)
            claims = self._jwt.decode(
                token,
                key.key,
                algorithms=list(_ALGORITHMS),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except self._jwt.ExpiredSignatureError:
            raise NoAuthorization("the token has expired") from None
        except self._jwt.PyJWTError:
            raise NoAuthorization("the token is not valid") from None
        return str(claims["sub"]), _claim(claims, self._settings.role_claim)

    def _fixed_key(self, token: str) -> Any:
        wanted = self._jwt.get_unverified_header(token).get("kid")
        if wanted not in self._fixed:
            raise self._jwt.InvalidTokenError("unknown key")
        return self._fixed[wanted]

    def _remote_key(self, token: str) -> Any:
        assert self._remote
        return self._remote.get_signing_key_from_jwt(token)


def _claim(claims: Mapping[str, Any], name: str) -> str:
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""


class Rates:
    """Calls of each caller, as in a bucket that fills evenly and holds what a second fills."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, caller: str, per_s: float | None) -> bool:
        """Whether one more call is within the rate, and counts it if so. None is no bound."""
        if per_s is None:
            return True
        now, most = self._clock(), max(1.0, per_s)
        left, at = self._buckets.pop(caller, (most, now))
        left = min(most, left + (now - at) * per_s)
        allowed = left >= 1.0
        self._buckets[caller] = (left - 1.0 if allowed else left), now
        if len(self._buckets) > _MOST_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        return allowed
