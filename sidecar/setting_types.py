"""Types of settings that need checks of their own, and the error for faults between several settings."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

BUNDLED = "bundled"
_LANGUAGES = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy
ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg
lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl
sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu
"""
LANGUAGES = frozenset(_LANGUAGES.split())
"""Codes of the languages that :mod:`sidecar.languages` knows."""

Keys = tuple[str | int, ...]
"""Path of a value: keys and list positions from the root, such as `("policies", "articles", "match", 0)`."""


class Faults(ValueError):
    """Faults between several keys: for each its path, relative to this section, and one sentence."""

    def __init__(self, *faults: tuple[Keys, str]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, keys))}: {message}" for keys, message in faults))
        self.faults = faults


class Section(BaseModel):
    """A part of the configuration: read-only, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Checked = TypeVar("Checked")


def _in_file(check: Callable[[Path, Checked], Checked]) -> AfterValidator:
    """A validator that needs the configuration file's folder; without a file it accepts values unchanged."""

    def validate(value: Checked, info: ValidationInfo) -> Checked:
        return check(info.context["folder"], value) if info.context else value

    return AfterValidator(validate)


def _existing_file(folder: Path, path: Path) -> Path:
    if not _is(Path.is_file, folder / path):
        raise ValueError(f"there is no file {folder / path}")
    return folder / path


def _local_or_hub(folder: Path, checkpoint: str) -> str:
    """Return the folder beside the file if there is one, else the hub id; ``./``, ``../``, ``/`` need a folder."""
    if checkpoint != BUNDLED and _is(Path.is_dir, folder / checkpoint):
        return str(folder / checkpoint)
    if checkpoint.startswith(("./", "../", "/")):
        raise ValueError(f"there is no folder {folder / checkpoint}")
    return checkpoint


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Return ``kind(path)``; False if the path cannot be examined (too long, no permission)."""
    try:
        return kind(path)
    except OSError:
        return False


def _index_pattern(pattern: str) -> str:
    if not pattern.isprintable() or re.search(r'[\s,/\\?#"<>|]', pattern):
        raise ValueError('an index pattern holds no whitespace and none of , / \\ ? # " < > |; only `*` is special')
    return pattern


def _language(code: str) -> str:
    if code not in LANGUAGES:
        raise ValueError(f"{code!r} is not a supported language code; allowed: {', '.join(sorted(LANGUAGES))}")
    return code


ExistingFile = Annotated[Path, _in_file(_existing_file)]
Checkpoint = Annotated[str, _in_file(_local_or_hub)]
IndexPattern = Annotated[str, Field(min_length=1), AfterValidator(_index_pattern)]
Language = Annotated[str, AfterValidator(_language)]
