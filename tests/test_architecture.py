"""Imports go down only, files stay readable, and importing the package is quick."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_SOURCE = _ROOT / "src" / "scoretomo"
_LAYERS = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]


def _python(code: str) -> str:
    """Run in a fresh interpreter, since this one has imported everything already."""
    return subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True).stdout


def test_imports_go_down_only() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


def test_the_contract_names_every_room() -> None:
    """A room that is in no layer could import anything."""
    named = {name for layer in _LAYERS["layers"] for name in re.findall(r"scoretomo\.(\w+)", layer)}
    rooms = {path.stem for path in _SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert named == rooms - {"__init__", "__main__"}


def test_the_picture_in_the_docs_is_the_contract() -> None:
    picture = (_ROOT / "docs" / "conventions.md").read_text(encoding="utf-8").split("```")[1]
    drawn = [line.split("  ")[0].split(", ") for line in picture.strip().splitlines()]
    assert drawn == [re.findall(r"scoretomo\.(\w+)", layer) for layer in _LAYERS["layers"]]


@pytest.mark.parametrize("path", sorted(_SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(_SOURCE)))
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 450, f"{path.relative_to(_ROOT)} has {lines} lines; split it by what it does"


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = _python("import sys, scoretomo; print(*sys.modules)").split()
    assert not {"torch", "numpy", "scipy", "pandas", "diffusers", "matplotlib"} & set(loaded)


def test_algorithms_need_no_plots_tables_or_command_line() -> None:
    modules = [
        ".".join(path.relative_to(_SOURCE.parent).with_suffix("").parts)
        for room in ("geometry", "imaging", "diffusion", "methods", "ensemble", "simulation", "evaluation")
        for path in sorted((_SOURCE / room).glob("*.py"))
    ]
    loaded = _python(f"import sys, {', '.join(modules)}; print(*sys.modules)").split()
    assert "scoretomo.ensemble.growth" in loaded
    assert not {"diffusers", "matplotlib", "mrcfile", "pandas", "starfile", "rich", "tyro"} & set(loaded)
