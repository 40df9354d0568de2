"""Errors that are kept for a while, without the objects that their tracebacks hold."""


def forget_way(error: BaseException | None) -> None:
    """Clear traceback, cause and context of an error and of its causes.

    Each frame of a traceback holds its local variables, such as a request or the hits of a search. If a frame, or gRPC,
    holds the error too, only the next garbage collection would free them.
    """
    while error is not None:
        before = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = before
