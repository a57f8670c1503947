"""Every golden file, through the same code as `python tests/check_golden.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from check_golden import check_file, main
from golden_kinds import GoldenFile, Replay, find_kinds
from golden_kinds.compare import compare

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.npz"))
KINDS = find_kinds()


def test_all_golden_files_are_here() -> None:
    """A clone that lost its data files must not pass by checking none."""
    assert len(FILES) == 61


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_module_gives_the_numbers_of_the_authors_code(path: Path) -> None:
    """Outputs, and gradients of every parameter and input, within the bounds of golden/README."""
    verdict = check_file(path, KINDS)

    assert verdict.problems == ()
    assert verdict.num_outputs > 0


def save_changed(source: Path, target: Path, **changes: np.ndarray) -> None:
    """A copy of a golden file with some arrays replaced."""
    with np.load(source) as arrays:
        np.savez(target, **{**dict(arrays.items()), **changes})


def test_the_script_reports_each_file_and_fails_on_a_wrong_or_unknown_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is what a reviewer and CI look at; a bad file must not hide the others."""
    source = FOLDER / "clip4clip_crossen.npz"
    loss = np.load(source)["output.loss"]
    save_changed(source, tmp_path / "good.npz")
    save_changed(source, tmp_path / "off.npz", **{"output.loss": loss * np.float32(1.001)})
    save_changed(source, tmp_path / "strange.npz", **{"meta.json": np.array('{"kind": "new"}')})
    save_changed(source, tmp_path / "broken.npz", **{"input.sim_matrix": np.zeros((2, 3, 4))})

    code = main([str(tmp_path)])

    printed = capsys.readouterr().out.splitlines()
    lines = {line.split()[1]: line for line in printed[:-1]}
    assert code == 1
    assert lines["good.npz"].startswith("pass")
    assert "output loss is off by 1.0e-03" in lines["off.npz"]
    assert "unknown kind 'new'" in lines["strange.npz"]
    assert lines["broken.npz"].startswith("FAIL")
    assert "raised" in lines["broken.npz"]
    assert printed[-1] == "1 of 4 files pass"


def test_the_script_passes_a_good_folder_and_fails_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong path must not look like success."""
    good, empty = tmp_path / "good", tmp_path / "empty"
    good.mkdir()
    empty.mkdir()
    save_changed(FOLDER / "clip4clip_crossen.npz", good / "crossen.npz")

    assert main([str(good)]) == 0
    assert main([str(empty)]) == 1
    assert "no .npz files" in capsys.readouterr().err


def crossen() -> tuple[GoldenFile, Replay]:
    """A small golden file with one output and one gradient, and its replay."""
    golden = GoldenFile.load(FOLDER / "clip4clip_crossen.npz")
    return golden, KINDS[golden.kind](golden)


def test_a_replay_cannot_leave_out_an_output_or_a_gradient() -> None:
    """Else a kind could pass by comparing nothing."""
    golden, replay = crossen()

    without_output = compare(golden, Replay({}, inputs=replay.inputs, skipped={"*": "no reason"}))
    without_gradient = compare(golden, Replay(replay.outputs))

    assert without_output.problems == ("output loss was not replayed",)
    assert without_gradient.problems == ("gradient of sim_matrix was not replayed",)


def test_a_wrong_gradient_fails_the_file() -> None:
    """Outputs alone do not show a term that was detached."""
    golden, replay = crossen()
    loss = replay.outputs["loss"]
    half = Replay({"loss": 0.5 * loss + 0.5 * loss.detach()}, inputs=replay.inputs)

    verdict = compare(golden, half)

    assert verdict.problems == ("gradient of input sim_matrix is off by 5.0e-01",)


def test_not_a_number_never_passes() -> None:
    """NaN compares false with every bound; the check must not read that as no difference."""
    golden, replay = crossen()
    broken = Replay({"loss": replay.outputs["loss"] * float("nan")}, inputs=replay.inputs)

    assert compare(golden, broken).problems == ("output loss is off by inf",)
