"""The error of an option that cannot be used. Pure."""


class BadOption(ValueError):
    """One sentence about an option, and its name in ``key``, for whoever wants to point at it."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key
