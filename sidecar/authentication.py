"""Identifies callers by an API key or a JSON Web Token, and limits their rate."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import api_keys
from sidecar.auth_settings import AuthSettings, JwtSettings, Role
from sidecar.callers import NOBODY, Caller
from sidecar.errors import NOT_SHOWN, NoAuthorization, NotAllowed, TooManyCalls
from sidecar.metrics import Metrics
from sidecar.watched_file import WatchedFile

if TYPE_CHECKING:
    from sidecar.tokens import Tokens

_BEARER = "bearer "
_MOST_CALLERS = 10_000


class Authentication:
    """Identifies callers. Without settings everybody is let in, as :data:`NOBODY`."""

    def __init__(
        self, settings: AuthSettings | None, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises KeyFault, OSError or ValueError if keys cannot be used, ImportError if tokens need PyJWT."""
        self._settings = settings
        self._keys = _Keys(settings, metrics) if settings else None
        self._tokens = _tokens(settings.jwt, metrics, clock) if settings and settings.jwt else None
        self._rates = Rates(clock)

    def look(self) -> None:
        """Read files of keys again if they have changed."""
        for file in (self._keys and self._keys.file, self._tokens and self._tokens.file):
            if file:
                file.look()

    @property
    def asks(self) -> bool:
        """Whether callers must authenticate."""
        return self._settings is not None

    async def caller(self, metadata: Iterable[tuple[str, Any]]) -> Caller:
        """Identify the caller from a call's metadata, and count the call towards his rate.

        Raises:
            NoAuthorization: no key or token is shown, or it is not valid.
            NotAllowed: the token names no configured role.
            TooManyCalls: the call exceeds the rate of his role.
        """
        if self._settings is None or self._keys is None:
            return NOBODY
        shown = [value for key, value in metadata if key == "authorization"]
        if len(shown) != 1 or not isinstance(shown[0], str) or not shown[0].lower().startswith(_BEARER):
            raise NoAuthorization(NOT_SHOWN)
        secret = shown[0][len(_BEARER) :].strip()
        if key := self._keys.found(secret):
            caller, kind = Caller(key.name, self._settings.roles[key.role]), "key"
        else:
            caller, kind = await self._by_token(secret, self._settings.roles), "token"
        if not self._rates.allows(f"{kind} {caller.name}", caller.role.calls_per_s):
            raise TooManyCalls(f"{caller.name!r} may make {caller.role.calls_per_s:g} calls in a second")
        return caller

    async def _by_token(self, token: str, roles: Mapping[str, Role]) -> Caller:
        if self._tokens is None or token.count(".") != 2:
            raise NoAuthorization("the key is not valid")
        name, role = await self._tokens.read(token)
        if role not in roles:
            raise NotAllowed("the token names no role that is configured here")
        return Caller(name, roles[role])


def _tokens(settings: JwtSettings, metrics: Metrics, clock: Callable[[], float]) -> "Tokens":
    """Build the check of tokens; imports PyJWT, which nothing else needs."""
    from sidecar.tokens import Tokens

    return Tokens(settings, metrics, clock)


class _Keys:
    """The keys of a file and of the environment; the file is read again when it has changed."""

    def __init__(self, settings: AuthSettings, metrics: Metrics) -> None:
        variable, file, self._roles = settings.keys_env, settings.keys_file, settings.roles
        self._own = api_keys.read(os.environ.get(variable, ""), f"${variable}", self._roles) if variable else {}
        self.file = WatchedFile(lambda: self._read(file), "api_keys", file, metrics=metrics) if file else None

    def found(self, key: str) -> api_keys.ApiKey | None:
        """Return the entry that the key is valid for; None if there is none."""
        of_file = api_keys.found(self.file.current(), key) if self.file else None
        return of_file or api_keys.found(self._own, key)

    def _read(self, file: Path) -> dict[str, api_keys.ApiKey]:
        return api_keys.read(file.read_text(encoding="utf-8"), str(file), self._roles)


class Rates:
    """A token bucket for each caller, which holds the calls of one second, and at least one.

    Only the :data:`_MOST_CALLERS` callers that called last are remembered.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, caller: str, per_s: float | None) -> bool:
        """Count one more call if it is within the rate (None: no limit), and return whether it is."""
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
