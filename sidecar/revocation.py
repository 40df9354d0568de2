"""Client certificates that were revoked before their time was over. Needs cryptography, as the extra [jwt] does.

gRPC checks signature and dates at the handshake, and knows of no such lists; so each call is checked here.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509

from sidecar.errors import NoAuthorization
from sidecar.watched_file import WatchedFile

_LEAF = "x509_pem_cert"
"""Where gRPC puts the certificate that a client has shown."""
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"

Certificate = tuple[bytes, int]
"""The name of its issuer, and its number there."""


class Revoked:
    """The lists of revoked certificates (CRL, RFC 5280) in one file, which is read again when it changes.

    A list stays in force after the date of its next update: what was revoked stays revoked.
    """

    def __init__(self, file: Path, cas: Path) -> None:
        """Each list in ``file`` has to be signed by a CA of ``cas``.

        Raises:
            ValueError: the file cannot be used; the message says why.
            OSError: it cannot be read.
        """
        self._listed = WatchedFile(file, lambda path: _read(path, cas), "revoked_certificates")

    def check(self, shown: Mapping[str, Sequence[bytes]]) -> None:
        """``shown`` is what gRPC knows of the client's end of the connection.

        Raises:
            NoAuthorization: its certificate is on a list.
        """
        if any(_named(pem) in self._listed.current() for pem in shown.get(_LEAF, ())):
            raise NoAuthorization("this client certificate has been revoked")


def _read(file: Path, cas: Path) -> frozenset[Certificate]:
    trusted = {ca.subject: ca for ca in x509.load_pem_x509_certificates(cas.read_bytes())}
    return frozenset(one for crl in _lists(file) for one in _entries(crl, trusted, file))


def _lists(file: Path) -> list[x509.CertificateRevocationList]:
    blocks = [_BEGIN + block.split(_END)[0] + _END for block in file.read_bytes().split(_BEGIN)[1:]]
    if not blocks:
        raise ValueError(f"{file} holds no list of revoked certificates (PEM, `BEGIN X509 CRL`)")
    try:
        return [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError as error:
        raise ValueError(f"{file} holds a list that cannot be read: {error}") from error


def _entries(
    crl: x509.CertificateRevocationList, trusted: Mapping[x509.Name, x509.Certificate], file: Path
) -> list[Certificate]:
    ca: Any = trusted.get(crl.issuer)
    if ca is None or not crl.is_signature_valid(ca.public_key()):
        raise ValueError(f"{file}: the list of {crl.issuer.rfc4514_string()} is signed by none of the clients' CAs")
    return [(crl.issuer.public_bytes(), entry.serial_number) for entry in crl]


@lru_cache(maxsize=1024)
def _named(pem: bytes) -> Certificate:
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.issuer.public_bytes(), certificate.serial_number
