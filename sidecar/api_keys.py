"""API keys as salted hashes, a line each: `NAME:ROLE:SALT:HASH`. A key itself is never kept.

A key is `rs_NAME~SECRET`: it says whose it claims to be, so that one hash tells, however many keys there are. The
secret is 256 random bits, which nobody guesses: one SHA-256 is enough.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PREFIX, _END_OF_NAME = "rs_", "~"
_SALT_BYTES = 16


class KeyFault(ValueError):
    """A line of keys cannot be used; the message names it, and holds no secret."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: whose it is, what it may do, and how it is recognised."""

    name: str
    role: str
    salt: bytes
    digest: bytes

    @property
    def line(self) -> str:
        """As it stands in a file."""
        return f"{self.name}:{self.role}:{self.salt.hex()}:{self.digest.hex()}"


def made(name: str, role: str) -> tuple[str, ApiKey]:
    """A new key to hand out, and what is kept of it.

    Raises:
        KeyFault: name or role have other characters than letters, digits and `._-`.
    """
    for what, text in (("name", name), ("role", role)):
        if not _NAME.fullmatch(text):
            raise KeyFault(f"the {what} {text!r} is not 1 to 64 of letters, digits, `.`, `_` and `-`")
    key, salt = f"{_PREFIX}{name}{_END_OF_NAME}{secrets.token_urlsafe(32)}", secrets.token_bytes(_SALT_BYTES)
    return key, ApiKey(name, role, salt, _digest(salt, key))


def read(text: str, source: str, roles: Mapping[str, object]) -> dict[str, ApiKey]:
    """The keys in a file or variable, by name; blank lines and those that start with `#` are passed over.

    Raises:
        KeyFault: a line is none, a name occurs twice, or a role is not configured; names ``source`` and line.
    """
    return {key.name: key for key in _read(text, source, roles)}


def _read(text: str, source: str, roles: Mapping[str, object]) -> Iterator[ApiKey]:
    names: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        parts = line.split(":")
        if len(parts) != 4:
            raise KeyFault(f"{source}:{number}: expected NAME:ROLE:SALT:HASH, found {len(parts)} parts")
        name, role, salt, digest = parts
        if name in names:
            raise KeyFault(f"{source}:{number}: the name {name!r} occurs twice")
        if role not in roles:
            raise KeyFault(f"{source}:{number}: role {role!r} is not in `server.auth.roles`: {', '.join(roles)}")
        names.add(name)
        try:
            yield ApiKey(name, role, bytes.fromhex(salt), bytes.fromhex(digest))
        except ValueError:
            raise KeyFault(f"{source}:{number}: salt and hash are hexadecimal digits") from None


def found(keys: Mapping[str, ApiKey], key: str) -> ApiKey | None:
    """Whose key this is; compared in a time that tells nothing of where it differs."""
    kept = keys.get(key.removeprefix(_PREFIX).partition(_END_OF_NAME)[0])
    return kept if kept and hmac.compare_digest(kept.digest, _digest(kept.salt, key)) else None


def _digest(salt: bytes, key: str) -> bytes:
    return hashlib.sha256(salt + key.encode(errors="surrogatepass")).digest()
