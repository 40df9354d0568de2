"""Errors that are kept for a while, without all that they would keep."""


def forget_way(error: BaseException | None) -> None:
    """Take from an error, and from those it came of, the way they have come.

    Each frame on that way keeps what was in it: a request, or the hits of a search. Where one of them keeps the error
    too, or grpc does, that is let go of by the next garbage collection only.
    """
    while error is not None:
        before = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = before
