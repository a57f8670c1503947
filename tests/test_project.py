"""The project as a clone and as a package: what `make`, pip and git see."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def constraints() -> dict[str, str]:
    """Package to its tested version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in pins}


def requirements() -> list[Requirement]:
    """Every direct dependency, those of the extras included, without our own name."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(line) for lines in lists for line in lines]
    return [requirement for requirement in found if requirement.name != "unipt"]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_dependency_has_a_tested_version_within_its_range(requirement: Requirement) -> None:
    """`make` installs what was tested, and pip agrees that it may."""
    pinned = constraints()[canonicalize_name(requirement.name)]

    assert requirement.specifier.contains(pinned)


def test_tested_versions_are_public_and_for_any_machine() -> None:
    """No path or index of one machine, and nothing that only one accelerator needs."""
    text = (ROOT / "constraints.txt").read_text()

    assert not re.search(r"://|file:|^-|@", text, re.MULTILINE)
    assert not [name for name in constraints() if name.startswith(("nvidia-", "triton", "cuda-"))]


def test_the_console_script_is_the_cli() -> None:
    """`unipt` and `python -m cli` are one program."""
    (script,) = [e for e in entry_points(group="console_scripts") if e.name == "unipt"]

    assert script.value == "cli.app:main"


@pytest.mark.parametrize("target", ["quickstart", "test", "check", "soak", "clean", "help"])
def test_make_knows_the_documented_targets(target: str) -> None:
    """Each is listed by `make help`, and make can tell what it would do."""
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    planned = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert f"make {target} " in listed
    assert planned.returncode == 0, planned.stderr


def test_ci_runs_the_checks_and_the_tests() -> None:
    """`.ci/run` can be executed and stops at the first failure."""
    script = ROOT / ".ci" / "run"

    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert re.findall(r"^make (\w+)", text, re.MULTILINE) == ["check", "test"]


def test_every_folder_that_is_imported_is_packaged_and_typed() -> None:
    """A wheel without one of them would import in a clone and fail everywhere else."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = set(config["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])

    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == {"cache_schema", "cli", "extractor", "trainer", "unipt"}
    assert included == folders | {"pipelines.yaml"}
    assert all((ROOT / folder / "py.typed").is_file() for folder in folders)
