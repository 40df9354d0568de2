"""What differs between two configurations: the work of switching to the new one, and a report for people.

Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.settings import Settings

LIVE_SERVER_KEYS = frozenset(("auth", "names_ttl_s"))
"""Keys of `server` that can change while the port is open."""


@dataclass(frozen=True)
class Changes:
    """Names of models to load and drop, and of connectors to build and close; those that are the same stay in use.

    A changed connector is built and closed. ``needs_restart`` are the keys whose change is ignored until a restart.
    """

    load: tuple[str, ...]
    drop: tuple[str, ...]
    build: tuple[str, ...]
    close: tuple[str, ...]
    needs_restart: tuple[str, ...]

    @classmethod
    def of(cls, old: Settings, new: Settings) -> "Changes":
        """Compare the served configuration with a new one."""
        models, wanted = old.loaded_models, taken_over(old, new).loaded_models
        fixed = [
            f"server.{key}"
            for key in type(old.server).model_fields
            if key not in LIVE_SERVER_KEYS and getattr(old.server, key) != getattr(new.server, key)
        ]
        if _threads(old) != _threads(new):
            fixed.append("models.*.threads")
        return cls(
            tuple(name for name, one in wanted.items() if models.get(name) != one),
            tuple(name for name in models if name not in wanted),
            tuple(name for name, one in new.connectors.items() if old.connectors.get(name) != one),
            tuple(name for name, one in old.connectors.items() if new.connectors.get(name) != one),
            tuple(fixed),
        )


def taken_over(old: Settings, new: Settings) -> Settings:
    """Return the new configuration, with the old values of what cannot change while the port is open."""
    live = {key: getattr(new.server, key) for key in LIVE_SERVER_KEYS}
    server, threads = old.server.model_copy(update=live), {"threads": _threads(old)}
    models = {name: model.model_copy(update=threads) for name, model in new.models.items()}
    return new.model_copy(update={"server": server, "models": models})


def _threads(settings: Settings) -> int | None:
    """CPU threads, the same for all models: the device's thread sets them at loading, once for the process."""
    return next(model.threads for model in settings.models.values())


def differences(old: Settings, new: Settings) -> Iterator[str]:
    """Yield a line for each differing value, by path, then for connectors that differ only in a secret, not shown."""
    before, after = (_flat(one.model_dump(mode="json")) for one in (old, new))
    for path in sorted({*before, *after}):
        if path not in before:
            yield f"+ {path}: {after[path]!r}"
        elif path not in after:
            yield f"- {path}: {before[path]!r}"
        elif before[path] != after[path]:
            yield f"~ {path}: {before[path]!r} -> {after[path]!r}"
    for name in sorted({*old.connectors} & {*new.connectors}):
        if old.connectors[name] != new.connectors[name] and not any(
            path.startswith(f"connectors.{name}.") and before.get(path) != after.get(path) for path in {*before, *after}
        ):
            yield f"~ connectors.{name}: a secret"


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= _flat(value, f"{path}.{key}" if path else str(key))
        return found
    return {path: tree}
