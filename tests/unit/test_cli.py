"""The commands that need no server: their output, exit status and how they take mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import typer
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.cli.eval import _of_index
from sidecar.cli.reference import as_markdown, rows, sections
from sidecar.cli.target import in_words
from sidecar.configuration import load

ROOT = Path(__file__).parents[2]
runner = CliRunner()


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """The starter file as `init` writes it."""
    path = tmp_path / "rerank-sidecar.yaml"
    assert runner.invoke(app, ["init", str(path)]).exit_code == 0
    return path


def test_init_writes_a_file_that_check_accepts(starter: Path) -> None:
    result = runner.invoke(app, ["check", str(starter)])
    assert result.exit_code == 0
    assert result.stdout == f"{starter} is valid: 1 connector, 2 models, 2 policies\n"


def test_init_writes_rerank_sidecar_yaml_and_overwrites_only_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rerank-sidecar.yaml"
    path.write_text("mine")
    result = runner.invoke(app, ["init"])
    assert (result.exit_code, result.stderr) == (2, "rerank-sidecar.yaml exists; --force overwrites it\n")
    assert path.read_text() == "mine"
    result = runner.invoke(app, ["init", "--force"])
    assert result.exit_code == 0
    assert result.stdout.startswith("wrote rerank-sidecar.yaml; next: rerank-sidecar check rerank-sidecar.yaml")
    assert "policies:" in path.read_text()


def test_init_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = runner.invoke(app, ["init", str(tmp_path / "no" / "x.yaml")])
    assert result.exit_code == 2
    assert "cannot be written: No such file or directory" in result.stderr


def test_the_options_commented_out_in_the_starter_are_valid_too(starter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_PASSWORD", "secret")
    monkeypatch.setenv("CLIENT_KEY_PASSWORD", "secret")
    own = ("server.pem", "server-key.pem", "keys.txt", "jwks.json")
    for file in ("engine-ca.pem", "client.pem", "client-key.pem", *own):
        (starter.parent / file).touch()
    instead = "api_key|bearer_token|cloud_id|aws|certificate_fingerprints|nested"  # of the ones beside them
    text = re.sub(rf"^( +)# (?!{instead})", r"\1", starter.read_text(), flags=re.MULTILINE)
    starter.write_text(text.replace("http://", "https://"))
    policy = load(starter).policies["articles"]
    assert policy.limits.query_chars == 4096
    assert policy.text.passages is not None


def test_the_starter_shows_every_setting(starter: Path) -> None:
    text = starter.read_text()
    elsewhere = {"indices", "env", "file", "label"}  # of the memory connector, of secrets, and one shown inline
    names = {row.key for _, section in sections() for row in rows(section)} - elsewhere
    assert [name for name in sorted(names) if f"{name}:" not in text] == []


def test_check_tells_every_fault_on_stderr(starter: Path) -> None:
    text = starter.read_text().replace("method: linear ", "method: linaer ").replace("budget_ms: 300", "budget_ms: 0")
    starter.write_text(text)
    result = runner.invoke(app, ["check", str(starter)])
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.endswith(": policies.articles.budget_ms: 0 is out of range; allowed: 1..600000")
    assert second.endswith(": policies.articles.fusion.method: 'linaer' is not allowed; allowed: linear, rrf, replace")


def test_check_notes_what_would_have_no_effect(tmp_path: Path) -> None:
    file, text = tmp_path / "sidecar.yaml", "text: {fields: [body]}"
    file.write_text(f"policies:\n  a: {{match: [x-*], {text}}}\n  b: {{match: [y, x-*], {text}}}\n")
    result = runner.invoke(app, ["check", str(file)])
    assert (result.exit_code, result.stderr) == (
        0,
        "note: policies.b.match.1: policy a has the same match and comes first\n",
    )
    file.write_text(f"policies:\n  a: {{{text}}}\n")
    assert "only calls that name a policy are reranked" in runner.invoke(app, ["check", str(file)]).stderr
    file.write_text(f"policies:\n  a: {{{text}}}\ndefault_policy: a\n")
    assert runner.invoke(app, ["check", str(file)]).stderr == ""


def test_check_of_a_missing_file_says_so() -> None:
    result = runner.invoke(app, ["check", "nope.yaml"])
    assert result.exit_code == 2
    assert result.stderr == "nope.yaml: there is no such file; `rerank-sidecar init` writes one to start from\n"


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = runner.invoke(app, ["check", str(tmp_path / "pipe")])
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path / 'pipe'}: cannot be read: it is neither a file nor a link to one\n"


def test_serve_ignores_sighup_and_grpcs_own_log_until_it_can_do_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends SIGHUP while it starts wants a file read, not the process ended."""
    before = signal.getsignal(signal.SIGHUP)
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    try:
        for wanted in ("NONE", "DEBUG"):
            assert runner.invoke(app, ["serve", str(tmp_path / "absent.yaml")]).exit_code == 2
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert os.environ["GRPC_VERBOSITY"] == wanted
            monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_missing_key_is_told_where_it_would_be_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAUTHENTICATED

        def details(self) -> str:
            return "send one metadata `authorization: Bearer KEY`"

    monkeypatch.delenv("RERANK_SIDECAR_KEY", raising=False)
    said = "UNAUTHENTICATED: send one metadata `authorization: Bearer KEY`"
    assert in_words(Refused()) == f"{said} (the environment variable RERANK_SIDECAR_KEY is not set)"
    monkeypatch.setenv("RERANK_SIDECAR_KEY", "x")
    assert in_words(Refused()) == said


def test_explain_shows_the_policy_why_and_the_changes(starter: Path) -> None:
    result = runner.invoke(app, ["explain", str(starter), "--index", "articles-1"])
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "index 'articles-1' on connector 'main' matches 'articles-*' (policy articles, 9 literal characters)\n"
    )
    for row in ("Plan of policy articles", "rank_window_size", "title, body", "max(100, from + size)"):
        assert row in result.stdout


def test_explain_as_json(starter: Path) -> None:
    result = runner.invoke(app, ["explain", str(starter), "--index", "books", "--connector", "main", "--json"])
    answer = json.loads(result.stdout)
    assert (answer["policy"], answer["allowed"], answer["asks_engine"]) == ("everything_else", True, True)
    assert answer["plan"]["rank_window_size"] == 100
    assert answer["body"]["size"] == "max(100, from + size)"


def test_explain_an_index_that_is_not_reranked_or_not_allowed(starter: Path) -> None:
    text = (
        starter.read_text().replace("default_policy:", "# ").replace('# allow_indices: ["*"]', "allow_indices: [a-*]")
    )
    starter.write_text(text)
    result = runner.invoke(app, ["explain", str(starter), "--index", "books"])
    assert result.exit_code == 0
    assert result.stdout == (
        "no policy matches index 'books' on connector 'main', and there is no default_policy\n"
        "This is by the name alone: a running sidecar asks the engine what an alias, pattern or data stream stands "
        "for, "
        "and takes the policy of that (PolicyService.Explain tells it).\n"
        "The connector's allow_indices refuse 'books' (PERMISSION_DENIED).\n"
        "The engine's order is returned (SKIPPED, NO_POLICY).\n"
    )


def test_explain_indices_whose_policies_refuse_each_other(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("""
connectors: {main: {type: opensearch, hosts: ["http://127.0.0.1:9200"]}}
policies:
  a: {match: [{index: "a-*"}], text: {fields: [body]}, on_conflict: refuse}
  b: {match: [{index: "b-*"}], text: {fields: [body]}, mode: shadow, percent: 20, engine_timeout: true}
""")
    refused = runner.invoke(app, ["explain", str(file), "--index", "a-1,b-1"])
    assert refused.exit_code == 0
    assert "policy a refuses that (on_conflict): search them apart\n" in refused.stdout
    assert refused.stdout.endswith("The call is refused (INVALID_ARGUMENT).\n")
    tried = runner.invoke(app, ["explain", str(file), "--index", "b-1", "--json"])
    answer = json.loads(tried.stdout)
    assert (answer["plan"]["mode"], answer["plan"]["percent"], answer["refused"]) == ("shadow", 20, False)
    assert "timeout" in answer["body"]
    long = runner.invoke(app, ["explain", str(file), "--index", "x" * 100_000])
    assert (long.exit_code, "at most" in long.output) == (2, True)
    compared = runner.invoke(app, ["diff", str(file), str(file), "--index", "a-1,b-1"])
    assert "index a-1,b-1: refused (on_conflict) -> refused (on_conflict)" in compared.output


def test_explain_a_policy_that_is_not_enabled(starter: Path) -> None:
    starter.write_text(starter.read_text().replace("# enabled: true ", "enabled: false "))
    result = runner.invoke(app, ["explain", str(starter), "--index", "articles-1"])
    assert "SKIPPED, POLICY_DISABLED" in result.stdout
    assert "from + size" not in result.stdout


def test_explain_with_an_unknown_connector(starter: Path) -> None:
    result = runner.invoke(app, ["explain", str(starter), "--index", "x", "--connector", "mian"])
    assert (result.exit_code, result.stderr) == (2, "there is no connector 'mian'; the connectors are: main\n")


def test_explain_without_an_index_is_a_usage_error(starter: Path) -> None:
    result = runner.invoke(app, ["explain", str(starter)])
    assert result.exit_code == 2
    assert "Missing option '--index'" in result.stderr


@pytest.mark.parametrize(
    ("index", "policy"), [("articles-2026", "articles"), ("books", None), ("articles-2026,books", None)]
)
def test_eval_takes_the_policy_that_the_index_gets(
    starter: Path, index: str, policy: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if policy:
        assert _of_index(load(starter), "", index) == policy
        return
    with pytest.raises(typer.Exit):
        _of_index(load(starter), "", index)
    assert capsys.readouterr().err.endswith("; name a policy by --policy: articles, everything_else\n")


def test_eval_with_an_unknown_connector(starter: Path) -> None:
    with pytest.raises(typer.Exit):
        _of_index(load(starter), "mian", "articles-1")


def test_settings_are_listed_in_the_terminal() -> None:
    result = runner.invoke(app, ["settings"])
    assert result.exit_code == 0
    assert "policies.<name>.limits" in result.stdout


def test_the_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == as_markdown(), (
        "run: rerank-sidecar settings --markdown > docs/settings.md"
    )


def test_every_setting_has_a_description() -> None:
    rows = [line for line in as_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert all(line.rsplit("|", 2)[1].strip() for line in rows)


def test_the_starter_loads(starter: Path) -> None:
    assert list(load(starter).policies) == ["articles", "everything_else"]


def run(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_nothing_slow_is_imported_at_the_start() -> None:
    slow = ["torch", "transformers", "grpc", "numpy", "elasticsearch", "opensearchpy"]
    result = run(f"import sys, sidecar.cli; print([name for name in {slow} if name in sys.modules])")
    assert result.stdout == "[]\n", result.stderr


def test_ctrl_c_and_a_closed_pipe_end_it_without_a_traceback() -> None:
    interrupted = "import sidecar.cli as c\n@c.app.command()\ndef wait() -> None: raise KeyboardInterrupt\n"
    result = run(interrupted + "import sys; sys.argv = ['x', 'wait']; c.main()")
    assert (result.returncode, result.stderr) == (130, "")
    closed = "import os, sys\nread, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
    result = run(closed + "import sidecar.cli as c; sys.argv = ['x', 'settings', '--markdown']; c.main()")
    assert (result.returncode, result.stderr) == (1, "")
