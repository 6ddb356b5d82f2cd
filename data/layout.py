"""How a data set's folder is laid out: path templates with fields, and the items that a folder holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuban.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IMAGES = ("before", "after", "image")
RoleName = Literal["before", "after", "image", "change", "landcover", "landcover_before", "landcover_after"]
BAND = "band"
"""The field of a path that stands for one file per band; it does not tell items apart."""

_FIELD = re.compile(r"\{(\w+)\}")
_SUFFIXES = "(?:tif|tiff|png|jpg|jpeg|bmp|jp2|img|vrt|TIF|TIFF|PNG|JPG|JPEG|BMP)"


class Role(BaseModel):
    """One file that every item of a data set has.

    Attributes:
        role: what it is; `image` and `landcover` are those of a data set of single dates.
        path: relative to the data set's folder; `{item}` or any other field tells items apart, `{band}` stands for
            one file per band, `*` for anything, and the suffix `.*` for that of any image.
        bands: band count; of an image that of the data set's bands, of a label 1, or 3 where colours name classes.
        dtype: of the stored values, where it is known.
        same_size_as: another role whose pixels lie on the same grid; that of a label is the first image.
        required: False where some items lack it.
        scale: factor from stored value to reflectance; 1/255 for 8 bits, 1 for floating point.
        nodata: stored value that means no data in every band, where the file does not say it.
        values: what each value of band 1 means; no other may occur.
        colors: `"#rrggbb"` to value, for labels that are pictures.
        color_tolerance: how far a colour may be off per channel, of 255, as lossy pictures are; nearest wins.
        unchanged: values of `change` that mean no change; all others are change.
        unknown: values about which nothing is known.
        confidence_band: band that holds the confidence of a land-cover label, 0–255.
        classes: name of a table of `configs/crosswalks.yaml`, or value to unified class (name or number).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: RoleName
    path: str = Field(pattern=r"\{\w+\}")
    bands: int | None = Field(None, gt=0)
    dtype: str | None = None
    same_size_as: RoleName | None = None
    required: bool = True
    scale: float | None = Field(None, gt=0)
    nodata: float | None = None
    values: dict[int, str] | None = None
    colors: dict[str, int] | None = None
    color_tolerance: int = Field(0, ge=0, le=255)
    unchanged: tuple[int, ...] = (0,)
    unknown: tuple[int, ...] = ()
    confidence_band: int | None = Field(None, ge=2)
    classes: str | dict[int, int | str] | None = None

    @model_validator(mode="after")
    def _classes_known(self) -> Role:
        if self.role.startswith("landcover") and self.classes is None:
            raise ValueError(f"{self.role} needs `classes`: which unified class each value is, {{1: cropland, …}}")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the path that tell items apart, in order, each once."""
        return tuple(dict.fromkeys(name for name in _FIELD.findall(self.path) if name != BAND))

    @property
    def is_image(self) -> bool:
        """Whether it is an image and no label."""
        return self.role in IMAGES

    def pattern(self, fields: Mapping[str, str]) -> re.Pattern[str]:
        """Return the expression that a file's path, relative to the folder, must match whole.

        Args:
            fields: expression of a field; what is not named may be anything but a slash.
        """
        text, seen = "", set[str]()
        head, tail = (self.path[:-2], rf"\.{_SUFFIXES}") if self.path.endswith(".*") else (self.path, "")
        for position, part in enumerate(_FIELD.split(head)):
            if position % 2 == 0:
                text += re.escape(part).replace(r"\*", "[^/]*")
            elif part in seen:
                text += f"(?P={part})"
            else:
                seen.add(part)
                text += f"(?P<{part}>{fields.get(part, '[^/]+')})"
        return re.compile(text + tail)

    def glob(self) -> str:
        """Return the glob of all files of this role."""
        return _FIELD.sub("*", self.path)


class Split(BaseModel):
    """The authors' split into train, validation and test.

    Attributes:
        by: a field of the paths; "name", the item's name; or "file", text files that list items, one a line.
        train: values of the field, names, or paths of the lists.
        validation: the same.
        test: the same.
        rest: part of the names that are not listed.
        note: what to know about it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = "split"
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    rest: Literal["train", "validation", "test"] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a data set: its name, the fields of its paths, and the files that are there.

    Attributes:
        name: unique in the data set.
        fields: value of each field of the paths.
        files: role to its files, `{"": path}`, or band to path where there is a file per band.
    """

    name: str
    fields: Mapping[str, str]
    files: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)

    def file(self, role: str) -> Path | None:
        """Return the (first) file of a role, None where it is missing."""
        return next(iter(self.files.get(role, {}).values()), None)


class Layout(BaseModel):
    """One way in which the files of a data set lie.

    Attributes:
        id: its name.
        source: where the layout was looked up.
        sure: False where it could not be checked against the authors' files or a loader of them.
        roles: the files of an item.
        fields: expression that a field of the paths must match.
        name: template of an item's name; the fields joined by `_`.
        group: expression on the name whose first group (or whole match) is the item's group.
        groups: group to names, where no expression tells it.
        split: the authors' split.
        dates: path of a JSON file with the dates `before` and `after` of an item.
        georeferenced: where it differs from the data set's.
        bands: where they differ from the data set's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = "folder"
    source: str = ""
    sure: bool = True
    roles: tuple[Role, ...] = Field(min_length=1)
    fields: dict[str, str] = {}
    name: str | None = None
    group: str | None = None
    groups: dict[str, tuple[str, ...]] = {}
    split: Split | None = None
    dates: str | None = None
    georeferenced: bool | None = None
    bands: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Layout:
        names = [role.role for role in self.roles]
        if len(set(names)) < len(names):
            raise ValueError(f"a role stands twice in {names}; each may stand once")
        for role in self.roles:
            if role.same_size_as is not None and role.same_size_as not in names:
                raise ValueError(f"{role.role} names the unknown role {role.same_size_as!r}; use one of {names}")
            if set(role.fields) != set(self.roles[0].fields):
                raise ValueError(f"{role.role}: {role.path} must have the fields {self.roles[0].fields}, as the first")
        if not {"before", "image"} & set(names) or ("after" in names) != ("before" in names):
            raise ValueError(f"roles {names}: give `before` and `after`, or `image`")
        self._check_texts()
        return self

    def _check_texts(self) -> None:
        """Refuse expressions and templates that could not be used once the files are read."""
        own = self.roles[0].fields
        for name, text in {**self.fields, "group": self.group or ""}.items():
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"{name}: {text!r} is no regular expression ({error}); correct or quote it") from error
        for text in (self.name or "", self.dates or ""):
            try:
                text.format(**dict.fromkeys(own, ""))
            except (KeyError, IndexError, ValueError) as error:
                fields = ", ".join(f"{{{name}}}" for name in own)
                raise ValueError(f"{text!r} names what no path has ({error}); use {fields}") from error

    def role(self, name: str) -> Role:
        """Return the role of that name; KeyError where there is none."""
        known: dict[str, Role] = {role.role: role for role in self.roles}
        return known[name]

    def has(self, name: str) -> bool:
        """Whether there is a role of that name."""
        return any(role.role == name for role in self.roles)

    @property
    def first(self) -> Role:
        """The image on whose grid everything lies: `before` or `image`."""
        return next(role for role in self.roles if role.role in {"before", "image"})

    def reference(self, role: Role) -> Role | None:
        """Return the role whose pixels `role` shares; None for an image that may lie on a grid of its own."""
        if role.same_size_as is not None:
            return self.role(role.same_size_as)
        return None if role.is_image else self.first

    def items(self, folder: Path) -> list[Item]:
        """Return the items in `folder`, sorted by name.

        An item counts when any of its files is there, so that one whose first image was lost is still noticed.

        Raises:
            SceneError: two items have one name, or two files are the same of one item.
        """
        found: dict[tuple[str, ...], dict[str, dict[str, Path]]] = {}
        order = self.roles[0].fields
        for role in self.roles:
            pattern = role.pattern(self.fields)
            for path in sorted(folder.glob(role.glob())):
                match = pattern.fullmatch(path.relative_to(folder).as_posix())
                if match and not path.name.startswith("."):
                    files = found.setdefault(tuple(match[name] for name in order), {}).setdefault(role.role, {})
                    other = files.setdefault(match.groupdict().get(BAND, ""), path)
                    if other != path:
                        raise SceneError(f"{path} and {other} are both {role.role} of one item; keep one of them")
        items: dict[str, Item] = {}
        for key, present in found.items():
            fields = dict(zip(order, key, strict=True))
            name = self.name.format(**fields) if self.name else "_".join(key)
            if name in items:
                raise SceneError(f"{folder}: two items are called {name!r}; give `name` in the data set's YAML")
            items[name] = Item(name, fields, present)
        return [items[name] for name in sorted(items)]

    def fit(self, folder: Path) -> int:
        """Return how many of the roles have a file in `folder`."""
        patterns = ((role.glob(), role.pattern(self.fields)) for role in self.roles)
        return sum(
            any(pattern.fullmatch(path.relative_to(folder).as_posix()) for path in folder.glob(glob))
            for glob, pattern in patterns
        )

    def group_of(self, name: str) -> str:
        """Return the group of an item; its own name where it has no other."""
        for group, names in self.groups.items():
            if name in names:
                return group
        match = re.search(self.group, name) if self.group else None
        if match is None:
            return name
        return match[1] if match.re.groups and match[1] is not None else match[0]
