"""What a person, a log and a program each get to see."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import console
from cli.console import Count, Terminal
from cli.wording import bytes_text, duration_text, fact_text, number_text, table

SCRIPT = """
from cli.console import Terminal
terminal = Terminal()
with terminal.meter("extract", 40, "samples", done=10) as outer:
    terminal.say("a remark [with brackets]")
    with terminal.meter("batch", 3, "rows") as inner:
        inner.advance(3)
    outer.advance(10, bytes=500_000)
    outer.advance(20, bytes=2_000_000)
terminal.suggest("unipt", "fit", "--cache", "my cache")
"""


def in_a_terminal(script: str) -> str:
    """What a person sees on a terminal of 100 columns, without colours and cursor moves."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", script], stderr=slave, env=environment, check=True)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # Linux: the other end is closed and everything was read
        pass
    os.close(master)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_terminal_shows_a_bar_with_rate_bytes_and_remarks() -> None:
    """The bar's last state stays on the screen; brackets in a remark are not markup."""
    shown = in_a_terminal(SCRIPT)

    assert "a remark [with brackets]" in shown
    assert re.search(r"extract ━+ +100% 40/40 samples +[\d,.]+/s +2.5 MB +in 0.\d s", shown)
    assert "next: unipt fit --cache 'my cache'" in shown


def test_a_log_gets_plain_lines_with_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    """No cursor moves in a file; each line says when it was written."""
    terminal = Terminal()

    terminal.say("a remark")
    with terminal.meter("extract", 40, "samples", done=10) as meter:
        meter.advance(30)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    assert lines[1].split("  ", 1)[1].startswith("extract: 100%  40/40 samples")


def test_a_log_of_a_long_stage_stays_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day of one step a second gives a line a minute at most, and the first within seconds."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    with Terminal().meter("extract", 86_400, "steps") as meter:
        for _ in range(86_400):
            now[0] += 1.0
            meter.advance(1)

    lines = capsys.readouterr().err.splitlines()
    assert 1400 < len(lines) < 1500
    assert "extract: 0%  2/86,400 steps  1/s  23 h 59 min left" in lines[0]
    assert "100%" in lines[-1]


def test_what_was_done_before_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed extraction reports the rate of this run, so that its time left is true."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    count = Count(1000, "samples", done=900)

    now[0] = 10.0
    count.advance(50)

    assert "5/s" in count.line()
    assert "10 s left" in count.line()


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`--quiet` leaves both streams empty unless something is wrong."""
    terminal = Terminal(quiet=True)

    terminal.say("a remark")
    terminal.suggest("unipt", "fit")
    with terminal.meter("extract", 4, "samples") as meter:
        meter.advance(4)
    terminal.result("a table", {"a": 1})

    assert capsys.readouterr() == ("", "")


def test_json_is_one_object_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Remarks go to stderr, and numbers that JSON lacks become null instead of invalid JSON."""
    terminal = Terminal(as_json=True)

    terminal.say("a remark")
    terminal.result("a table", {"loss": float("nan"), "path": Path("runs/x"), "lrs": (1e-3, 0.1)})

    out, err = capsys.readouterr()
    assert json.loads(out) == {"loss": None, "path": "runs/x", "lrs": [0.001, 0.1]}
    assert err.endswith("a remark\n")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (bytes_text(999), "999 B"),
        (bytes_text(1_234_567), "1.2 MB"),
        (bytes_text(7.2e13), "72.0 TB"),
        (duration_text(0.42), "0.4 s"),
        (duration_text(59.9), "1 min 00 s"),
        (duration_text(7800), "2 h 10 min"),
        (number_text(1234567), "1,234,567"),
        (number_text(0.98765), "0.9877"),
        (number_text(5e-5), "5.0e-05"),
        (number_text(0.0), "0"),
        (fact_text("loss", 0.25), "loss 0.25"),
        (fact_text("free_bytes", 2e9), "free 2.0 GB"),
        (fact_text("wait_s", 0.1), "wait 0.1 s"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    """Units and separators as a person writes them."""
    assert shown == expected


def test_a_table_aligns_numbers_right_and_text_left() -> None:
    """Columns stay columns in a terminal, a log and a mail, decimals below each other."""
    header = ("network", "accuracy", "samples", "loss")
    rows = [("unipt", 0.85, 1000, 12.345), ("linear probe", 0.8125, 7, float("nan"))]

    assert table(header, rows).splitlines() == [
        "network       accuracy  samples   loss",
        "unipt           0.8500    1,000  12.35",
        "linear probe    0.8125        7      -",
    ]


def test_only_the_first_of_several_processes_speaks(capsys, monkeypatch) -> None:
    """Those that `torchrun` starts would all print the same lines and the same JSON."""
    monkeypatch.setenv("RANK", "1")
    terminal = Terminal(as_json=True)
    terminal.say("a line")
    with terminal.meter("train", 10, "samples") as meter:
        meter.advance(10)

    terminal.result("text", {"a": 1})

    assert capsys.readouterr() == ("", "")
