"""The ``Authorization`` header of a connector, or of the user it acts for. Pure, no I/O."""

import hashlib
import re
from base64 import b64encode

from connectors.bad_option import BadOption

LONGEST_AUTHORIZATION = 16 * 1024
"""Most bytes of a forwarded header."""


def basic(user: str, password: str) -> str:
    """The header for a user name and password, in UTF-8 as both engines read it (their clients: ASCII or Latin-1)."""
    if ":" in user:
        raise BadOption("basic_auth", "the user name of `basic_auth` holds a colon, which HTTP does not allow")
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def api_key(encoded: str) -> str:
    """The header for an API key in its encoded form."""
    return f"ApiKey {_word('api_key', encoded)}"


def bearer(token: str) -> str:
    """The header for a bearer token."""
    return f"Bearer {_word('bearer_token', token)}"


def _word(name: str, value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise BadOption(name, f"`{name}` is empty or holds a space, a line break or a letter that is not ASCII")
    return value


def check_forwarded(authorization: str) -> None:
    """Refuse what cannot be sent as an ``Authorization`` header, without showing it.

    Raises:
        ValueError: it is blank, longer than 16 KiB, or holds a character that is not printable ASCII.
    """
    if not authorization.strip():
        raise ValueError("the authorization to forward is empty")
    if len(authorization) > LONGEST_AUTHORIZATION:
        raise ValueError(f"the authorization to forward is longer than {LONGEST_AUTHORIZATION} bytes")
    if not re.fullmatch(r"[ -~]+", authorization):
        raise ValueError("the authorization to forward holds a control character or a letter that is not ASCII")


def identity_of(authorization: str) -> str:
    """Return a digest that tells users apart without revealing their credentials."""
    return hashlib.sha256(authorization.encode()).hexdigest()
