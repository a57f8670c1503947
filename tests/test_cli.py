"""The command line: its pages, its flags, one line per mistake, and the whole way through."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from conftest import Outcome
from typer.main import get_command

from cli import completion
from cli.app import COMMANDS, app
from cli.errors import shown_as_one_line
from cli.examples import EXAMPLES

Run = Callable[..., Outcome]

FLAGS = {
    "run": "NAME --file --list --set --extract-only --local-copy --quiet --json",
    "extract": "--backbone --data --revision --split --modality --text-column "
    "--text-pair-column --image-column --video-column --regions-column --frames --image-size "
    "--media-root --views --target --key --cache --layers --precision --quantize --encoding "
    "--fit-in --max-length --align --device --batch-size --workers --dask --on-error "
    "--trust-remote-code --dry-run --quiet --json",
    "fit": "--cache --task --target --network --epochs --lr --batch-size --reduction --seed "
    "--device --precision --run --set --resume --overwrite --allow-partial --local-copy --quiet "
    "--json",
    "evaluate": "--run --cache --split --device --local-copy --quiet --json",
    "predict": "--run SAMPLE --data --cache --split --top --out --draw --text-column "
    "--text-pair-column --image-column --video-column --regions-column --media-root --on-error "
    "--backbone --device --batch-size --local-copy --quiet --json",
    "inspect": "CACHE --json",
    "verify": "CACHE --quick --quiet --json",
    "repair": "CACHE --quiet --json",
    "gc": "CACHE --include-recent --dry-run --json",
    "submit": "COMMAND... --jobs --gpus --cpus --memory --time --sbatch --after --name --dry-run "
    "--json",
    "convert": "KIND CHECKPOINT FOLDER --tokenizer --quiet --json",
}
HEAVY = ("torch", "transformers", "zarr", "pandas", "numpy", "datasets", "accelerate", "matplotlib")


def parse(command_line: str) -> None:
    """Parse without running; raises typer's error for a command line that is not understood."""
    group = get_command(app)
    program, name, *arguments = shlex.split(command_line)
    assert program == "unipt"
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)


def test_flags_grow_only_on_purpose() -> None:
    """Knobs do not belong on the command line; a new flag must be added here as well."""
    group = get_command(app)
    found = {
        name: " ".join(
            parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.metavar)
            for parameter in command.params
        )
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }

    assert found == FLAGS


def test_the_choices_of_the_pages_are_those_of_the_configs(unipt_command: Run) -> None:
    """The pages may not import the configs, so nothing but this keeps them together."""
    from extractor import ExtractConfig
    from trainer import FitConfig

    fit, extract = FitConfig.model_json_schema(), ExtractConfig.model_json_schema()
    fit_page = " ".join(unipt_command("fit", "--help").out.split())
    extract_page = " ".join(unipt_command("extract", "--help").out.split())

    for section, names in (("network", completion.NETWORKS), ("task", completion.TASKS)):
        assert set(names) == set(fit["properties"][section]["discriminator"]["mapping"])
        assert ", ".join(names) in fit_page.replace("- ", "-")
    (rate,) = fit["$defs"]["OptimizerConfig"]["properties"]["learning_rates"]["default"]
    assert f"Learning rate, {rate} if not given" in fit_page
    for name in ("epochs", "batch_size", "seed"):
        text = fit_page.partition(f"--{name.replace('_', '-')} N ")[2].partition(" --")[0]
        assert f"; {fit['properties'][name]['default']} if not given." in text
    reduction = fit["$defs"]["UniPTConfig"]["properties"]["reduction"]["default"]
    assert f"width of the side network; {reduction} if not given" in fit_page
    for name in ("device", "precision"):
        choices = "|".join(fit["properties"][name]["enum"])
        assert f"--{name} <{choices}>" in fit_page
    for name in ("precision", "encoding", "on_error"):
        described = extract["properties"][name]
        choices = described.get("enum") or described["anyOf"][0]["enum"]
        flag = extract_page.partition(f"--{name.replace('_', '-')} <")[2].partition(">")[0]
        assert sorted(flag.split("|")) == sorted(choices)


def test_no_help_page_imports_anything_heavy() -> None:
    """What keeps every `--help` below half a second, on any machine."""
    script = f"""
import sys
from cli.app import main
for arguments in {[[], *([command.__name__] for command in COMMANDS)]!r}:
    try:
        main([*arguments, "--help"])
    except SystemExit as left:
        assert left.code == 0, left.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert shown.splitlines()[-1] == "[]"
    assert shown.count("Usage: unipt") == len(COMMANDS) + 1


@pytest.mark.parametrize(
    "line", [line for lines in EXAMPLES.values() for line in lines], ids=lambda line: line[:40]
)
def test_every_example_parses(line: str) -> None:
    """An example that cannot be copied is worse than none."""
    parse(line)


@pytest.mark.parametrize("command", ["unipt", *FLAGS])
def test_every_page_shows_its_examples(unipt_command: Run, command: str) -> None:
    """Examples stand whole on their lines, ready to be copied."""
    outcome = unipt_command(*([] if command == "unipt" else [command]), "--help")

    assert outcome.code == 0
    for example in EXAMPLES[command]:
        assert f"    {example}\n" in outcome.out


def test_the_version_is_that_of_the_package(unipt_command: Run) -> None:
    """`unipt --version` is the first line of a bug report."""
    from importlib.metadata import version

    assert unipt_command("--version") == Outcome(0, f"unipt {version('unipt')}\n", "")


def test_python_m_cli_is_the_same_command() -> None:
    """It works where the scripts' folder is not on the path."""
    shown = subprocess.run(
        [sys.executable, "-m", "cli", "--version"], capture_output=True, text=True, check=True
    )

    assert shown.stdout.startswith("unipt ")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("unipt extract --backbone mini", "minilm"),
        ("unipt run quick", "quickstart"),
        ("unipt ins", "inspect"),
        ("unipt fit --all", "--allow-partial"),
    ],
)
def test_the_shell_completes_names(typed: str, offered: str, in_tmp: Path) -> None:
    """TAB knows commands, flags, backbones and pipelines."""
    words = typed.split()
    environment = {
        **os.environ,
        "_UNIPT_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    script = "from cli.app import main; main()"

    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )

    assert offered in shown.stdout.split()


def test_the_whole_way_from_a_csv_to_predictions(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """Each stage prints the command that comes next; following them is all that a user must do."""
    extracted = unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv)

    assert extracted.code == 0, extracted.err
    assert "reviews-tiny-bert.zarr: complete (48 samples" in extracted.out
    assert "text: column 'text', by its name" in extracted.err
    assert "next: unipt fit --cache reviews-tiny-bert.zarr" in extracted.err

    again = unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv)
    assert "already complete" in again.out

    inspected = unipt_command("inspect", "reviews-tiny-bert.zarr")
    assert "48 (train 48)" in inspected.out
    assert "label: category of 2 (neg, pos)" in inspected.out
    assert "encoder.layer.1" in inspected.out

    verified = unipt_command("verify", "reviews-tiny-bert.zarr")
    assert (verified.code, verified.out.count("sound")) == (0, 1)

    fitted = unipt_command(
        *("fit", "--cache", "reviews-tiny-bert.zarr", "--epochs", "3", "--lr", "0.01"),
        *("--lr", "0.001", "--batch-size", "8", "--reduction", "4", "--run", "runs/reviews"),
    )
    assert fitted.code == 0, fitted.err
    assert "target: 'label', the only one in the cache" in fitted.err
    assert "kept" in fitted.out
    assert "next: unipt evaluate" not in fitted.err, "there is no split left to evaluate on"
    assert "next: unipt predict --run runs/reviews 'a text of yours'" in fitted.err

    evaluated = unipt_command(
        *("evaluate", "--run", "runs/reviews", "--cache", "reviews-tiny-bert.zarr"),
        *("--split", "train", "--json"),
    )
    metrics = json.loads(evaluated.out)["metrics"]
    assert metrics == json.loads(Path("runs/reviews/metrics-train.json").read_text())["metrics"]

    typed = unipt_command("predict", "--run", "runs/reviews", "a good film", "a bad film")
    assert typed.out.splitlines()[0].split() == ["label", "score", "text"]
    assert typed.out.splitlines()[2].endswith("a bad film")

    written = unipt_command(
        *("predict", "--run", "runs/reviews", "--data", reviews_csv, "--out", "found.csv")
    )
    assert written.code == 0, written.err
    lines = Path("found.csv").read_text().splitlines()
    assert lines[0] == "split,row,label,score,probabilities"
    assert [line.split(",")[1] for line in lines[1:]] == [str(row) for row in range(48)]


def test_the_next_command_evaluates_what_was_not_trained_on(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """Following the line works as it stands."""
    data = ["--data", f"train={reviews_csv}", "--data", f"test={reviews_csv}"]
    unipt_command("extract", "--backbone", tiny_bert, *data, "--cache", "cache")

    fitted = unipt_command("fit", "--cache", "cache", "--run", "run", "--epochs", "1")

    (line,) = re.findall(r"next: unipt (evaluate .*)", fitted.err)
    assert line == "evaluate --run run --cache cache --split test"
    assert unipt_command(*line.split()).code == 0


def test_json_of_each_stage_is_one_object(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """A program reads stdout; everything for people is on stderr."""
    dry = unipt_command(
        *("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--dry-run", "--json")
    )
    plan = json.loads(dry.out)
    assert plan["num_samples"] == 48
    assert plan["fits"] is True
    assert not list(in_tmp.iterdir())

    done = unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--json")
    assert json.loads(done.out)["num_bytes"] == plan["num_bytes"]

    inspected = json.loads(unipt_command("inspect", "reviews-tiny-bert.zarr", "--json").out)
    assert inspected["bytes"] == plan["num_bytes"]
    assert [layer["layer"] for layer in inspected["layers"]] == [0, 1, 2]

    fitted = unipt_command(
        *("fit", "--cache", "reviews-tiny-bert.zarr", "--network", "probe", "--epochs", "1"),
        *("--json", "--quiet"),
    )
    assert json.loads(fitted.out)["num_steps"] == 1
    assert fitted.err == ""


def test_damage_is_found_and_repaired(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """One flipped byte: verify names the file and ends with 1, repair makes it sound again."""
    unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--cache", "cache")
    chunk = max(Path("cache/shards").rglob("c/*/*/*"), key=lambda path: path.stat().st_size)
    damaged = bytearray(chunk.read_bytes())
    damaged[100] ^= 1
    chunk.write_bytes(damaged)

    found = unipt_command("verify", "cache")
    assert found.code == 1
    assert "bytes changed" in found.out
    assert "next: unipt repair cache" in found.err

    repaired = unipt_command("repair", "cache")
    assert repaired.code == 0, repaired.err
    assert unipt_command("verify", "cache").code == 0
    assert "nothing to do" in unipt_command("repair", "cache").out


def test_a_cache_without_a_finished_shard_can_be_inspected(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """While the first shard is being written there is a manifest and nothing else."""
    unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--cache", "cache")
    shutil.rmtree("cache/receipts/000000")

    outcome = unipt_command("inspect", "cache")

    assert outcome.code == 0, outcome.err
    assert "cache (NOT FINISHED: 1 of 1 shards to go)" in outcome.out
    assert outcome.out.splitlines()[-1].split() == (
        ["tokens", "2", "encoder.layer.1", "16", "has", "none", "-", "-"]
    )


def test_gc_removes_only_what_no_receipt_names(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """A crashed attempt goes, the cache stays sound; `--dry-run` only tells."""
    unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--cache", "cache")
    crashed = Path("cache/shards/000000-crashed")
    crashed.mkdir()
    (crashed / "half").write_bytes(b"x")

    assert unipt_command("gc", "cache").out == "cache: nothing to remove\n"
    told = unipt_command("gc", "cache", "--include-recent", "--dry-run")
    assert "000000-crashed" in told.out
    assert crashed.exists()

    unipt_command("gc", "cache", "--include-recent")
    assert not crashed.exists()
    assert unipt_command("verify", "cache").code == 0


@pytest.mark.parametrize(
    ("command_line", "words"),
    [
        ("extract --backbone bert-bse --data reviews.csv", "Did you mean 'bert-base'?"),
        ("extract --backbone TINY --data nothing.csv", "nothing.csv: no such file"),
        ("extract --backbone TINY --data reviews.csv --text-column body", "['text', 'label']"),
        ("extract --backbone TINY --data reviews.csv --target stars", "['text', 'label']"),
        ("extract --backbone TINY --data empty.csv", "empty.csv"),
        ("extract --backbone TINY --data reviews.csv --layers 0,9", "9"),
        (
            "extract --backbone TINY --data reviews.csv --layers 0-2",
            "needed all, or numbers of layers",
        ),
        ("inspect nowhere", "nowhere: no cache here"),
        ("verify nowhere", "nowhere: no cache here"),
        ("repair nowhere", "nowhere: no cache here"),
        ("gc nowhere", "nowhere: no cache here"),
        ("fit --cache nowhere", "nowhere: no cache here"),
        ("evaluate --run nowhere --cache nowhere", "nowhere: no cache here"),
        ("predict --run nowhere text", "nowhere: no run here"),
        ("predict --run nowhere --data reviews.csv --out x.xlsx", "needed one of ['.csv'"),
        ("run nothing", "there is no pipeline 'nothing'"),
        ("run --file nothing.yaml --list", "there is no file 'nothing.yaml'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    unipt_command: Run,
    tiny_bert: Path,
    reviews_csv: Path,
    in_tmp: Path,
    command_line: str,
    words: str,
) -> None:
    """No traceback, nothing on stdout, no file left behind, and what to do about it."""
    Path("reviews.csv").write_bytes(reviews_csv.read_bytes())
    Path("empty.csv").touch()
    before = sorted(in_tmp.rglob("*"))

    outcome = unipt_command(*command_line.replace("TINY", str(tiny_bert)).split())

    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert outcome.err.splitlines()[-1] == line
    assert sorted(in_tmp.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "--run", "r"], "give SAMPLE, --data or --cache"),
        (["predict", "--run", "r", "--data", "x.csv"], "--data needs --out FILE"),
        (["run"], "needed the NAME of a pipeline, or --list"),
        (["fit"], "Missing option '--cache'"),
        (["extract", "--bckbone", "x"], "No such option"),
    ],
)
def test_a_wrong_command_line_says_what_is_needed(
    unipt_command: Run, arguments: list[str], words: str
) -> None:
    """The usual form of usage errors, with the same exit code as other mistakes."""
    outcome = unipt_command(*arguments)

    assert outcome.code == 2
    assert words in outcome.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "c/x"), 2, "error: c/x: No space left"),
        (OSError(errno.EROFS, "Read-only file system", "c/x"), 2, "folder that can be written"),
        (PermissionError(errno.EACCES, "Permission denied", "c/x"), 2, "error: c/x: Permission"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
    ],
)
def test_a_full_disk_and_ctrl_c_are_no_bugs(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    """What the machine or the user does gets one line and its own exit code."""
    with pytest.raises(typer.Exit) as left, shown_as_one_line():
        raise error

    assert left.value.exit_code == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("ours"), FileNotFoundError(errno.ENOENT, "No such file", "x")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    """An exception that nobody expected is not dressed up as a user's mistake."""
    with pytest.raises(type(error)) as left, shown_as_one_line():
        raise error

    assert left.value is error


def test_a_bug_ends_with_exit_code_1_and_python_s_traceback() -> None:
    """The whole process, as a shell sees it."""
    script = "import cli.gc, cache_schema; cache_schema.find_garbage = 3\n"
    script += "from cli.app import main; main(['gc', 'x'])"

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback (most recent call last):")
    assert ended.stderr.endswith("TypeError: 'int' object is not callable\n")


def interrupted(arguments: list[str], once: str) -> str:
    """Start `unipt ARGUMENTS`, press Ctrl-C once a file is there; the last line on stderr."""
    command = [sys.executable, "-m", "cli", *arguments]

    def hear_ctrl_c() -> None:
        """Shells let what they start in the background ignore it, and so all that it starts."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    try:
        deadline = time.monotonic() + 60
        while not list(Path().glob(once)) and time.monotonic() < deadline:
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        _, shown = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130, shown
    assert "Traceback" not in shown
    return shown.splitlines()[-1]


def test_ctrl_c_stops_an_extraction_that_can_go_on(
    unipt_command: Run, tiny_bert: Path, in_tmp: Path
) -> None:
    """Exit code 130, one line, and the same command completes the cache."""
    rows = "\n".join(f"a good film {i},pos\na bad film {i},neg" for i in range(1000))
    Path("many.csv").write_text(f"text,label\n{rows}\n")
    command = ["extract", "--backbone", str(tiny_bert), "--data", "many.csv", "--cache", "cache"]

    line = interrupted([*command, "--batch-size", "1"], once="cache/zarr.json")

    assert line == "interrupted; run the same command again to go on"
    assert "cache: complete (2,000 samples" in unipt_command(*command).out


def test_ctrl_c_while_a_module_is_imported_ends_in_the_same_exit_code(in_tmp: Path) -> None:
    """Dataclasses are made with `exec`, after which Python would end in SIGINT instead."""
    script = "import sys; from cli.errors import shown_as_one_line\n"
    script += "try:\n with shown_as_one_line(): exec('raise KeyboardInterrupt')\n"
    script += "except Exception as error: sys.exit(error.exit_code)"
    Path("interrupted_import.py").write_text(script)

    ended = subprocess.run(
        [sys.executable, "-m", "interrupted_import"], capture_output=True, text=True, check=False
    )

    assert ended.stderr == "interrupted; run the same command again to go on\n"
    assert ended.returncode == 130


def test_ctrl_c_stops_a_training_that_can_go_on(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """The line says what to add, and adding it goes on after the last step."""
    unipt_command("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--cache", "cache")
    command = ["fit", "--cache", "cache", "--run", "run", "--epochs", "40", "--batch-size", "8"]

    line = interrupted(command, once="run/checkpoints/*")

    assert line == "interrupted; add --resume to the same command to go on"
    assert "a run lies here already" in unipt_command(*command).err
    resumed = unipt_command(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert "resuming after step" in resumed.err
