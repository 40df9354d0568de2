"""AWS Signature Version 4 for OpenSearch Service and Serverless; needs botocore, the extra ``[aws]``."""

import asyncio
from collections.abc import Mapping
from typing import Any

from connectors.options import Aws

MISSING = "`aws` needs the library botocore: install `rerank-sidecar[aws]`"


class NoCredentials(Exception):
    """The standard chain holds no AWS credentials, or those there are could not be refreshed."""


class Signer:
    """Signs requests with the credentials of the standard chain, which are looked up once and refreshed in time."""

    def __init__(self, aws: Aws, session: Any = None) -> None:
        """``session`` is a botocore session of your own.

        Raises:
            ValueError: botocore is not installed.
        """
        try:
            import botocore.session
        except ImportError as error:
            raise ValueError(MISSING) from error
        self._aws = aws
        self._session = session or botocore.session.Session()
        self._credentials: Any = None
        self._looking_up = asyncio.Lock()

    async def sign(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers to send: those given, and the signature over method, URL, body and them.

        ``url`` and ``body`` are exactly what is sent: the path and the query percent-encoded, the body compressed.

        Raises:
            NoCredentials: there are none.
        """
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method=method, url=url, data=body or b"", headers=dict(headers))
        signing = SigV4Auth(await self._current(), self._aws.service, self._aws.region)
        request.headers["X-Amz-Content-SHA256"] = signing.payload(request)  # Serverless demands it
        signing.add_auth(request)
        return dict(request.headers.items())

    async def _current(self) -> Any:
        """Credentials that do not change while they are used; looking them up may ask the network, so in a thread."""
        from botocore.exceptions import BotoCoreError

        async with self._looking_up:
            try:
                if self._credentials is None:
                    self._credentials = await asyncio.to_thread(self._session.get_credentials)
                if self._credentials is None:
                    raise NoCredentials("no AWS credentials were found")
                if getattr(self._credentials, "refresh_needed", bool)():
                    return await asyncio.to_thread(self._credentials.get_frozen_credentials)
                return self._credentials.get_frozen_credentials()
            except BotoCoreError as error:
                raise NoCredentials(f"the AWS credentials cannot be had ({type(error).__name__})") from error
