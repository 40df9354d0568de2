"""Programs of others that some tests use where they are installed."""

import os
import shutil

import pytest

REQUIRED = "REQUIRED_TOOLS"
"""Environment variable with the names of programs, separated by blanks, without which tests fail instead of being
skipped."""


def needs(program: str) -> None:
    """Skip the test, or fail it where the program is required, if it is not installed."""
    if shutil.which(program) is not None:
        return
    if program in os.environ.get(REQUIRED, "").split():
        pytest.fail(f"{program} is not installed, and {REQUIRED} names it")
    pytest.skip(f"{program} is not installed")
