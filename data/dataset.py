"""What is known about data sets: one YAML each under `configs/datasets/`, and those that users write themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tuban.configs.shipped import shipped_names, shipped_text
from tuban.data.layout import Item, Layout
from tuban.errors import SceneError, UsageError

OWN = "dataset.yaml"
"""Name of the file that describes the folder in which it lies."""


class Dataset(BaseModel):
    """A data set: where it comes from, under which licence, and how its folder is laid out.

    The keys of one layout may stand beside the others instead of under `layouts`.

    Attributes:
        id: short name.
        bands: names of the images' bands in file order, canonical (`B04`) or others.
        gsd_m: pixel size in metres; that of a georeferenced image is measured.
        georeferenced: whether the images carry coordinates; pairs that do are matched as for `tuban detect`.
        folders: names by which its folder is recognised, in small letters.
        layouts: the ways in which its files lie; the first is the authors'.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str = ""
    citation: str = ""
    licence: str = ""
    sensor: str = ""
    gsd_m: float | None = Field(None, gt=0)
    bands: tuple[str, ...] = Field(min_length=1)
    georeferenced: bool = False
    folders: tuple[str, ...] = ()
    notes: str = ""
    layouts: tuple[Layout, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _single_layout(cls, raw: Any) -> Any:
        own = set(Layout.model_fields) - set(cls.model_fields)
        if not isinstance(raw, dict) or not own & raw.keys():
            return raw
        if "layouts" in raw:
            raise ValueError(f"give {', '.join(sorted(own & raw.keys()))} under `layouts`, or leave `layouts` out")
        rest = {key: value for key, value in raw.items() if key not in own}
        return {**rest, "layouts": [{key: value for key, value in raw.items() if key in own}]}


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """A folder, the data set that lies in it, and the layout in which it does."""

    path: Path
    dataset: Dataset
    layout: Layout

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the images' bands, in file order."""
        return self.layout.bands or self.dataset.bands

    @property
    def georeferenced(self) -> bool:
        """Whether the images carry coordinates."""
        own = self.layout.georeferenced
        return self.dataset.georeferenced if own is None else own

    def items(self) -> list[Item]:
        """Return the items of the folder, sorted by name.

        Raises:
            SceneError: two items have one name.
        """
        return self.layout.items(self.path)


@cache
def datasets() -> tuple[Dataset, ...]:
    """Return every data set that tuban knows, sorted by id."""
    texts = [shipped_text("datasets", name) for name in shipped_names("datasets")]
    return tuple(sorted((Dataset.model_validate(yaml.safe_load(text)) for text in texts), key=lambda known: known.id))


def dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Args:
        name: an id, or the path of a YAML file.

    Raises:
        UsageError: none is called that, or the file does not describe one.

    Example:
        >>> dataset("oscd").gsd_m
        10.0
    """
    if name.endswith((".yaml", ".yml")):
        return read_dataset(Path(name))
    for known in datasets():
        if known.id == name:
            return known
    raise UsageError(
        f"unknown data set {name!r}; use one of: {', '.join(known.id for known in datasets())}; or a YAML file"
    )


def read_dataset(path: Path) -> Dataset:
    """Read a description that a user wrote.

    Raises:
        UsageError: it cannot be read, or does not describe a data set; the message names the place in it.
    """
    try:
        return Dataset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path}: {place}: {first['msg']}; docs/datasets.md has a complete example") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be read as YAML: {detail}; docs/datasets.md has an example") from error


def open_folder(folder: str | Path, name: str | None = None) -> DatasetFolder:
    """Return the data set that lies in `folder`.

    Args:
        folder: of one data set.
        name: the data set's id or YAML file; by default the folder's own `dataset.yaml`, else the data set whose
            folder is called like it, else the only one whose files lie like those here.

    Raises:
        SceneError: the folder does not exist, or is not recognised.
        UsageError: `name` is unknown, or the YAML does not describe a data set.
    """
    path = Path(folder)
    if not path.is_dir():
        raise SceneError(f"{path} is no folder; give the folder of a data set")
    known = dataset(name) if name is not None else _recognised(path)
    return DatasetFolder(path, known, max(known.layouts, key=lambda layout: layout.fit(path)))


def _recognised(path: Path) -> Dataset:
    if (path / OWN).is_file():
        return read_dataset(path / OWN)
    called = path.resolve().name.casefold()
    for known in datasets():
        if called in known.folders:
            return known
    alike = [known for known in datasets() if any(layout.fit(path) for layout in known.layouts)]
    if len(alike) == 1:
        return alike[0]
    remedy = f"name the data set (`tuban data list`), or describe the folder in {path / OWN} (docs/datasets.md)"
    if alike:
        raise SceneError(f"{path} may be {', '.join(known.id for known in alike)}; {remedy}")
    raise SceneError(f"{path} is not recognised, by its name or by its files; {remedy}")
