"""Replay golden files against our modules: `python tests/check_golden.py DIR`.

Prints one line for each `.npz` of the folder; exits 1 if one fails or its kind is unknown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from golden_kinds import GoldenFile, Kind, find_kinds
from golden_kinds.compare import Verdict, compare


def check_file(path: Path, kinds: dict[str, Kind]) -> Verdict:
    """Replay one file with the function that knows its kind."""
    golden = GoldenFile.load(path)
    if golden.kind not in kinds:
        known = ", ".join(sorted(kinds))
        return Verdict(0.0, 0.0, 0, 0, (f"unknown kind {golden.kind!r}, known are {known}",))
    return compare(golden, kinds[golden.kind](golden))


def describe(path: Path, verdict: Verdict) -> str:
    """One line: pass or fail, the two largest errors, and what is wrong if anything is."""
    line = (
        f"{'FAIL' if verdict.problems else 'pass'}  {path.name:48s}"
        f"outputs {verdict.outputs:.1e} ({verdict.num_outputs})  "
        f"gradients {verdict.gradients:.1e} ({verdict.num_gradients})"
    )
    return f"{line}  {'; '.join(verdict.problems)}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the folder given on the command line; 0 if every file passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with .npz golden files")
    folder: Path = parser.parse_args(arguments).folder
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        print(f"{folder}: no .npz files, needed one or more golden files.", file=sys.stderr)
        return 1
    kinds = find_kinds()
    num_failed = 0
    for path in paths:
        try:
            verdict = check_file(path, kinds)
        except Exception as error:  # one broken file must not hide the others
            verdict = Verdict(0.0, 0.0, 0, 0, (f"raised {type(error).__name__}: {error}",))
        num_failed += bool(verdict.problems)
        print(describe(path, verdict), flush=True)
    print(f"{len(paths) - num_failed} of {len(paths)} files pass")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
