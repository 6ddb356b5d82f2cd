"""Every error tuban raises on purpose.

Each class also derives from the builtin that fits, so callers may catch either. A message states the
value that was wrong, what is accepted, and the remedy.
"""

from __future__ import annotations


class TubanError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(TubanError, ValueError):
    """The command, an option or a configuration value is wrong: exit code 2."""

    exit_code = 2


class PartialError(TubanError, RuntimeError):
    """Some of several items failed, each named in the message: exit code 3."""

    exit_code = 3


class SceneError(TubanError, ValueError):
    """A scene cannot be used: unreadable, no CRS, missing bands, no valid pixel."""


class ReadError(SceneError):
    """A part of a scene cannot be read: a damaged block, a file cut short or gone, a server that fails.

    The rest of the scene may be sound: later reads of other windows are tried afresh.

    Attributes:
        path: the scene, without secrets.
        bands: indexes in the file, from 1; empty where the scene could not be opened again.
        window: row, column, height, width in pixels of the scene; None where no window was being read.
        detail: what the system said, without secrets.
    """

    path: str = ""
    bands: tuple[int, ...] = ()
    window: tuple[int, int, int, int] | None = None
    detail: str = ""


class RefusedError(ReadError):
    """The server or store answered and said no, not found or forbidden: trying again would not help."""


class ForbiddenAddressError(SceneError):
    """An address is not on the allow-list of a service; nothing was fetched from it."""


class PairError(TubanError, ValueError):
    """Two scenes cannot be compared: no overlap, reversed dates, registration or radiometry out of range."""


class ModelError(TubanError, ValueError):
    """A model bundle is missing, damaged, or does not fit the scene."""


class VectorError(TubanError, ValueError):
    """A vector layer cannot be used: unreadable, no CRS, missing columns, no geometry."""


class PlanError(TubanError, ValueError):
    """A plan cannot be used: unknown role, missing or empty layer, unknown class code."""


class RulePackError(TubanError, ValueError):
    """A rule pack is malformed: exit code 2; the message gives file, place and remedy."""

    exit_code = 2


class UnknownRulePackError(RulePackError, UsageError):
    """There is no rule pack of that name: exit code 2."""

    exit_code = 2


class OutputError(TubanError, OSError):
    """Results cannot be written: read-only folder, full disk, file in use."""


class MissingExtraError(TubanError, ImportError):
    """An optional part of tuban is not installed; the message names the extra to install."""
