"""The packages stand on floors: one imports from its own floor and from those below, never from above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import cogvx_exp

PACKAGE = Path(cogvx_exp.__file__).parent
FLOORS = [
    "core",
    "console",
    "distributed",
    "media",
    "config",
    "demo",
    "runs",
    "profiling",
    "data",
    "model",
    "diffusion",
    "tasks",
    "footage",
    "latents",
    "loading",
    "optim",
    "strategies",
    "tracking",
    "reporting",
    "estimate",
    "evaluation",
    "training",
    "sweep",
    "launch",
]
"""From the ground up. On top of them stand the entry points, and what is made with those (tiny_model)."""
LARGEST = 300
"""Lines of a file."""
MOST_FILES = 9
"""Of a folder, without its __init__."""


def imports(path: Path) -> Iterator[str]:
    """Packages of this project that a module imports from, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cogvx_exp."):
            yield str(node.module).split(".")[1]


def test_no_package_imports_from_a_higher_floor() -> None:
    up = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for number, floor in enumerate(FLOORS)
        for path in sorted((PACKAGE / floor).rglob("*.py"))
        for name in imports(path)
        if name not in FLOORS[: number + 1]
    ]
    assert not up


def test_every_package_has_a_floor() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - {"tiny_model", "comparison"} == set(FLOORS)


def test_files_and_folders_stay_small() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert not [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > LARGEST]
    folders = {path.parent for path in files}
    counts = {
        folder.name: len({path.stem for path in files if path.parent == folder} - {"__init__"}) for folder in folders
    }
    assert not {name: count for name, count in counts.items() if count > MOST_FILES}
