"""The error of an option that cannot be used. Pure."""


class BadOption(ValueError):
    """An option cannot be used: the message is one sentence, ``key`` the name of the option."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key
