import re
from pathlib import Path

import pytest
import typer.main
import yaml

from tuban.cli import app

ROOT = Path(__file__).parents[1]
CLI = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
NOT_SAID = {"--help", "--json", "--version", "--verbose"}  # said once for all commands


def commands(group, words=()):
    """Every command with its words, such as ("plan", "validate")."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_described_with_its_options_and_an_example(words):
    section = next(
        part
        for part in CLI.split("\n## ")[1:]
        if part.startswith(words[0]) or f", {words[0]}" in part.partition("\n")[0]
    )
    assert words[-1] in section.partition("\n")[0]
    assert re.search(rf"^tuban {' '.join(words)}\b", section, re.MULTILINE), "no example"
    for parameter in COMMANDS[words].params:
        for option in set(parameter.opts) - NOT_SAID:
            if option.startswith("--"):
                assert option in section, f"{' '.join(words)} {option} is not in docs/cli.md"


def test_the_page_names_no_option_that_does_not_exist():
    known = {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", CLI))
    assert said - known - NOT_SAID == set()


def test_examples_of_the_documents_name_commands_and_options_that_exist():
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md")]
    for page in pages:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in re.findall(r"^tuban (.*)$", block, re.MULTILINE):
                words = line.partition("#")[0].split()
                found = next((COMMANDS[key] for key in (tuple(words[:2]), tuple(words[:1])) if key in COMMANDS), None)
                assert found is not None, f"{page.name}: tuban {line}"
                known = {
                    option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)
                }
                if words[0] != "train":  # Hydra's own options
                    assert {word for word in words if word.startswith("--")} <= known | NOT_SAID, f"{page.name}: {line}"


def test_navigation_names_every_page_once():
    def leaves(entry):
        if isinstance(entry, str):
            yield entry
        for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from leaves(part)

    named = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(named) == sorted(page.name for page in ROOT.glob("docs/*.md"))


def test_modules_that_the_architecture_names_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for stage in ("data", "inference", "postprocess"):
        section = text.split(f"\n## {stage}\n")[1].split("\n## ")[0]
        for name in re.findall(r"`(\w+)\.py`", section):
            assert (ROOT / stage / f"{name}.py").is_file(), f"{stage}/{name}.py"
