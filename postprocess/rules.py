"""Rule packs: dated rules of one jurisdiction, as data. The schema is in `rule_schema.py`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tuban.configs.shipped import shipped_names, shipped_text
from tuban.errors import RulePackError, UnknownRulePackError
from tuban.postprocess.rule_cases import Example, Shape
from tuban.postprocess.rule_schema import Rule, RulePack

# libyaml is some twenty times faster than the loader in Python, which takes seconds for a large pack.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

__all__ = ["Example", "Rule", "RulePack", "Shape", "load_pack", "pack_names"]


def pack_names() -> tuple[str, ...]:
    """Return the names of the shipped packs, sorted."""
    return shipped_names("rules")


def load_pack(name_or_path: str | Path) -> RulePack:
    """Return a shipped pack by name, or one from a YAML file.

    Raises:
        UnknownRulePackError: no such pack.
        RulePackError: an error in it; the message gives file, line, key and remedy.
    """
    text, source = _pack_text(name_or_path)
    try:
        content = yaml.load(text, Loader=_LOADER)  # noqa: S506 - both loaders are safe ones
    except yaml.YAMLError as error:
        raise RulePackError(f"{source}: not valid YAML ({' '.join(str(error).split())}); mend the syntax") from error
    if not isinstance(content, dict):
        raise RulePackError(f"{source}:1: expected a mapping with id, version, rules; docs/rules.md shows one")
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return RulePack.model_validate({**content, "source": source, "sha256": digest})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "pack"
        message = first["msg"].removeprefix("Value error, ")
        line = _line(_tree(text), first["loc"], message)
        value = "" if first["type"] in {"missing", "value_error"} else f" (got {first['input']!r:.60})"
        raise RulePackError(
            f"{source}:{line}: {key}: {message}{value}; docs/rules.md lists what is accepted"
        ) from error
    except ValueError as error:  # an unknown class or class system named by the pack
        raise RulePackError(f"{source}:{_line(_tree(text), (), str(error))}: {error}") from error


def _tree(text: str) -> Any:
    """Return the YAML nodes, which know their lines; only needed to place an error."""
    return yaml.compose(text, Loader=_LOADER)


def _pack_text(name_or_path: str | Path) -> tuple[str, str]:
    if str(name_or_path) in pack_names():
        return shipped_text("rules", str(name_or_path)), f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if not path.is_file():
        raise UnknownRulePackError(
            f"no rule pack {str(name_or_path)!r}; use one of {', '.join(pack_names())}, or a YAML file"
        )
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError as error:
        raise RulePackError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error


def _line(tree: Any, loc: tuple[Any, ...], message: str) -> int:
    """Return the line (from 1) of the deepest YAML node on the way to `loc`, or of the value a message quotes."""
    node, line = tree, tree.start_mark.line
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    quoted = re.search(r"'([^']+)'", message)
    rule = re.match(r"rule ([\w.-]+):", message)
    if not loc and quoted:
        line = _find(tree, quoted.group(1), after=_find(tree, rule.group(1), after=0) if rule else 0)
    return int(line) + 1


def _find(node: Any, text: str, after: int) -> int:
    """Return the first line from `after` on that holds a scalar `text`, else `after`."""
    if isinstance(node, yaml.ScalarNode):
        return int(node.start_mark.line) if node.value == text and node.start_mark.line >= after else after
    children = [c for pair in node.value for c in pair] if isinstance(node, yaml.MappingNode) else node.value
    for child in children:
        if (line := _find(child, text, after)) > after or (
            isinstance(child, yaml.ScalarNode) and child.value == text and child.start_mark.line == after
        ):
            return line
    return after
