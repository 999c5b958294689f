"""The import directions of the package, checked on the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "gppf_d2"

# room -> the rooms it may import from
MAY_ENTER = {
    "tasks": set(),
    "data": {"tasks"},
    "distributed": {"tasks"},
    "evaluation": {"tasks"},
    "modeling": {"tasks", "distributed"},
    "analysis": {"tasks", "data", "modeling", "distributed", "evaluation"},
    "export": {"tasks", "data", "modeling", "distributed", "evaluation"},
    "engine": {"tasks", "data", "modeling", "distributed", "evaluation"},
    "pseudo": {"tasks", "data", "modeling", "distributed", "evaluation", "engine"},
    "tools": {
        "tasks", "data", "modeling", "distributed", "evaluation", "analysis", "export", "engine",
        "pseudo",
    },
}  # fmt: skip


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, relative imports resolved."""
    package = path.relative_to(PROJECT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], base]).rstrip(".")
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return
    room = parts[0]
    for name in imported_modules(path):
        steps = name.split(".")
        if steps[0] == "gppf_d2" and len(steps) > 1 and steps[1] in MAY_ENTER and steps[1] != room:
            assert steps[1] in MAY_ENTER[room], f"{path.name} in {room}/ imports {name}"


def test_tasks_use_the_standard_library_only() -> None:
    for path in sorted((PACKAGE / "tasks").glob("*.py")):
        for name in imported_modules(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("gppf_d2.tasks"), (
                f"{path.name} imports {name}"
            )


def test_i8_package_never_imports_configs_or_datasets() -> None:
    for path in sources():
        for name in imported_modules(path):
            assert name.split(".")[0] not in {"configs", "datasets"}, f"{path} imports {name}"


def test_no_room_for_leftovers() -> None:
    forbidden = {"utils", "misc", "common"}
    found = [p for p in PACKAGE.rglob("*") if p.stem in forbidden]
    assert not found, f"rooms without a subject: {found}"


def test_every_module_has_a_docstring() -> None:
    for path in sources() + sorted((PROJECT / "configs").rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
