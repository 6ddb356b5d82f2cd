"""Composes a command's Hydra configuration and checks it against its schema before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from tuban.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

Settings = TypeVar("Settings", bound=BaseModel)


def composed(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return `configs/<name>.yaml` with Hydra overrides applied, as plain data.

    Raises:
        UsageError: an override names no field, is malformed, or leaves a mandatory value open.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(config_module="tuban.configs", version_base="1.3"):
            tree = compose(config_name=name, overrides=list(overrides))
        plain: dict[str, Any] = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra lets bare ValueErrors of its own out
        given = f" with {' '.join(overrides)}" if overrides else ""
        raise UsageError(f"configuration {name!r}{given}: {' '.join(str(error).split())}") from error
    return plain


def settings(name: str, schema: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """Return `configs/<name>.yaml` with overrides as a checked `schema`.

    Raises:
        UsageError: as `composed`, or a value is out of its range; every wrong field is named.
    """
    try:
        return schema.model_validate(composed(name, overrides))
    except ValidationError as error:
        raise UsageError(f"configuration {name!r}: {wrong_fields(error)}") from error


def wrong_fields(error: ValidationError) -> str:
    """Return every field that failed validation, on one line.

    Example:
        >>> class Size(BaseModel):
        ...     pixels: int
        >>> try:
        ...     Size(pixels="many")
        ... except ValidationError as error:
        ...     wrong_fields(error)
        "pixels = 'many': Input should be a valid integer, unable to parse string as an integer"
    """
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'value'} = {item['input']!r}: {item['msg']}" for item in error.errors()
    )
