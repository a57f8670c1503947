"""`unipt submit`: the script is right, wrong commands never reach the queue, stopped jobs go on.

Slurm's own commands are small stand-ins here; `make soak` runs a real one where there is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.batch_script import seconds

EXTRACT = ("extract", "--backbone", "minilm", "--data", "two words.csv")


@pytest.fixture
def slurm(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins of Slurm's commands first on the path; they log what they are told.

    `srun` leaves with the status in the file `status`, `squeue` prints the file `state`.
    """
    folder = in_tmp / "slurm"
    folder.mkdir()
    (folder / "status").write_text("0")
    (folder / "state").write_text("RUNNING")
    log = f'echo "$(basename "$0") $*" >> {folder}/log'
    commands = {
        "sbatch": 'echo "77;cluster"',
        "srun": f"exit $(cat {folder}/status)",
        "squeue": f"cat {folder}/state",
        "scontrol": "",
        "sleep": "",
    }
    for name, action in commands.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{log}\n{action}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def run_job(slurm: Path, script: Path, turn: int = 1) -> tuple[int, list[str]]:
    """Run a script as Slurm would; its status and which commands it called."""
    (slurm / "log").unlink(missing_ok=True)
    environment = os.environ | {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(turn - 1)}
    done = subprocess.run(["bash", str(script)], env=environment, check=False)
    return done.returncode, (slurm / "log").read_text().splitlines()


def test_a_script_asks_for_what_was_given_and_runs_the_command_as_it_is(
    slurm: Path, unipt_command: Callable
) -> None:
    resources = ("--jobs", "8", "--gpus", "2", "--cpus", "4", "--memory", "32G")
    others = ("--time", "4:00:00", "--sbatch", "partition=gpu")
    shown = unipt_command("submit", *resources, *others, *EXTRACT, "--workers", "2")

    assert (shown.code, shown.out) == (0, "77\n")
    script = Path("jobs/extract.sh").read_text()
    asked = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert [line.removeprefix("#SBATCH --") for line in asked] == [
        "job-name=extract",
        "output=jobs/extract-%A_%a.log",
        "open-mode=append",
        "ntasks=1",
        "requeue",
        "signal=TERM@120",
        "cpus-per-task=4",
        "array=1-8",
        "gres=gpu:2",
        "mem=32G",
        "time=4:00:00",
        "partition=gpu",
    ]
    status, called = run_job(slurm, Path("jobs/extract.sh"))
    assert status == 0
    command = "extract --backbone minilm --data two words.csv --workers 2"
    assert called[0] == f"srun {sys.executable} -P -m cli {command}"
    assert not any(call.startswith("scontrol") for call in called)


def test_the_command_is_read_before_it_waits_in_a_queue(
    slurm: Path, unipt_command: Callable
) -> None:
    wrong = {
        ("extrakt",): "found 'extrakt', needed one of run, extract",
        ("submit", "fit"): "found 'submit', needed one of",
        ("fit", "--cach", "x"): "No such option: --cach",
        ("extract", "--backbone", "minilm"): "Missing option '--data'",
        ("--jobs", "3", "fit", "--cache", "x"): "'fit' is done by one job",
        ("--gpus", "2", "fit", "--cache", "x"): "'fit' uses 1 of them; needed --gpus 1",
        ("--gpus", "2", *EXTRACT): "needed --gpus 1, or --workers 2 after extract",
        ("run", "quickstat"): "there is no pipeline 'quickstat', did you mean 'quickstart'?",
        ("run", "quickstart", "--set", "fit.unipt.epoch=1"): "fit.unipt.epoch: unknown key",
        ("--name", "a/b", *EXTRACT): "--name is 'a/b', needed letters",
        ("--name", "my job", *EXTRACT): "it names files",
        ("--time", "4:00", *EXTRACT): "--time is '4:00', for Slurm 240 s; needed 300 s",
    }
    for words, expected in wrong.items():
        shown = unipt_command("submit", *words)

        assert shown.code == 2
        assert expected in " ".join(shown.err.split())
    assert not (slurm / "log").exists()


def test_a_dry_run_shows_the_script_and_submits_nothing(
    slurm: Path, unipt_command: Callable
) -> None:
    shown = unipt_command("submit", "--dry-run", *EXTRACT)

    assert shown.code == 0
    assert shown.out.startswith("#!/bin/bash\n#SBATCH --job-name=extract\n")
    assert not (slurm / "log").exists()
    assert not Path("jobs").exists()


def test_jobs_that_depend_on_others_wait_for_their_success(
    slurm: Path, unipt_command: Callable
) -> None:
    unipt_command("submit", "--after", "5", "--after", "6", "fit", "--cache", "c.zarr")

    (called,) = (slurm / "log").read_text().splitlines()
    assert "--dependency=afterok:5:6 --kill-on-invalid-dep=yes" in called


def test_many_jobs_extract_for_a_pipeline_and_one_trains(
    slurm: Path, unipt_command: Callable
) -> None:
    shown = unipt_command("submit", "--jobs", "3", "--name", "try", "run", "quickstart")

    assert shown.out == "77\n"
    many, one = Path("jobs/try-extract.sh").read_text(), Path("jobs/try.sh").read_text()
    assert "#SBATCH --array=1-3" in many
    assert "command=(run quickstart --extract-only)" in many
    assert "array" not in one
    assert "command=(run quickstart)" in one
    first, second = (slurm / "log").read_text().splitlines()
    assert first == "sbatch --parsable jobs/try-extract.sh"
    assert second.endswith("--dependency=afterok:77 --kill-on-invalid-dep=yes jobs/try.sh")


def test_a_job_that_was_told_to_stop_goes_on_in_a_new_turn_and_a_cancelled_one_does_not(
    slurm: Path, unipt_command: Callable
) -> None:
    unipt_command("submit", *EXTRACT)
    script = Path("jobs/extract.sh")
    (slurm / "status").write_text("143")

    assert "scontrol requeue 77" in run_job(slurm, script)[1]
    assert "scontrol requeue 77" in run_job(slurm, script, turn=50)[1]
    assert "scontrol requeue 77" not in run_job(slurm, script, turn=51)[1]
    (slurm / "state").write_text("COMPLETING")
    assert "scontrol requeue 77" not in run_job(slurm, script)[1]
    (slurm / "state").write_text("RUNNING")
    (slurm / "status").write_text("2")
    status, called = run_job(slurm, script)
    assert status == 2
    assert "scontrol requeue 77" not in called


@pytest.mark.parametrize(
    ("given", "later"),
    [
        (("--lr", "1e-3"), "--lr 1e-3 --resume"),
        (("--overwrite", "--lr", "1e-3"), "--resume --lr 1e-3"),
        (("--resume",), "--resume"),
    ],
)
def test_training_resumes_in_later_turns(
    slurm: Path, unipt_command: Callable, given: tuple[str, ...], later: str
) -> None:
    unipt_command("submit", "fit", "--cache", "c.zarr", *given)

    first = run_job(slurm, Path("jobs/fit.sh"))[1][0]
    second = run_job(slurm, Path("jobs/fit.sh"), turn=2)[1][0]

    assert first.endswith(f"fit --cache c.zarr {' '.join(given)}")
    assert second.endswith(f"fit --cache c.zarr {later}")


def test_without_slurm_the_user_is_told_what_to_do(
    in_tmp: Path, unipt_command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(in_tmp))

    shown = unipt_command("submit", *EXTRACT)

    assert shown.code == 2
    assert shown.err.startswith("error: submit: there is no sbatch here.")
    assert not Path("jobs").exists()


def test_what_sbatch_refuses_is_said_in_one_line(slurm: Path, unipt_command: Callable) -> None:
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'invalid\npartition' >&2\nexit 1\n")

    shown = unipt_command("submit", *EXTRACT)

    assert shown.code == 2
    assert shown.err == "error: jobs/extract.sh: sbatch refused it: invalid partition\n"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("30", 1800),
        ("4:00", 240),
        ("4:00:00", 14_400),
        ("1-2", 93_600),
        ("1-2:30", 95_400),
        ("2-00:00:10", 172_810),
        ("UNLIMITED", None),
        ("1:2:3:4", None),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(limit: str, expected: int | None) -> None:
    assert seconds(limit) == expected


def test_options_of_sbatch_may_hold_spaces(slurm: Path, unipt_command: Callable) -> None:
    unipt_command("submit", "--sbatch", "--comment=two words", "--sbatch", "exclusive", *EXTRACT)

    script = Path("jobs/extract.sh").read_text()
    assert "#SBATCH --comment='two words'\n#SBATCH --exclusive\n" in script


def test_a_folder_that_cannot_be_written_is_one_line(slurm: Path, unipt_command: Callable) -> None:
    Path("jobs").write_text("a file")

    shown = unipt_command("submit", *EXTRACT)

    assert shown.code == 2
    assert shown.err.startswith("error: jobs/extract.sh: cannot be written (File exists).")
