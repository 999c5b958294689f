"""The README's tour cannot rot: its files exist, its symbols import, its commands parse."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()
TOUR = re.findall(r"^\| [^|]+ \| `([^`]+\.py)` \| `(\w+)` \| [^|]+ \|$", README, re.MULTILINE)


def test_the_tour_is_there() -> None:
    assert len(TOUR) >= 12


@pytest.mark.parametrize(("file", "symbol"), TOUR)
def test_the_tour_names_what_exists(file: str, symbol: str) -> None:
    assert (PROJECT / file).is_file()
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    assert hasattr(module, symbol)


def test_files_and_tools_that_the_readme_names_exist() -> None:
    for path in re.findall(r"`((?:configs|tests|datasets|gppf_d2)/[\w/.]+)`", README):
        assert (PROJECT / path).exists(), path
    for tool in re.findall(r"-m (gppf_d2\.tools\.\w+)", README):
        assert importlib.util.find_spec(tool), tool
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", README):
        assert (PROJECT / picture).is_file(), picture


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_option_in_the_readme_is_an_option_of_train_net() -> None:
    from train_net import parse_arguments

    for line in README.splitlines():
        found = re.search(r"train_net\.py (--config-file.*)$", line)
        if found:
            words = found.group(1).split("#")[0].replace("...", "x").replace(" R ", " 1 ").split()
            parse_arguments(words)


def test_no_placeholder_is_left() -> None:
    assert "<!--" not in README
