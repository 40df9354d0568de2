"""What a checkpoint's folder says of itself is read without torch, and followed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sidecar.changes import Changes
from sidecar.cli import app
from sidecar.model_files import LanguagesFault, languages_of, location, say_languages
from sidecar.policy import plan
from sidecar.settings import ModelSettings, Settings
from sidecar.training import export


def folder(path: Path, config: object) -> str:
    """A checkpoint's folder with this config.json."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(path)


def test_the_bundled_model_is_for_english_and_a_new_one_of_the_recipe_would_be() -> None:
    assert languages_of("bundled") == ("en",) == tuple(export.LANGUAGES)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sidecar": {"revision": "0"}},
        {"sidecar": {"languages": None}},
        {"sidecar": "someone else's"},
        [],
        "{ no JSON",
        "\udcff",
    ],
)
def test_where_nothing_is_said_it_is_any(tmp_path: Path, config: Any) -> None:
    if config == "\udcff":
        folder(tmp_path / "model", "")
        (tmp_path / "model" / "config.json").write_bytes(b"\xff")
    else:
        folder(tmp_path / "model", config)
    assert languages_of(str(tmp_path / "model")) is None


@pytest.mark.parametrize("checkpoint", ["cross-encoder/ms-marco-MiniLM-L6-v2", "x" * 5000, "a\0b"])
def test_what_is_no_folder_here_is_for_any(checkpoint: str) -> None:
    assert languages_of(checkpoint) is None


@pytest.mark.parametrize("said", ["en", [], ["english"], ["en", 1], {"en": True}, 0])
def test_what_cannot_be_used_is_told_with_its_file(tmp_path: Path, said: object) -> None:
    checkpoint = folder(tmp_path, {"sidecar": {"languages": said}})
    with pytest.raises(LanguagesFault, match=r"config\.json: `sidecar\.languages` is .*; allowed: no such key"):
        languages_of(checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint\n.*config\.json: `sidecar\.languages` is"):
        ModelSettings(checkpoint=checkpoint)
    for command in (
        ["export", checkpoint, str(tmp_path / "out")],
        ["train", str(tmp_path), "out", "--base", checkpoint],
    ):
        ended = CliRunner().invoke(app, command)
        assert ended.exit_code == 2
        assert "`sidecar.languages` is" in " ".join(ended.output.split())


def of_checkpoint(checkpoint: str, **policy: Any) -> Settings:
    models = {"default": {"checkpoint": checkpoint}}
    return Settings.model_validate({"models": models, "policies": {"p": {"text": {"fields": ["x"]}, **policy}}})


def test_a_policy_goes_by_its_checkpoint_unless_it_says_otherwise(tmp_path: Path) -> None:
    german = folder(tmp_path, {"sidecar": {"languages": ["de", "nl"]}})
    assert plan(of_checkpoint("bundled"), "p").languages == ("en",)
    assert plan(of_checkpoint(german), "p").languages == ("de", "nl")
    assert plan(of_checkpoint("org/model"), "p").languages is None
    assert plan(of_checkpoint(german, languages=None), "p").languages is None
    assert plan(of_checkpoint(german, languages=["fr"]), "p").languages == ("fr",)


def test_a_folder_that_says_something_else_now_is_loaded_anew_with_the_next_configuration(tmp_path: Path) -> None:
    before = of_checkpoint(folder(tmp_path, {"sidecar": {"languages": ["en"]}}))
    assert Changes.of(before, of_checkpoint(str(tmp_path))).load == ()
    after = of_checkpoint(folder(tmp_path, {"sidecar": {"languages": ["de"]}}))
    assert Changes.of(before, after).load == ("default",)
    assert plan(after, "p").languages == ("de",)


def test_what_is_said_of_a_new_checkpoint_replaces_what_was_said_of_the_old_one(tmp_path: Path) -> None:
    folder(tmp_path, {"model_type": "bert", "sidecar": {"revision": "0", "languages": ["en"]}})
    say_languages(tmp_path, ("de", "en"))
    assert languages_of(str(tmp_path)) == ("de", "en")
    say_languages(tmp_path, None)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "bert"}


def test_torch_is_not_needed() -> None:
    program = "import sys; from sidecar.settings import *; print(ModelSettings().languages, 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "('en',) False"


def test_a_name_that_is_not_bundled_stays_as_it_is() -> None:
    assert (location("org/model"), Path(location("bundled")).name) == ("org/model", "bundled")


def test_a_config_that_is_nested_too_deeply_says_nothing(tmp_path: Path) -> None:
    """The loader tells what is wrong with it."""
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert languages_of(str(tmp_path)) is None
