"""Packaging: the stage folders at the root are installed as sub-packages of `tuban`."""

from setuptools import find_namespace_packages, setup

FOLDERS = ("configs", "data", "models", "training", "inference", "postprocess")
INCLUDE = [pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")]

setup(
    packages=["tuban", *(f"tuban.{name}" for name in find_namespace_packages(include=INCLUDE))],
    package_dir={"tuban": "tuban", **{f"tuban.{folder}": folder for folder in FOLDERS}},
)
