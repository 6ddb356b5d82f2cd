"""Land-use code tables (`configs/class_systems/*.yaml`): which codes exist and which name goes with which code."""

from __future__ import annotations

import re
from functools import cache

import yaml
from pydantic import BaseModel, ConfigDict

from tuban.configs.shipped import shipped_names, shipped_text
from tuban.errors import PlanError


class ClassSystem(BaseModel):
    """One code table.

    Attributes:
        classes: code -> names; variants are parted by `|`, the first is shown.
        suffixes: letters that a code may carry behind it.
        prefix_length: only so many digits are tabled; a longer code is judged by them.
        open_classes: codes whose further digits are not tabled.
        name_endings: endings of names that deliveries write or leave out for one and the same class.
        name_marks: words within a name that are not part of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: dict[str, str]
    mark: str
    classes: dict[str, str]
    suffixes: tuple[str, ...] = ()
    prefix_length: int | None = None
    open_classes: tuple[str, ...] = ()
    name_endings: tuple[str, ...] = ()
    name_marks: tuple[str, ...] = ()

    def base_code(self, code: str) -> str | None:
        """Return the table's code for `code`, suffix letters dropped, or None where the table has none."""
        if self.prefix_length is not None:
            prefix = code[: self.prefix_length]
            return prefix if code.isdigit() and prefix in self.classes else None
        if code in self.classes:
            return code
        for suffix in self.suffixes:
            bare = code.removesuffix(suffix)
            if bare != code and bare in self.classes:
                return bare
        return next((known for known in self.open_classes if code.startswith(known) and code.isdigit()), None)

    def knows(self, code: str) -> bool:
        """Say whether `code` belongs to the table.

        Example:
            >>> class_system("cn-survey").knows("0201K"), class_system("cn-survey").knows("9999")
            (True, False)
        """
        return self.base_code(code) is not None

    def name(self, code: str) -> str:
        """Return the first name of `code`, or an empty string where the table has none."""
        base = self.base_code(code)
        return self.classes[base].split("|")[0] if base else ""

    def pair_fits(self, code: str, name: str) -> bool:
        """Say whether `name` may stand beside `code`; endings of names are not compared, unknown codes never fit.

        Example:
            >>> class_system("cn-survey").pair_fits("0601", "工业用地")
            True
            >>> class_system("cn-survey").pair_fits("0601", "农村道路")
            False
        """
        base = self.base_code(code)
        if base is None:
            return False
        if self.prefix_length is not None and len(code) > self.prefix_length:
            return True
        if base in self.open_classes and code != base:
            return True
        accepted = {self._bare(variant) for variant in self.classes[base].split("|")}
        given = self._bare(name)
        return given in accepted or any(given.startswith(variant) for variant in accepted if len(variant) > 2)

    def _bare(self, name: str) -> str:
        """Return a name without marks and without its ending."""
        bare = name.strip()
        for mark in self.name_marks:
            bare = bare.replace(mark, "")
        return re.sub(f"({'|'.join(map(re.escape, self.name_endings))})$", "", bare) if self.name_endings else bare


def class_system_names() -> tuple[str, ...]:
    """Return the names of the shipped code tables, sorted."""
    return shipped_names("class_systems")


@cache
def class_system(name: str) -> ClassSystem:
    """Return the code table called `name`.

    Raises:
        PlanError: no table has that name.
    """
    if name not in class_system_names():
        raise PlanError(f"unknown class_system {name!r}; use one of: {', '.join(class_system_names())}")
    return ClassSystem.model_validate(yaml.safe_load(shipped_text("class_systems", name)))
