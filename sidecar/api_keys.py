"""API keys as salted hashes, a line each: `NAME:ROLE:SALT:HASH`. A key itself is never kept.

A key is `rs_NAME~SECRET`: since it names its entry, one hash checks it, however many keys there are. The secret is
256 random bits, which nobody guesses: one SHA-256 is enough.
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
    """A line of keys, or a name or role for one, cannot be used; the message says which, and holds no secret."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: whose it is, what it may do, and how it is recognised."""

    name: str
    role: str
    salt: bytes
    digest: bytes

    @property
    def line(self) -> str:
        """The line of a key file for this key."""
        return f"{self.name}:{self.role}:{self.salt.hex()}:{self.digest.hex()}"


def made(name: str, role: str) -> tuple[str, ApiKey]:
    """Return a new key to hand out, and what is kept of it.

    Raises:
        KeyFault: name or role is not 1 to 64 letters, digits and `._-`.
    """
    for what, text in (("name", name), ("role", role)):
        if not _NAME.fullmatch(text):
            raise KeyFault(f"the {what} {text!r} is not 1 to 64 of letters, digits, `.`, `_` and `-`")
    key, salt = f"{_PREFIX}{name}{_END_OF_NAME}{secrets.token_urlsafe(32)}", secrets.token_bytes(_SALT_BYTES)
    return key, ApiKey(name, role, salt, _digest(salt, key))


def read(text: str, source: str, roles: Mapping[str, object]) -> dict[str, ApiKey]:
    """Return the keys in a file or variable, by name; blank lines and those that start with `#` are skipped.

    Raises:
        KeyFault: a line is malformed, a name occurs twice, or a role is not configured; names ``source`` and line.
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
    """Return the entry that a key is valid for, or None; compares in constant time."""
    kept = keys.get(key.removeprefix(_PREFIX).partition(_END_OF_NAME)[0])
    return kept if kept and hmac.compare_digest(kept.digest, _digest(kept.salt, key)) else None


def _digest(salt: bytes, key: str) -> bytes:
    return hashlib.sha256(salt + key.encode(errors="surrogatepass")).digest()
