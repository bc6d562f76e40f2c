"""What all sections of settings have in common, and how to walk their tree.

An optional setting that is not set is None. TOML has no null, so a file leaves the line out; the override `key=none`
unsets a value. A field's `examples` are values other than its default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

_WORDS = ("default", "demo", "brief", "paper")  # which are not paths, even if a folder has such a name


def whole_path(name: str) -> str:
    """The absolute path if `name` exists, so that a run can be resumed from any directory; else `name`."""
    try:
        return str(Path(name).absolute()) if name not in _WORDS and Path(name).exists() else name
    except OSError:  # too long for a path
        return name


Place = Annotated[str, Field(min_length=1), AfterValidator(whole_path)]  # a file or folder, or another kind of name


class Node(BaseModel):
    """A section. The first line of its docstring and the descriptions of its fields appear in a starter config."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false as numbers, though Python takes them for 1 and 0."""
        if isinstance(value, bool) and info.field_name:
            kinds = set(_plain_kinds(cls.model_fields[info.field_name].annotation))
            if bool not in kinds and kinds & {int, float}:
                raise ValueError(f"{str(value).lower()}: must be a {'whole number' if int in kinds else 'number'}")
        return value


def _plain_kinds(annotation: Any) -> Iterator[type]:
    """The types that a setting may be of, without those inside lists and tables."""
    if isinstance(annotation, type):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for each in get_args(annotation):
            yield from _plain_kinds(each)


def section_of(field: FieldInfo, *, listed: bool = False) -> type[Node] | None:
    """The section that a field may hold or, if `listed`, may hold a list of; None for a plain setting."""
    single = listed or get_origin(field.annotation) is not tuple
    kinds = (field.annotation, *get_args(field.annotation)) if single else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Node)), None)


def paths(section: type[Node], prefix: str = "") -> Iterator[str]:
    """Dotted path of every setting, including those of sections that are absent by default."""
    for name, field in section.model_fields.items():
        inner = section_of(field)
        yield from paths(inner, f"{prefix}{name}.") if inner else (f"{prefix}{name}",)


def values(node: Node, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted path; an absent section is None."""
    for name in type(node).model_fields:
        value = getattr(node, name, None)  # a section of defaults lacks what must be given
        yield from values(value, f"{prefix}{name}.") if isinstance(value, Node) else ((f"{prefix}{name}", value),)


def unlike_default(node: Node) -> list[str]:
    """Paths of the settings that differ from their default."""
    default = dict(values(type(node).model_construct()))
    return [path for path, value in values(node) if default.get(path) != value]
