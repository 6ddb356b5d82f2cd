import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = ("configs", "data", "models", "training", "inference", "postprocess")
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^\]]*\])?==(?P<version>[^ ;\\]+)", re.MULTILINE)


def pins(name):
    """Every pinned version by project name; one project may be pinned per Python version."""
    found = {}
    for match in PIN.finditer((ROOT / "locks" / name).read_text(encoding="utf-8")):
        found.setdefault(canonicalize_name(match["name"]), []).append(match["version"])
    return found


@pytest.mark.parametrize("name", ["demo.txt", "dev.txt"])
def test_locks_hold_hashes_and_no_address(name):
    text = (ROOT / "locks" / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text.strip()):
        assert PIN.match(entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


@pytest.mark.parametrize(
    ("name", "extras"), [("demo.txt", ["demo"]), ("dev.txt", list(PROJECT["optional-dependencies"]))]
)
def test_locks_fulfil_what_the_project_asks_for(name, extras):
    locked = pins(name)
    wanted = [*PROJECT["dependencies"], "setuptools>=80"]
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    for line in wanted:
        requirement = Requirement(line)
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{line} is not in locks/{name}; run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), (line, versions)


def test_the_small_lock_is_part_of_the_large_one():
    large = pins("dev.txt")
    for name, versions in pins("demo.txt").items():
        assert set(versions) <= set(large.get(name, [])), name


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readmes_stay_short(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 200


def test_links_of_the_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_stage_folder_is_linked_and_packaged():
    for folder in FOLDERS:
        link = ROOT / "tuban" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder
        assert (ROOT / folder / "__init__.py").is_file()


def test_every_yaml_file_parses():
    paths = [*ROOT.glob("configs/**/*.yaml"), ROOT / "mkdocs.yml", ROOT / ".pre-commit-config.yaml"]
    for path in paths:
        assert yaml.safe_load(path.read_text(encoding="utf-8")) is not None, path


def test_the_licence_is_apache_in_full():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "APPENDIX: How to apply the Apache License" in text
    assert PROJECT["license"] == "Apache-2.0"
