"""Small pictures and clips of coloured shapes, and captions that say what they show."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "blue": (40, 60, 220),
    "green": (40, 170, 70),
    "yellow": (235, 215, 50),
}
SHAPES = ("circle", "square", "triangle")
THINGS = [f"{colour} {shape}" for shape, colour in product(SHAPES, COLOURS)]
SIZE = (96, 72)
SIDE = 36


@dataclass(frozen=True)
class Scene:
    """A picture: a thing such as `red circle` at a place from 0 (left) to 1 (right), maybe two."""

    things: tuple[str, ...]
    places: tuple[float, ...] = (0.5,)

    def box(self, number: int = 0) -> list[float]:
        """[x, y, width, height] of a thing in pixels."""
        left = round(self.places[number] * (SIZE[0] - SIDE))
        return [float(left), float((SIZE[1] - SIDE) // 2), float(SIDE), float(SIDE)]

    def draw(self) -> Image.Image:
        """The picture."""
        image = Image.new("RGB", SIZE, (128, 128, 128))
        pen = ImageDraw.Draw(image)
        for number, thing in enumerate(self.things):
            colour, shape = thing.split()
            x, y, width, height = self.box(number)
            corners = (x, y, x + width - 1, y + height - 1)
            if shape == "circle":
                pen.ellipse(corners, fill=COLOURS[colour])
            elif shape == "square":
                pen.rectangle(corners, fill=COLOURS[colour])
            else:
                top = [(x, corners[3]), (x + width / 2, y), (corners[2], corners[3])]
                pen.polygon(top, fill=COLOURS[colour])
        return image


def scene(number: int) -> Scene:
    """The picture of this number: neighbours differ, and all things come in turn."""
    return Scene((THINGS[number % len(THINGS)],), ((number // len(THINGS)) % 3 / 2,))


def captions_of(thing: str) -> list[str]:
    """Five captions."""
    colour, shape = thing.split()
    return [
        f"A {thing} on a grey ground.",
        f"There is a {shape} that is {colour}.",
        f"a {colour} shape, it is a {shape} ",
        f"One {thing}.",
        f"The picture shows a {thing}.",
    ]


def write_video(path: Path, shown: Scene, num_frames: int = 12) -> Path:
    """A clip in which the thing wanders from left to right."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for step in range(num_frames):
            moved = Scene(shown.things, (step / (num_frames - 1),))
            container.mux(stream.encode(av.VideoFrame.from_image(moved.draw())))
        container.mux(stream.encode())
    return path
