"""Numbers and tables as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def bytes_text(num_bytes: float) -> str:
    """`1.2 GB`: powers of 1000, as file managers and disks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number_text(value: float) -> str:
    """Four significant digits, thousands separated; whole numbers stay whole."""
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def fact_text(name: str, value: str | float) -> str:
    """One fact beside a bar; a name that ends in `_bytes` or `_s` gives the unit."""
    if isinstance(value, str):
        return f"{name} {value}"
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')} {bytes_text(value)}"
    if name.endswith("_s"):
        return f"{name.removesuffix('_s')} {duration_text(value)}"
    return f"{name} {number_text(value)}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns under a header; numbers to the right, text to the left."""
    lines = [""] * (len(rows) + 1)
    for name, *column in zip(header, *rows, strict=True):
        numbers = [cell for cell in column if isinstance(cell, int | float)]
        is_numeric = len(numbers) == len(column)
        cells = [name, *(_number_cells(numbers) if is_numeric else map(str, column))]
        width = max(map(len, cells))
        for i, cell in enumerate(cells):
            lines[i] += f"{cell:>{width}}  " if is_numeric else f"{cell:<{width}}  "
    return "\n".join(line.rstrip() for line in lines)


def _number_cells(column: Sequence[float]) -> list[str]:
    """One number of decimals for the column, so that four digits of its largest are shown."""
    if all(isinstance(value, int) for value in column):
        return [f"{value:,}" for value in column]
    largest = max((abs(value) for value in column if math.isfinite(value)), default=0.0)
    decimals = 3 - math.floor(math.log10(largest)) if largest else 1
    return [f"{v:,.{max(0, decimals)}f}" if math.isfinite(v) else "-" for v in column]
