"""Refuses client certificates that were revoked before they expired. Needs cryptography, as the extra [jwt] does.

gRPC checks signature and dates at the handshake but no revocation lists; so each call is checked here.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from sidecar.errors import NoAuthorization
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.watched_file import WatchedFile

_LEAF = "x509_pem_cert"
"""Key under which gRPC's auth context holds the client's certificate."""
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"

Numbers = Mapping[x509.Name, AbstractSet[int]]
"""Serial numbers of the revoked certificates, by the name of their CA."""


class Revoked:
    """The lists of revoked certificates (CRL, RFC 5280) in one file, which is read again when it changes.

    A list stays in force after the date of its next update: what was revoked stays revoked.
    """

    def __init__(self, file: Path, cas: Path, metrics: Metrics) -> None:
        """Read the lists in ``file`` that are signed by CAs of ``cas``; those of other CAs are skipped, with a warning.

        Raises:
            ValueError: the file cannot be used; the message says why.
            OSError: it cannot be read.
        """
        self._listed = WatchedFile(lambda: _read(file, cas), "revoked_certificates", file, cas, metrics=metrics)

    def look(self) -> None:
        """Read the file again if it has changed."""
        self._listed.look()

    def check(self, shown: Mapping[str, Sequence[bytes]]) -> None:
        """Check the client's certificate in ``shown``, gRPC's auth context of the call.

        Raises:
            NoAuthorization: the certificate is on a list.
        """
        listed = self._listed.current()
        for issuer, number in map(_named, shown.get(_LEAF, ())):
            if number in listed.get(issuer, ()):
                raise NoAuthorization("this client certificate has been revoked")


def _read(file: Path, cas: Path) -> Numbers:
    trusted = x509.load_pem_x509_certificates(cas.read_bytes())
    found: dict[x509.Name, set[int]] = {}
    for crl in _lists(file):
        if any(_has_signed(ca, crl) for ca in trusted):
            found.setdefault(crl.issuer, set()).update(entry.serial_number for entry in crl)
        else:
            log.warning("revoked_list_of_an_unknown_ca", file=str(file), ca=crl.issuer.rfc4514_string())
    if not found:
        raise ValueError(f"{file} holds no list that is signed by a CA of {cas}")
    return found


def _lists(file: Path) -> list[x509.CertificateRevocationList]:
    blocks = [_BEGIN + block.split(_END)[0] + _END for block in file.read_bytes().split(_BEGIN)[1:]]
    if not blocks:
        raise ValueError(f"{file} holds no list of revoked certificates (PEM, `BEGIN X509 CRL`)")
    try:
        return [x509.load_pem_x509_crl(block) for block in blocks]
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ValueError(f"{file} holds a list that cannot be read: {error}") from error


def _has_signed(ca: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    key: Any = ca.public_key()
    try:
        return ca.subject == crl.issuer and crl.is_signature_valid(key)
    except (TypeError, UnsupportedAlgorithm):  # a key of a kind that signs no lists
        return False


@lru_cache(maxsize=1024)
def _named(pem: bytes) -> tuple[x509.Name, int]:
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.issuer, certificate.serial_number
