"""Land-use code tables (`configs/class_systems/*.yaml`): which codes exist and which name goes with which code."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict

from tuban.errors import PlanError

# Land-use names in deliveries end in 用地, 地 or nothing at all for one and the same class.
_SUFFIX = re.compile("(用地|地)$")


class ClassSystem(BaseModel):
    """One code table: the codes, their names (variants parted by `|`), and the suffix letters a code may carry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: dict[str, str]
    mark: str
    classes: dict[str, str]
    suffixes: tuple[str, ...] = ()
    prefix_length: int | None = None

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
        # The ninth level-1 class has no tabled children, yet deliveries use 0901 to 0906 for its kinds.
        if re.fullmatch(r"09\d\d", code) and "09" in self.classes:
            return "09"
        return None

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
        """Say whether `name` may stand beside `code`; endings 用地 and 地 are not compared, unknown codes never fit.

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
        if base == "09" and code != "09":
            return True
        accepted = {_SUFFIX.sub("", variant) for variant in self.classes[base].split("|")}
        given = _SUFFIX.sub("", name.strip().replace("可调整", ""))
        return given in accepted or any(given.startswith(variant) for variant in accepted if len(variant) > 2)


def class_system_names() -> tuple[str, ...]:
    """Return the names of the shipped code tables, sorted."""
    folder = files("tuban.configs").joinpath("class_systems")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


@cache
def class_system(name: str) -> ClassSystem:
    """Return the code table called `name`.

    Raises:
        PlanError: no table has that name.
    """
    if name not in class_system_names():
        raise PlanError(f"unknown class_system {name!r}; use one of: {', '.join(class_system_names())}")
    text = files("tuban.configs").joinpath("class_systems", f"{name}.yaml").read_text(encoding="utf-8")
    return ClassSystem.model_validate(yaml.safe_load(text))
