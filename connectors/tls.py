"""How the nodes' certificates are checked, and which client certificate is presented."""

import asyncio
import re
import ssl
from base64 import b16decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import certifi

from connectors.bad_option import BadOption


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates to trust and to present; a contradictory combination raises ``BadOption``.

    ``ca_certs`` is a file or folder of CA certificates, the only ones trusted; without it those of the system and of
    certifi are. ``fingerprints`` are SHA-256 of the nodes' own certificates (not of their CA's) in hex: a node whose
    certificate has one of them is trusted whatever its name, its issuer and its dates, and no other is.
    ``client_cert`` is a PEM file of the certificate to present; its key is in ``client_key`` or in the same file.
    """

    ca_certs: str | Path | None = None
    verify_certs: bool = True
    fingerprints: Sequence[str] = ()
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    client_key_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.fingerprints, str):
            raise TypeError("`certificate_fingerprints` is a list of them")
        for fingerprint in self.fingerprints:
            _digest(fingerprint)
        self._check_what_is_trusted()
        for name, path in (("ca_certs", self.ca_certs), ("client_cert", self.client_cert)):
            if path is not None and not Path(path).exists():
                raise BadOption(name, f"`{name}` names {str(path)!r}, which does not exist")
        for name, given in (("client_key", self.client_key), ("client_key_password", self.client_key_password)):
            if self.client_cert is None and given is not None:
                sentence = "`client_key` and `client_key_password` are about `client_cert`, which is not given"
                raise BadOption(name, sentence)

    def _check_what_is_trusted(self) -> None:
        if self.ca_certs is not None and self.fingerprints:
            raise BadOption("ca_certs", "give `ca_certs` or `certificate_fingerprints`, not both")
        for name, given in (("ca_certs", self.ca_certs), ("certificate_fingerprints", self.fingerprints)):
            if given and not self.verify_certs:
                sentence = f"`{name}` is given, but `verify_certs` is false, so that nothing would be checked"
                raise BadOption(name, sentence)

    def context(self) -> ssl.SSLContext:
        """Return the TLS context for new connections.

        Raises:
            BadOption: a file holds no certificate or no key, or the password does not fit.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify_certs or self.fingerprints:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            self._trust(context)
        if self.client_cert is not None:
            self._show(context, self.client_cert)
        return context

    def _trust(self, context: ssl.SSLContext) -> None:
        if self.ca_certs is None:
            context.load_default_certs()
            context.load_verify_locations(certifi.where())
            return
        place = "capath" if Path(self.ca_certs).is_dir() else "cafile"
        try:
            context.load_verify_locations(**{place: str(self.ca_certs)})
        except OSError as error:
            sentence = f"`ca_certs` names {str(self.ca_certs)!r}, which holds no certificate in PEM"
            raise BadOption("ca_certs", sentence) from error

    def _show(self, context: ssl.SSLContext, cert: str | Path) -> None:
        password = self.client_key_password or ""
        try:
            context.load_cert_chain(cert, self.client_key, lambda: password)  # callable, or OpenSSL would prompt for it
        except OSError as error:
            cause = "hold no certificate and key in PEM that belong together, or `client_key_password` is not the key's"
            raise BadOption("client_cert", f"`client_cert` and `client_key` {cause}") from error

    def pins(self) -> "Pins | None":
        """Return what aiohttp checks new connections against before it sends anything; None without fingerprints."""
        return Pins(self.fingerprints) if self.fingerprints else None


class Pins(aiohttp.Fingerprint):
    """A check that the certificate has any of several fingerprints."""

    def __init__(self, fingerprints: Sequence[str]) -> None:
        self._each = [aiohttp.Fingerprint(_digest(fingerprint)) for fingerprint in fingerprints]
        super().__init__(self._each[0].fingerprint)

    def check(self, transport: Any) -> None:
        """Raise ``aiohttp.ServerFingerprintMismatch``, and abort the connection, if none fits."""
        mismatch = None
        for each in self._each:
            try:
                return each.check(transport)
            except aiohttp.ServerFingerprintMismatch as error:
                mismatch = error
        assert mismatch is not None
        asyncio.get_running_loop().call_soon(transport.abort)  # a graceful close would wait for an untrusted peer
        raise mismatch


def _digest(fingerprint: str) -> bytes:
    plain = fingerprint.replace(":", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", plain):
        sentence = "`certificate_fingerprints` are SHA-256 in hex: 64 digits, with or without colons"
        raise BadOption("certificate_fingerprints", sentence)
    return b16decode(plain, casefold=True)
