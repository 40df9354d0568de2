"""The part of a policy that says which text of a hit the model reads."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sidecar.setting_types import Faults, Keys, Section


class TextField(Section):
    """One field of a document that the model reads."""

    name: str = Field(min_length=1, description="Field name; dots reach into objects (`author.name`).")
    label: str = Field("", description="Text put before the field's value, such as `Title: `.")
    max_chars: int | None = Field(None, ge=1, description="Characters of this field at most; null: all.")
    html: bool = Field(False, description="Whether the field holds HTML, of which only the text is read.")


class Passages(Section):
    """How a long document is cut into passages, each scored separately; the best ones stand for the document."""

    words: int = Field(ge=8, le=4096, description="Words of one passage.")
    stride: int = Field(ge=1, le=4096, description="Words from the start of one passage to the start of the next.")
    max_passages: int = Field(4, ge=1, le=64, description="Passages of one document at most, from its start.")

    @model_validator(mode="after")
    def _no_gap(self) -> Self:
        if self.stride > self.words:
            raise Faults((("stride",), f"{self.stride} is larger than `words` ({self.words}): text would be left out"))
        return self


class Nested(Section):
    """Objects of a document that become passages, each read together with the fields outside the objects."""

    path: str = Field(
        min_length=1,
        description="Field that holds the objects, `nested` or not; a text alone stands for `{path: ...}`.",
    )
    max_passages: int = Field(
        4, ge=1, le=64, description="Objects of one document at most: its first, or the engine's best of `inner_hits`."
    )

    def holds(self, field: str) -> bool:
        """Whether a field is inside the objects."""
        return field.startswith(f"{self.path}.")


HitSection = Literal["source", "fields", "highlight", "inner_hits"]
"""A section of a hit that holds text."""


class TextSettings(Section):
    """Which text of a hit the model reads."""

    fields: tuple[TextField, ...] = Field(
        min_length=1, description="Fields in the order they are read; a name alone stands for `{name: ...}`."
    )
    separator: str = Field("\n", description="Text between two fields and between two values of one field.")
    sources: tuple[HitSection, ...] = Field(
        ("source", "fields"),
        json_schema_extra={"allowed": "list of source, fields, highlight, inner_hits"},
        description="Sections of a hit in the order they are tried for a field's text; what none of them holds is "
        "fetched. `highlight` and `inner_hits` hold parts of a document only.",
    )
    passages: Passages | None = Field(None, description="null: one passage a document, cut at the model's length.")
    nested: Nested | None = Field(None, description="Objects that are scored one by one; excludes `passages`.")
    mean_of_top: int = Field(
        1, ge=1, le=64, description="A document's score is the mean of its best passages' scores, of this many at most."
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _short_form(cls, fields: object) -> object:
        if isinstance(fields, (list, tuple)):
            return [{"name": field} if isinstance(field, str) else field for field in fields]
        return fields

    @field_validator("nested", mode="before")
    @classmethod
    def _path_alone(cls, nested: object) -> object:
        return {"path": nested} if isinstance(nested, str) else nested

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if faults := list(self._faults()):
            raise Faults(*faults)
        return self

    def _faults(self) -> Iterator[tuple[Keys, str]]:
        if "source" not in self.sources:
            yield ("sources",), "`source` is missing: what is fetched is a `_source` too"
        if len(set(self.sources)) < len(self.sources):
            yield ("sources",), "names a section twice"
        if self.nested and self.passages:
            yield ("nested",), "excludes `passages`: its objects are the passages"
        if self.nested and not any(self.nested.holds(field.name) for field in self.fields):
            yield ("nested", "path"), f"none of the `fields` lies in it; name one, such as `{self.nested.path}.text`"
        if self.mean_of_top > self.max_passages:
            yield ("mean_of_top",), f"{self.mean_of_top} exceeds the passages of a document ({self.max_passages})"

    @property
    def is_quick(self) -> bool:
        """Whether reading a document takes microseconds: one passage of top-level fields without markup."""
        simple = not any(field.html or "." in field.name for field in self.fields)
        return simple and not (self.passages or self.nested) and {"source", "fields"}.issuperset(self.sources)

    @property
    def max_passages(self) -> int:
        """Most passages of one document."""
        several = self.passages or self.nested
        return several.max_passages if several else 1
