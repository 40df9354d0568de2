"""Calls to an engine's REST interface by the standard library alone: what tests set up by and compare with."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class CallRefused(RuntimeError):
    """The engine answered with an error; ``body`` is its JSON, or its text under the key ``text``."""

    def __init__(self, call: str, status: int, body: Json) -> None:
        super().__init__(f"{call}: {status} {json.dumps(body)[:2000]}")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Access:
    """Where an engine is, whom it trusts (a file of CA certificates) and the ``Authorization`` header to send."""

    url: str
    authorization: str | None = None
    ca_certs: str | None = None

    def call(self, method: str, path: str, body: Json | str | None = None, *, timeout_s: float = 60) -> Json:
        """The engine's JSON; a dict is sent as JSON, a text as lines of JSON. ``path`` is sent as it is.

        Raises:
            CallRefused: the engine answered with an error.
            OSError: no answer came.
        """
        request = self._request(method, path, body)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.url.startswith("https"):
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.ca_certs)))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as response:
                return _read(response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise CallRefused(f"{method} {path}", error.code, _read(error.read())) from None

    def _request(self, method: str, path: str, body: Json | str | None) -> urllib.request.Request:
        lines = isinstance(body, str)
        payload = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"Content-Type": "application/x-ndjson" if lines else "application/json"} if body is not None else {}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        return urllib.request.Request(self.url + path, payload, headers, method=method)


def _read(body: bytes) -> Json:
    if not body:
        return {}
    try:
        answer = json.loads(body)
    except ValueError:
        return {"text": body.decode(errors="replace")}
    return answer if isinstance(answer, dict) else {"text": body.decode(errors="replace")}
