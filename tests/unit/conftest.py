"""Unit tests keep what the log says, as fault tests do: printing it, tracebacks and all, would take their time."""

from tests.faults.conftest import logged as logged
