"""Numbers and tables as a person reads them."""

from __future__ import annotations

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
    columns = list(zip(header, *rows, strict=True))
    lines = [""] * (len(rows) + 1)
    for column in columns:
        numeric = all(isinstance(cell, int | float) for cell in column[1:])
        cells = [number_text(c) if isinstance(c, int | float) else str(c) for c in column]
        width = max(map(len, cells))
        for i, cell in enumerate(cells):
            lines[i] += f"{cell:>{width}}  " if numeric else f"{cell:<{width}}  "
    return "\n".join(line.rstrip() for line in lines)
