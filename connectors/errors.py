"""What can go wrong between the sidecar and a search engine.

    ConnectorError
    ├── NoAnswer                 the engine said nothing we could use
    │   ├── EngineUnavailable    refused, reset, 502/503/504, overloaded (429): trying again later may help
    │   ├── EngineTimeout        no complete answer within ``timeout_s``
    │   ├── MalformedAnswer      an answer that is not what the API promises (not JSON, no ``hits``)
    │   └── AnswerTooLarge       more than ``max_answer_mib``, left unread
    └── EngineRefused            an answer that says no (a closed index, another product); has the engine's own reason
        ├── IndexNotFound        404, no such index or alias
        ├── InvalidQuery         400, the engine could not parse or run the body
        ├── NotAuthenticated     401
        └── NotPermitted         403

Every error's message names the connector, what was tried, and the cause, never the query or a document's text, so
it is fit for a log. The engine's own sentence may quote the query: it is in ``reason``, for the one who asked.
"""


class ConnectorError(Exception):
    """The base of every error a connector raises.

    ``connector`` and ``engine`` say whose it is, where a call was observed; ``error_type`` is the engine's own name of
    the error (such as ``parsing_exception``), ``status`` the HTTP status, ``index`` the index that the engine blames,
    ``position`` line and column, counted from 1, in the body as it was sent: on one line, without blanks, and
    ``reason`` the engine's own sentence. What is not known is empty, 0 or None.
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

    ``status`` is 0 when no answer came. ``transient`` is false where trying again at once is pointless: a certificate
    that is not accepted, an internal error of the engine. ``retry_after_s`` is how long the engine asks to be left
    alone, None when it does not say.
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
    """The engine answered something that its API does not promise."""


class AnswerTooLarge(NoAnswer):
    """The engine's answer is larger than the connector reads; the same call would be answered the same."""


class EngineRefused(ConnectorError):
    """The engine understood the call and said no."""

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
    """The engine asks for other credentials."""


class NotPermitted(EngineRefused):
    """The credentials do not cover this call."""
