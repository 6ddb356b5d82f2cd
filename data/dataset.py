"""What is known about the public data sets: one file each under `configs/datasets/`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuban.errors import SceneError, UsageError

ITEM = "{item}"


class Role(BaseModel):
    """One file that every item of a data set has.

    Attributes:
        role: its name: before, after, change, landcover, image …
        path: relative to the data set's folder, with `{item}` once or more.
        bands: band count.
        dtype: of the stored values.
        same_size_as: another role whose pixels lie on the same grid.
        required: False where some items lack it.
        values: what each value of band 1 means; no other may occur.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    path: str = Field(pattern=r"\{item\}")
    bands: int = Field(gt=0)
    dtype: str
    same_size_as: str | None = None
    required: bool = True
    values: dict[int, str] | None = None


class Dataset(BaseModel):
    """A public data set: where it comes from, under which licence, and how its folder is laid out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    citation: str
    licence: str
    sensor: str
    gsd_m: float | None = None
    bands: tuple[str, ...]
    georeferenced: bool
    dates: str | None = None
    folders: tuple[str, ...] = Field(min_length=1)
    notes: str
    roles: tuple[Role, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _roles_exist(self) -> Dataset:
        known = {role.role for role in self.roles}
        for role in self.roles:
            if role.same_size_as is not None and role.same_size_as not in known:
                raise ValueError(f"{self.id}: {role.role} names the unknown role {role.same_size_as!r}; use {known}")
        return self

    def role(self, name: str) -> Role:
        """Return the role of that name; KeyError where there is none."""
        for role in self.roles:
            if role.role == name:
                return role
        raise KeyError(name)

    def items(self, folder: Path) -> list[str]:
        """Return the names of the items in `folder`, sorted.

        An item counts when any of its files is there, so that one whose first image was lost is still noticed.
        """
        found: set[str] = set()
        for role in self.roles:
            head, *rest = (re.escape(part) for part in role.path.split(ITEM))
            pattern = re.compile(head + "(?P<item>[^/]+)" + "(?P=item)".join(rest))
            for path in folder.glob(role.path.replace(ITEM, "*")):
                match = pattern.fullmatch(path.relative_to(folder).as_posix())
                if match:
                    found.add(match["item"])
        return sorted(found)


@cache
def datasets() -> tuple[Dataset, ...]:
    """Return every data set that tuban knows, sorted by id."""
    folder = files("tuban.configs").joinpath("datasets")
    texts = [entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return tuple(sorted((Dataset.model_validate(yaml.safe_load(text)) for text in texts), key=lambda known: known.id))


def dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Raises:
        UsageError: none is called that.

    Example:
        >>> dataset("oscd").gsd_m
        10.0
    """
    for known in datasets():
        if known.id == name:
            return known
    raise UsageError(f"unknown data set {name!r}; use one of: {', '.join(known.id for known in datasets())}")


def recognise(folder: str | Path, name: str | None = None) -> list[tuple[Dataset, Path]]:
    """Return the data sets that lie in `folder`: the folder itself, or those of its subfolders that are one.

    Args:
        folder: a data set's folder, or a folder of such folders.
        name: the data set's id, where the folder is called something else.

    Raises:
        SceneError: the folder does not exist, or is not recognised.
        UsageError: `name` is unknown.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SceneError(f"{folder} is no folder; give the folder of a data set")
    if name is not None:
        return [(dataset(name), folder)]
    candidates = [folder.resolve(), *sorted(path for path in folder.resolve().iterdir() if path.is_dir())]
    for group in (candidates[:1], candidates[1:]):
        found = [(known, path) for path in group for known in datasets() if path.name in known.folders]
        if found:
            return found
    names = ", ".join(folder_name for known in datasets() for folder_name in known.folders)
    raise SceneError(f"{folder} is not recognised by its name; known are {names}; or name the data set")
