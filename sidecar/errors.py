"""Two families of errors, and nothing between them.

    SidecarError
    ├── RequestError              the call cannot be answered: becomes a gRPC status in the interceptor
    │   ├── InvalidRequest        INVALID_ARGUMENT: the caller has to change the request
    │   ├── UnknownName           NOT_FOUND: no such connector
    │   ├── NotAllowed            PERMISSION_DENIED: the configuration forbids it
    │   ├── NoAuthorization       UNAUTHENTICATED: a key, or the end user's own credentials, are missing or invalid
    │   ├── TooManyCalls          RESOURCE_EXHAUSTED: more calls at once than the server serves
    │   ├── ReplyTooLarge         RESOURCE_EXHAUSTED: over the limit of a message
    │   └── DeadlinePassed        DEADLINE_EXCEEDED: no time left to search
    └── Fallback                  the call is answered in the engine's order: becomes `reason` in the pipeline
        ├── BudgetExhausted       the budget ended before scoring finished
        ├── Overloaded            would not have finished in time, or the queue is full
        ├── ModelNotReady         loading, warming up, or failed to load
        ├── ModelError            raised, returned the wrong count, or is stuck
        ├── CircuitOpen           its last forward passes all failed: it is tried only once in a while
        ├── NonFiniteScore        NaN or infinity among the scores
        ├── TextUnavailable       no candidate has text
        ├── QueryTooLong          no room for a passage beside the query
        └── OtherLanguage         the texts are in a language that the model is not for: skipped

Kinds of InvalidRequest are added by :mod:`sidecar.resolution` (UnknownPolicy, PolicyConflict) and
:mod:`sidecar.policy` (InvalidOverride).

Errors of the engines are a third tree, :mod:`connectors.errors`: before there are hits they become a status, afterwards
a fallback. The message of an error is for the caller: it never holds a query or a document's text.
"""

from sidecar.types import Outcome, Reason


class SidecarError(Exception):
    """The base of the errors of a call that the sidecar raises on purpose."""


class RequestError(SidecarError):
    """The call cannot be answered."""


class InvalidRequest(RequestError):
    """The caller has to change the request."""


class UnknownName(RequestError):
    """The request names something that is not configured."""


class NotAllowed(RequestError):
    """The configuration forbids what the request asks for."""


class NoAuthorization(RequestError):
    """The caller's credentials are missing or invalid, or the end user's, for whom a connector acts, are missing."""


NOT_SHOWN = "send one metadata `authorization: Bearer KEY`"
"""The message for a call without credentials."""


class TooManyCalls(RequestError):
    """More calls at once than the server serves."""


class ReplyTooLarge(RequestError):
    """The reply would exceed the size limit."""


class DeadlinePassed(RequestError):
    """No time is left to search."""


class Fallback(SidecarError):
    """Reranking failed, or does not apply; the answer is the engine's order, with this reason."""

    reason: Reason
    outcome = Outcome.ORIGINAL_ORDER


class BudgetExhausted(Fallback):
    """The budget ended before the scores were there."""

    reason = Reason.BUDGET_EXHAUSTED


class Overloaded(Fallback):
    """The job would not have finished in time, or the queue is full."""

    reason = Reason.OVERLOADED


class ModelNotReady(Fallback):
    """The model is loading, warming up, or failed to load."""

    reason = Reason.MODEL_NOT_READY


class ModelError(Fallback):
    """The model raised, returned the wrong number of scores, or is stuck."""

    reason = Reason.MODEL_ERROR


class CircuitOpen(Fallback):
    """The model's last forward passes all failed; it is tried only once in a while."""

    reason = Reason.CIRCUIT_OPEN


class NonFiniteScore(Fallback):
    """The model returned NaN or infinity."""

    reason = Reason.NON_FINITE_SCORE


class TextUnavailable(Fallback):
    """No candidate has text to score."""

    reason = Reason.TEXT_UNAVAILABLE


class OtherLanguage(Fallback):
    """The texts are in a language that the policy's model is not for."""

    reason = Reason.LANGUAGE
    outcome = Outcome.SKIPPED


class QueryTooLong(Fallback):
    """The query leaves no room for a passage."""

    reason = Reason.QUERY_TOO_LONG
