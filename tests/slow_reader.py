"""A client that asks and does not read: HTTP/2 by hand, since gRPC's own clients read as fast as they can."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RemoteSettingsChanged
from h2.settings import SettingCodes

_UNCOMPRESSED = 0


class SlowReader:
    """One connection, whose windows stay shut: the server may send headers, and not one byte of an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use :meth:`connected`."""
        self._reader = reader
        self._writer = writer
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[Self]:
        """Connected to a sidecar of this machine, knowing how many calls it takes at once; it hangs up at the end."""
        one = cls(*await asyncio.open_connection("127.0.0.1", port))
        try:
            one._http.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = 0
            one._http.initiate_connection()
            await one._flush()
            while not any(isinstance(event, RemoteSettingsChanged) for event in await one._read()):
                pass
            yield one
        finally:
            one._writer.close()
            await one._writer.wait_closed()

    @property
    def allowed(self) -> int:
        """How many calls the server lets this connection have at once."""
        return int(self._http.remote_settings.max_concurrent_streams or 0)

    async def ask(self, method: str, message: bytes) -> None:
        """Send one call; what becomes of it is not looked at."""
        stream = self._http.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._http.send_headers(stream, list(headers.items()))
        self._http.send_data(stream, struct.pack(">BI", _UNCOMPRESSED, len(message)) + message, end_stream=True)
        await self._flush()

    async def _read(self) -> list[object]:
        events: list[object] = list(self._http.receive_data(await self._reader.read(2**16)))
        await self._flush()
        return events

    async def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())
        await self._writer.drain()
