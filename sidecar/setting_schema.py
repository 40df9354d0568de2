"""What is allowed at each place of the settings tree, for error messages and the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr, Tag
from pydantic.fields import FieldInfo

from sidecar.setting_types import Keys
from sidecar.settings import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the tree: its keys, its type (None if unknown), its field (None inside lists and mappings of names).

    At and inside a secret, `secret` is true and `keys` end at the secret itself: nothing in it may be shown.
    """

    keys: Keys
    annotation: Any
    field: FieldInfo | None
    secret: bool

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as `1..1000` or `linear, rrf`; empty: any value of the type is allowed."""
        return allowed(self.annotation, self.field)

    @property
    def allowed_keys(self) -> tuple[str, ...]:
        """The keys of a section; none for other types."""
        return tuple(self.annotation.model_fields) if is_section(self.annotation) else ()


def find(location: Sequence[str | int]) -> Place:
    """Return the place that a path of keys, or one of pydantic's error locations, leads to.

    Pydantic puts the tag of the union member it chose into a location; such tags are taken out of `keys`.
    """
    keys: Keys = ()
    annotation: Any = Settings
    field: FieldInfo | None = None
    secret = False
    for part in location:
        if members := union_members(annotation):
            if part in members:
                annotation = unwrap(members[str(part)])
                continue
            annotation = _member_with(part, members)
        if not secret:
            keys = (*keys, part)
        annotation, field = _child(annotation, part)
        secret = secret or is_secret(annotation)
    return Place(keys, annotation, field, secret)


def _member_with(key: str | int, members: Mapping[str, Any]) -> Any:
    sections = (member for member in map(unwrap, members.values()) if is_section(member))
    return next((section for section in sections if key in section.model_fields), None)


def _child(annotation: Any, part: str | int) -> tuple[Any, FieldInfo | None]:
    if is_section(annotation):
        field = annotation.model_fields.get(str(part))
        return (unwrap(field.annotation), field) if field else (None, None)
    if get_origin(annotation) is dict:
        return unwrap(get_args(annotation)[1]), None
    if get_origin(annotation) is tuple:
        return unwrap(get_args(annotation)[0]), None
    return None, None


def unwrap(annotation: Any) -> Any:
    """The type itself, without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        return unwrap(options[0]) if len(options) == 1 else annotation
    return annotation


def union_members(annotation: Any) -> dict[str, Any]:
    """The alternatives of a union by the tags that pydantic gives them; empty for other types."""
    if get_origin(annotation) not in (Union, UnionType):
        return {}
    members: dict[str, Any] = {}
    for option in get_args(annotation):
        tags = [extra.tag for extra in get_args(option)[1:] if isinstance(extra, Tag)]
        if not tags and is_section(option):
            tags = list(get_args(option.model_fields["type"].annotation))
        members |= dict.fromkeys(tags, option)
    return members


def is_section(annotation: Any) -> bool:
    """Whether this is a section of settings."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_secret(annotation: Any) -> bool:
    """Whether a value of this type must not be shown."""
    return SecretStr in (unwrap(option) for option in (annotation, *get_args(annotation)))


def allowed(annotation: Any, field: FieldInfo | None) -> str:
    """The allowed values of a field in words; empty if any value of its type is allowed."""
    extra = field.json_schema_extra if field else None
    if isinstance(extra, dict) and "allowed" in extra:
        return str(extra["allowed"])
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if members := union_members(annotation):
        return ", ".join(members)
    if annotation is bool:
        return "true, false"
    return _range(field) if field else ""


def _range(field: FieldInfo) -> str:
    least = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    above = next((bound.gt for bound in field.metadata if isinstance(bound, Gt)), None)
    most = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    if above is not None:
        return f"above {above}" if most is None else f"above {above}, up to {most}"
    if least is None or most is None:
        return "" if least is None else f"{least} or more"
    return f"{least}..{most}"
