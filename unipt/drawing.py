"""Predicted boxes drawn on their images, with the expression that they answer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cache_schema import UserError
from extractor import as_rgb

_BOX, _PAPER, _INK = (230, 30, 90), (255, 255, 255), (20, 20, 20)
_SMALLEST_FONT = 11  # pixels; below this Pillow's own font cannot be read
_PLACE = {"split", "row", "part", "file", "error"}  # columns that are no prediction


def draw_prediction(folder: Path, sample: Mapping[str, Any], row: Mapping[str, Any]) -> Path | None:
    """Write the sample's image with the best box, the expression and the score.

    Args:
        folder: Where to; the file is named after the split and the row.
        sample: By role: `image`, and the expression as `text`.
        row: Its prediction: `split`, `row`, `box` in pixels and `score`.

    Returns:
        The file; None for a sample that could not be read.

    Raises:
        UserError: The prediction has no box.
    """
    if "box" not in row:
        raise UserError(
            f"--draw: the run predicts {sorted(set(row) - _PLACE)!r}, needed a "
            "box. Leave it out, or use a run of --task grounding."
        )
    if row["box"] is None:
        return None
    source = sample["image"]
    # As the backbone read it: a rotation noted in EXIF data is not applied.
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        image = as_rgb(opened)
    image = with_box(image, row["box"], str(sample["text"]), row["score"])
    part = f"-{sample['part']}" if "part" in sample else ""
    path = folder / f"{row['split']}-{row['row']}{part}.png"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_as_png(image))
    return path


def with_box(image: Image.Image, box: list[float], text: str, score: float) -> Image.Image:
    """The image with a box (two corners, in its pixels), above a strip with text and score."""
    line = max(2, round(min(image.size) / 120))
    font = ImageFont.load_default(size=max(_SMALLEST_FONT, image.height // 24))
    label = _wrapped(f"{text} ({score:.2f})", font, image.width - 2 * line)
    left, top, _, bottom = ImageDraw.Draw(image).multiline_textbbox((0, 0), label, font=font)
    strip = int(bottom - top) + 4 * line
    sheet = Image.new("RGB", (image.width, image.height + strip), _PAPER)
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle(_inside(box, image.size), outline=_BOX, width=line)
    pen.multiline_text((line - left, image.height + 2 * line - top), label, _INK, font=font)
    return sheet


def _inside(box: list[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Corners cut to the image, the first one before the second."""
    x = sorted(min(max(round(value), 0), size[0] - 1) for value in box[::2])
    y = sorted(min(max(round(value), 0), size[1] - 1) for value in box[1::2])
    return x[0], y[0], x[1], y[1]


def _wrapped(text: str, font: Any, width: int) -> str:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
