"""Names and colours of zone roles, and fonts, from `configs/legend.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

_OUTSIDE = "not:"


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files("tuban.configs").joinpath("legend.yaml").read_text(encoding="utf-8"))
    return table


def known_roles() -> tuple[str, ...]:
    """Return the roles that have a name of their own."""
    return tuple(_table()["roles"])


def role_name(role: str, lang: str) -> str:
    """Return the name of a role (`permit/KIND` and `not:ROLE` too); an unknown one is read as words.

    Example:
        >>> role_name("not:ecological_red_line", "zh"), role_name("landscape_feature", "en")
        ('生态保护红线以外', 'landscape feature')
    """
    if role.startswith(_OUTSIDE):
        outside: str = _table()["outside"][lang]
        return outside.format(role=role_name(role.removeprefix(_OUTSIDE), lang))
    entry = _table()["roles"].get(role)
    return str(entry[lang]) if entry else role.replace("_", " ")


def role_colors(roles: Iterable[str]) -> dict[str, str]:
    """Return a colour for each role, the same ones for the same set of roles.

    Example:
        >>> role_colors(["wetland", "permit"])
        {'permit': '#1f6fb2', 'wetland': '#0072b2'}
    """
    found: dict[str, str] = {}
    palette = _table()["palette"]
    for role in sorted(set(roles)):
        entry = _table()["roles"].get(role) or _table()["roles"].get(role.partition("/")[0]) or {}
        own = entry.get("color")
        found[role] = own or palette[sum(color in palette for color in found.values()) % len(palette)]
    return found


def is_parcels(role: str) -> bool:
    """Whether a role's layer has too many parts to fill; only their outlines are drawn."""
    return role in _table()["parcels"]


def is_zone(role: str) -> bool:
    """Whether a role's layer is a zone: neither parcels nor permits, which are too many to tell apart on imagery."""
    return not is_parcels(role) and role.partition("/")[0] != "permit"


def fonts() -> tuple[str, ...]:
    """Return the file names of fonts with Chinese, the best first."""
    return tuple(_table()["fonts"])
