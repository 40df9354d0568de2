"""What a checkpoint's folder says beside its weights: where it is, and which languages it is for. Needs no torch."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sidecar.setting_types import BUNDLED, LANGUAGES

CONFIG = "config.json"
_OURS, _LANGUAGES = "sidecar", "languages"
"""Our own key of the configuration, and the key of the languages in it."""


class LanguagesFault(ValueError):
    """The languages in a checkpoint's configuration are invalid; the message names the file and what is allowed."""


def location(checkpoint: str) -> str:
    """The folder of ``bundled`` on this machine; any other name unchanged."""
    return str(resources.files("sidecar") / "models" / "bundled") if checkpoint == BUNDLED else checkpoint


def languages_of(checkpoint: str) -> tuple[str, ...] | None:
    """Codes of the languages that a checkpoint on this machine is for (``sidecar.languages`` of its config); None: any.

    None if the config has no such key, if the checkpoint is not a folder here, such as a hub id, or if the file cannot
    be read; the loader reports what is wrong with it.

    Raises:
        LanguagesFault: the value is not a list of one or more known codes.
    """
    file = Path(location(checkpoint), CONFIG)
    try:
        ours = json.loads(file.read_text(encoding="utf-8")).get(_OURS)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    said = ours.get(_LANGUAGES) if isinstance(ours, Mapping) else None
    if said is None:
        return None
    if not isinstance(said, list) or not said or not all(isinstance(one, str) and one in LANGUAGES for one in said):
        allowed = f"a list of codes, of {', '.join(sorted(LANGUAGES))}"
        raise LanguagesFault(
            f"{file}: `{_OURS}.{_LANGUAGES}` is {said!r}; allowed: no such key (any language), {allowed}"
        )
    return tuple(said)


def say_languages(folder: Path, languages: Sequence[str] | None) -> None:
    """Write into a new checkpoint's config which languages it is for; None: any.

    Removes our other keys, copied from the base checkpoint: its revision is that of other weights.
    """
    file = folder / CONFIG
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    config.pop(_OURS, None)
    ours = {} if languages is None else {_OURS: {_LANGUAGES: list(languages)}}
    file.write_text(json.dumps({**config, **ours}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
