"""Finds names of policies, models and connectors that a configuration uses but does not define. Pure."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from sidecar.setting_types import Keys

NEAR = "near"
"""Default name of the model of a policy's cosine."""


def dangling_names(tree: Mapping[str, Any]) -> list[tuple[Keys, str]]:
    """The undefined names in a tree of settings, validated or raw: where each stands, and a message."""
    sections = {name: tree.get(name) for name in ("connectors", "models", "policies")}
    defined = {name: list(section) if isinstance(section, Mapping) else [] for name, section in sections.items()}
    defined["models"] = [*(defined["models"] if "models" in tree else ["default"]), NEAR]
    return [
        (keys, _undefined(name, defined[section]))
        for section, keys, name in _references(tree)
        if isinstance(name, str) and name not in defined[section]
    ]


def _references(tree: Mapping[str, Any]) -> Iterator[tuple[str, Keys, object]]:
    """Yield (section that must define it, keys, name) of each reference; parts of the wrong shape are skipped."""
    yield "policies", ("default_policy",), tree.get("default_policy")
    policies = tree.get("policies")
    for policy, settings in policies.items() if isinstance(policies, Mapping) else ():
        if not isinstance(settings, Mapping):
            continue
        yield "models", ("policies", policy, "model"), settings.get("model", "default")
        cosine = settings.get("cosine")
        if isinstance(cosine, Mapping):
            yield "models", ("policies", policy, "cosine", "model"), cosine.get("model", NEAR)
        matches = settings.get("match")
        for place, match in enumerate(matches if isinstance(matches, (list, tuple)) else ()):
            if isinstance(match, Mapping):
                yield "connectors", ("policies", policy, "match", place, "connector"), match.get("connector")
    yield from _of_roles(tree.get("server"))


def _of_roles(server: object) -> Iterator[tuple[str, Keys, object]]:
    """Yield the references of roles; patterns are skipped, as they may match names that are added later."""
    auth = server.get("auth") if isinstance(server, Mapping) else None
    roles = auth.get("roles") if isinstance(auth, Mapping) else None
    for role, may_use in roles.items() if isinstance(roles, Mapping) else ():
        for section in ("connectors", "policies") if isinstance(may_use, Mapping) else ():
            names = may_use.get(section)
            for place, name in enumerate(names if isinstance(names, (list, tuple)) else ()):
                if isinstance(name, str) and "*" not in name:
                    yield section, ("server", "auth", "roles", role, section, place), name


def _undefined(name: str, defined: list[str]) -> str:
    hint = "".join(f" did you mean {near!r}?" for near in get_close_matches(name, defined, n=1))
    return f"{name!r} is not defined;{hint} defined: {', '.join(defined) or 'none'}"
