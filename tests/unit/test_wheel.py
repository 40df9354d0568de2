"""What a wheel of this package holds."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.native import compiles

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel that is built of a copy of the sources, without what was built beside them."""
    pytest.importorskip("setuptools")
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("made")
    for folder in ("sidecar", "connectors", "tests/unit"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    command = [sys.executable, "-c", BUILD, str(made)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, timeout=120)
    (wheel,) = made.glob("*.whl")
    return set(ZipFile(wheel).namelist())


def test_what_is_needed_to_run_is_in_it(files: set[str]) -> None:
    needed = {"sidecar/py.typed", "connectors/py.typed", "sidecar/starter.yaml", "sidecar/demo/corpus.jsonl"}
    needed |= {f"sidecar/models/bundled/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json")}
    assert needed <= files
    assert any(name.startswith("sidecar/scoring/_native.") for name in files) == compiles()


def test_sources_in_c_and_tests_are_not(files: set[str]) -> None:
    assert not [name for name in files if name.endswith((".c", ".h")) or name.startswith("tests/")]
