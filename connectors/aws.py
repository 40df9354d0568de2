"""AWS Signature Version 4 for OpenSearch Service and Serverless; needs botocore, the extra ``[aws]``."""

import asyncio
from collections.abc import Mapping
from typing import Any

from connectors.bad_option import BadOption
from connectors.options import Aws

MISSING = "`aws` needs the library botocore: install `rerank-sidecar[aws]`"


class NoCredentials(Exception):
    """The standard chain holds no AWS credentials, or their provider refused."""


class Unreachable(NoCredentials):
    """The provider of the credentials did not answer, failed, or is throttling: trying again later may help."""


class Signer:
    """Signs requests with the standard chain's credentials, looked up once and refreshed before they expire."""

    def __init__(self, aws: Aws, session: Any = None) -> None:
        """Use ``session``, a botocore session; None: a new one.

        Raises:
            BadOption: botocore is not installed.
        """
        try:
            import botocore.session
        except ImportError as error:
            raise BadOption("aws", MISSING) from error
        self._aws = aws
        self._session = session or botocore.session.Session()
        self._credentials: Any = None
        self._looking_up: asyncio.Task[Any] | None = None

    async def sign(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers to send: those given, and the signature over method, URL, body and them.

        ``url`` and ``body`` must be exactly what is sent: path and query percent-encoded, the body compressed.

        Raises:
            NoCredentials: there are none, or their provider refused; :class:`Unreachable` if it failed.
        """
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method=method, url=url, data=body or b"", headers=dict(headers))
        signing = SigV4Auth(await self._current(), self._aws.service, self._aws.region)
        request.headers["X-Amz-Content-SHA256"] = signing.payload(request)  # Serverless demands it
        signing.add_auth(request)
        return dict(request.headers.items())

    async def _current(self) -> Any:
        """Return a frozen copy of the credentials.

        Looking them up and refreshing them may use the network: one thread does so for all waiting calls, and
        continues when a call runs out of time.
        """
        if self._credentials is not None and not hasattr(self._credentials, "refresh_needed"):
            return self._credentials.get_frozen_credentials()
        if self._looking_up is None or self._looking_up.done():
            self._looking_up = asyncio.create_task(asyncio.to_thread(self._look_up))
            self._looking_up.add_done_callback(_seen)
        return await asyncio.shield(self._looking_up)

    def _look_up(self) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._credentials is None:
                self._credentials = self._session.get_credentials()
            if self._credentials is None:
                raise NoCredentials("no AWS credentials were found")
            return self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise _meaning_of(error) from error


def _meaning_of(error: Exception) -> NoCredentials:
    """Return the error for a failure of botocore, without its message, which names roles and accounts."""
    from botocore.exceptions import ConnectionError as NotConnected
    from botocore.exceptions import HTTPClientError

    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    away = isinstance(error, (NotConnected, HTTPClientError)) or status == 429 or status >= 500 or "Throttl" in code
    kind = Unreachable if away else NoCredentials
    return kind(f"the AWS credentials could not be obtained ({' '.join(filter(None, (type(error).__name__, code)))})")


def _seen(task: "asyncio.Task[Any]") -> None:
    """Retrieve a failure, or asyncio would warn of it if every waiting call has run out of time."""
    if not task.cancelled():
        task.exception()
