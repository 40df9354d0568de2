"""Secrets, given in the configuration file, the environment or a file of their own; never shown."""

import os
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Discriminator, Field, PrivateAttr, SecretStr, Tag, model_validator

from sidecar.file_stamp import Stamp, stamp_of
from sidecar.setting_types import ExistingFile, Faults, Section


class SecretFrom(Section):
    """Where a secret is read from, so that it need not stand in the file.

    Two are equal only if their file's stamps are, too: a configuration that is reloaded after a rotation differs.
    """

    env: str | None = Field(None, description="Name of the environment variable that holds the secret.")
    file: ExistingFile | None = Field(
        None, description="Path of the file that holds the secret; a final newline is dropped."
    )

    _stamp: Stamp = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of `env` and `file`")
        if self.env is not None and self.env not in os.environ:
            raise Faults((("env",), f"the environment variable {self.env} is not set"))
        self._stamp = stamp_of(self.file) if self.file else None
        return self

    def read(self) -> str:
        """Return the secret itself."""
        return self.file.read_text(encoding="utf-8").rstrip("\n") if self.file else os.environ[self.env or ""]


def _secret_kind(value: object) -> str:
    return "source" if isinstance(value, (Mapping, SecretFrom)) else "text"


Secret = Annotated[
    Annotated[SecretStr, Tag("text")] | Annotated[SecretFrom, Tag("source")], Discriminator(_secret_kind)
]


def reveal(secret: Secret) -> str:
    """Return the secret as text, for a client; never print it."""
    return secret.read() if isinstance(secret, SecretFrom) else secret.get_secret_value()
