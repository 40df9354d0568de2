"""The certificates of the gRPC port, read again when their files change: no restart, and no call lost."""

import ssl
from threading import Lock
from typing import Any

import grpc

from sidecar.metrics import Metrics
from sidecar.server_settings import TlsSettings
from sidecar.watched_file import WatchedFile


class Certificates:
    """The port's certificate, key and trusted CAs. gRPC asks for them at every handshake, in threads of its own."""

    def __init__(self, settings: TlsSettings, metrics: Metrics) -> None:
        """Read the files.

        Raises:
            ValueError: one of them cannot be used; the message says which and why.
            OSError: one of them cannot be read.
        """
        self._settings = settings
        self._lock = Lock()
        files = [file for file in (settings.cert, settings.key, settings.client_ca) if file]
        self._file = WatchedFile(self._read, "certificates", *files, metrics=metrics)
        self._given = self._first = self._file.current()

    def look(self) -> None:
        """Read the files again if they have changed, for the handshakes to come."""
        self._file.look()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for a secure port; they follow changes of the files."""
        mutual = self._settings.client_ca is not None
        fetch: Any = self._changed  # its stubs do not know that None leaves all as it is
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._first, fetch, require_client_authentication=mutual
        )
        return credentials

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates if they changed since the last call, else None: those in use stay. Never raises."""
        with self._lock:
            before, self._given = self._given, self._file.current()
            return None if self._given is before else self._given

    def _read(self) -> grpc.ServerCertificateConfiguration:
        settings = self._settings
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.cert, settings.key, password=_refuse)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ValueError(f"{settings.cert} with {settings.key}: {reason}") from error
        trusted = None
        if settings.client_ca:
            try:
                ssl.create_default_context(cafile=str(settings.client_ca))
            except ssl.SSLError as error:
                raise ValueError(f"{settings.client_ca} holds no CA certificates: {error}") from error
            trusted = settings.client_ca.read_bytes()
        pairs = [(settings.key.read_bytes(), settings.cert.read_bytes())]
        return grpc.ssl_server_certificate_configuration(pairs, root_certificates=trusted)


def _refuse() -> str:
    """Raise ValueError, where OpenSSL would ask for a password in the terminal."""
    raise ValueError("the key has a password; a server needs one without")
