"""One java process that is an engine: started, killed, started again, and gone with all its files."""

import http.client
import os
import re
import shutil
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.engines.catalog import PASSWORD, EngineError, Spec
from tests.engines.jars import prepare
from tests.engines.jdk import find_jdk, jdk_version
from tests.engines.rest import Access, CallRefused
from tests.engines.security import certificate_of, secure

POLL_S = 0.1
STOPPING_S = 15.0


class Node:
    """An engine on 127.0.0.1 in a home of its own. It stops when its stdin closes, so also when this process dies."""

    def __init__(self, spec: Spec, command: list[str], home: Path, output: int) -> None:
        """``output`` is the descriptor of the file that takes the node's log."""
        self.spec = spec
        self.home = home
        self.access = Access("")
        self._command = command
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the java process; 0 when it is not running."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the java process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, port: int, timeout_s: float) -> None:
        """Run it and wait until it answers; ``EngineError`` with the end of its log when that takes too long."""
        logged = len(self.log())
        self._process = subprocess.Popen(
            [*self._command, f"http.port={port}"],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            process_group=0,  # Ctrl-C is for the parent, which then stops the node
        )
        self._await_health(logged, timeout_s)

    def restart(self, timeout_s: float = 120) -> None:
        """Start it again at the same address with the same data, killing it first if it runs."""
        self.kill()
        self.start(int(self.access.url.rpartition(":")[2]), timeout_s)

    def kill(self) -> None:
        """End it at once, as a crash would; its data stays for :meth:`restart`."""
        self._end(0)

    def stop(self) -> None:
        """End it in good order, which takes its home away."""
        self._end(STOPPING_S)

    def log(self) -> str:
        """What the node has printed so far."""
        return os.pread(self._output, os.fstat(self._output).st_size, 0).decode(errors="replace")

    def _end(self, patience_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        if not patience_s:
            process.kill()
        process.stdin.close()
        try:
            process.wait(patience_s or None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _await_health(self, logged: int, timeout_s: float) -> None:
        """Wait until the node has said on which port it listens and answers 200 there."""
        deadline = time.monotonic() + timeout_s
        problem = "it has not opened its port"
        while time.monotonic() < deadline and self.alive:
            if ready := re.search(r"^READY \S+:(\d+)$", self.log()[logged:], re.MULTILINE):
                self.access = self._access(int(ready[1]))
                problem = self._problem()
                if not problem:
                    return
            time.sleep(POLL_S)
        log = self.log()[-4000:]
        problem = problem if self.alive else "it ended by itself"
        raise EngineError(f"{self.spec.name} did not start within {timeout_s:g} s: {problem}. Its log ends:\n{log}")

    def _access(self, port: int) -> Access:
        if self.spec.user is None:
            return Access(f"http://127.0.0.1:{port}")
        return Access(
            f"https://127.0.0.1:{port}", basic(self.spec.user, PASSWORD), ca_certs=str(certificate_of(self.home))
        )

    def _problem(self) -> str:
        """Why the node is not healthy yet; empty when it is."""
        try:
            self.access.call("GET", "/_cluster/health?wait_for_status=yellow&timeout=1s", timeout_s=5)
        except (OSError, http.client.HTTPException, CallRefused) as problem:
            return f"it answered {problem!r}"
        return ""


@contextmanager
def running(
    spec: Spec, *, port: int = 0, heap: str = "512m", settings: Iterable[str] = (), timeout_s: float = 120
) -> Iterator[Node]:
    """The engine for the length of a ``with`` block; port 0 takes a free one, settings are ``key=value``.

    Raises:
        Missing: this machine lacks a program that is needed.
        EngineError: it cannot be prepared, or is not healthy within ``timeout_s`` seconds.
    """
    jars = prepare(spec)
    home = Path(tempfile.mkdtemp(prefix=f"{spec.name}-"))
    with ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, home, ignore_errors=True)
        output = cleaning.enter_context(tempfile.TemporaryFile())
        arguments = [*secure(spec, jars, home), *settings]
        node = Node(spec, [*_java(spec, jars, home, heap), spec.main, str(home), *arguments], home, output.fileno())
        cleaning.callback(node.stop)
        node.start(port, timeout_s)
        yield node


def basic(user: str, password: str) -> str:
    """The ``Authorization`` header of a user and a password."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _java(spec: Spec, jars: Path, home: Path, heap: str) -> list[str]:
    jdk = find_jdk(spec)
    (home / "tmp").mkdir()
    flags = [f"-Xmx{heap}", f"-Djava.io.tmpdir={home / 'tmp'}", "-XX:TieredStopAtLevel=1"]  # C1 only: starts sooner
    if jdk_version(jdk) >= 22:
        flags.append("--enable-native-access=ALL-UNNAMED")
    return [str(jdk / "bin" / "java"), *flags, "-cp", f"{jars / 'classes'}:{jars / 'lib'}/*"]
