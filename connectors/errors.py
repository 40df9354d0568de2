"""What can go wrong between the sidecar and a search engine.

    ConnectorError
    ├── NoAnswer                 the engine gave no usable answer
    │   ├── EngineUnavailable    refused, reset, 502/503/504, overloaded (429): trying again later may help
    │   ├── EngineTimeout        no complete answer within ``timeout_s``
    │   ├── MalformedAnswer      an answer that is not what the API promises (not JSON, no ``hits``)
    │   └── AnswerTooLarge       more than ``max_answer_mib``, left unread
    └── EngineRefused            the engine refused the call (closed index, other product); has its own reason
        ├── IndexNotFound        404, no such index or alias
        ├── InvalidQuery         400, the engine could not parse or run the body
        ├── NotAuthenticated     401
        └── NotPermitted         403

Every error's message names the connector, what was tried, and the cause, never the query or a document's text, so
it may be logged. The engine's own sentence may quote the query: it is only in ``reason``, for the caller.
"""


class ConnectorError(Exception):
    """The base of every error a connector raises.

    ``connector`` and ``engine`` name its origin, if an observer of the call has set them; ``error_type`` is the
    engine's own name of the error (such as ``parsing_exception``), ``status`` the HTTP status, ``index`` the index
    that the engine blames, ``position`` line and column, from 1, in the body as sent (on one line, without blanks),
    and ``reason`` the engine's own sentence. Unknown values are empty, 0 or None.
    """

    connector: str = ""
    engine: str = ""
    error_type: str = ""
    status: int = 0
    reason: str = ""
    index: str = ""
    position: tuple[int, int] | None = None


class NoAnswer(ConnectorError):
    """The engine gave no usable answer."""


class EngineUnavailable(NoAnswer):
    """The engine could not be reached, or said that it cannot serve now.

    ``status`` is 0 when no answer came. ``transient`` is false if an immediate retry is pointless, such as with an
    unaccepted certificate, an internal error of the engine, or a closed connector. ``retry_after_s`` is how long the
    engine asks to wait, None if it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        transient: bool = True,
        error_type: str = "",
        reason: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.transient = transient
        self.error_type = error_type
        self.reason = reason
        self.retry_after_s = retry_after_s


class EngineTimeout(NoAnswer):
    """The engine did not answer within the time given."""


class MalformedAnswer(NoAnswer):
    """The engine's answer is not what its API promises."""


class AnswerTooLarge(NoAnswer):
    """The engine's answer is larger than the connector reads; repeating the call would not help."""


class EngineRefused(ConnectorError):
    """The engine answered the call and refused it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        error_type: str = "",
        reason: str = "",
        index: str = "",
        position: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.reason = reason
        self.index = index
        self.position = position


class IndexNotFound(EngineRefused):
    """No index, alias or data stream of that name."""


class InvalidQuery(EngineRefused):
    """The engine rejected the body or a URL parameter."""


class NotAuthenticated(EngineRefused):
    """The engine does not accept the credentials, or there are none."""


class NotPermitted(EngineRefused):
    """The credentials do not cover this call."""
