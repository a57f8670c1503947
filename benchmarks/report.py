"""What every benchmark prints: a table for people, or one JSON object per figure."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured number; `target` is what it has to reach, empty for plain information."""

    name: str
    value: float
    unit: str
    target: str = ""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="one JSON object per figure")
    made.add_argument("--repeats", type=int, default=5, help="medians over so many (5)")
    return made


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print figures."""
    if as_json:
        for figure in figures:
            print(json.dumps(asdict(figure)))
        return
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        target = f"   target {figure.target}" if figure.target else ""
        print(f"{figure.name:<{width}}  {figure.value:>12,.3f} {figure.unit}{target}")


def resident(field: str) -> float:
    """MiB of this process in memory, of Linux: VmRSS now, VmHWM at most so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


class Rounds:
    """What each contestant measured, all run in turn so that drift hits all alike.

    Each is run once before anything counts.
    """

    def __init__(self, contestants: Mapping[str, Callable[[], float]], repeats: int) -> None:
        self._values: dict[str, list[float]] = {name: [] for name in contestants}
        for run in range(repeats + 1):
            for name, measure in contestants.items():
                value = measure()
                if run:
                    self._values[name].append(value)

    def __getitem__(self, name: str) -> float:
        """Median of one contestant."""
        return statistics.median(self._values[name])

    def ratio(self, name: str, other: str) -> float:
        """Median of the ratios within a round: where a machine's speed drifts, the steadier one."""
        both = zip(self._values[name], self._values[other], strict=True)
        return statistics.median(value / beside for value, beside in both)
