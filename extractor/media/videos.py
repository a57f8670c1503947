"""Decode videos: a fixed number of frames, evenly spread over those that really decode.

What a container says about its length is a hint at most: it is missing in some, wrong in others.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .images import ImageSource, UnreadableMediaError, image_size, load_image, unreadable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

VideoSource = str | Path | bytes | Sequence[ImageSource]
"""A file, its bytes, or its frames as images."""


def read_frames(source: VideoSource, num_frames: int) -> list[Image.Image]:
    """Exactly `num_frames` RGB frames of a video, in order, evenly spread over all of them.

    A video with fewer frames shows some of them twice.

    Args:
        source: A file, its bytes, or a list of images.
        num_frames: At least 1.

    Raises:
        UnreadableMediaError: Names the file and what is wrong; also when only a part decodes.

    Source: CLIP4Clip reads one frame a second and spreads its 12 evenly over those; here they are
    spread over all frames, so that short clips do not lose any.
    """
    if not isinstance(source, str | Path | bytes):
        if not source:
            raise UnreadableMediaError("video in the data: it has no frames")
        return [load_image(source[at]) for at in spread(len(source), num_frames).tolist()]
    # One packet holds one frame nearly always: counting them spares decoding everything twice.
    expected = _count_packets(source)
    frames, decoded = _decode(source, spread(max(expected, 1), num_frames))
    if decoded != expected:
        frames, _ = _decode(source, spread(decoded, num_frames))
    return frames


def spread(num_there: int, num_frames: int) -> np.ndarray:
    """(num_frames,) int64, not falling: which frames of `num_there` are read.

    The first and the last are among them; of one frame it is the middle one.
    """
    if num_frames == 1:
        return np.array([(num_there - 1) // 2])
    return np.arange(num_frames) * (num_there - 1) // (num_frames - 1)


def count_frames(path: str | Path) -> int:
    """How many frames of a video file decode.

    Raises:
        UnreadableMediaError: Names the file and what is wrong.
    """
    with _opened(path) as (container, stream):
        return sum(1 for _ in container.decode(stream))


def video_size(source: VideoSource) -> tuple[int, int]:
    """Height and width in pixels, from the header of the file, or of the first frame's.

    Of a list of frames every header is looked at.

    Raises:
        UnreadableMediaError: Names the file and what is wrong.
    """
    if not isinstance(source, str | Path | bytes):
        if not source:
            raise UnreadableMediaError("video in the data: it has no frames")
        sizes = [image_size(frame) for frame in source]
        return sizes[0]
    with _opened(source) as (_, stream):
        return stream.height, stream.width


def _count_packets(source: str | Path | bytes) -> int:
    with _opened(source) as (container, stream):
        # The last packet of a stream is an empty one that flushes the decoder.
        return sum(1 for packet in container.demux(stream) if packet.size)


def _decode(source: str | Path | bytes, wanted: np.ndarray) -> tuple[list[Image.Image], int]:
    """The frames at these places, those past the end left out, and how many there are."""
    times = np.bincount(wanted).tolist()
    images: list[Image.Image] = []
    decoded = 0
    with _opened(source) as (container, stream):
        for frame in container.decode(stream):
            if decoded < len(times) and times[decoded]:
                if frame.is_corrupt:
                    # The decoder fills holes with guesses; a state made from those would be one.
                    raise UnreadableMediaError(
                        f"{_name(source)}: cannot be read (frame {decoded} is damaged)"
                    )
                pixels = frame.to_ndarray(format="rgb24")
                images += [Image.fromarray(pixels)] * times[decoded]
            decoded += 1
    if decoded == 0:
        raise UnreadableMediaError(f"{_name(source)}: cannot be read (none of its frames decodes)")
    return images, decoded


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; whatever its library raises names the file."""
    import av

    # Not the library's own search: it would take a name with a colon for a protocol.
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if not isinstance(file, io.BytesIO) and not os.path.isfile(file):
            raise FileNotFoundError(os.fspath(file))
        name = file if isinstance(file, io.BytesIO) else f"file:{os.fspath(file)}"
        with av.open(name, mode="r") as found:
            if not found.streams.video:
                raise UnreadableMediaError(f"{_name(source)}: cannot be read (it has no video)")
            stream = found.streams.video[0]
            # Several files are read at a time: threads of one decoder would only be in the way.
            stream.codec_context.thread_count = 1
            yield found, stream
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise unreadable(_name(source), _cause(error)) from error


def _cause(error: Exception) -> Exception:
    """The library's error without its number and the file's name, which we say ourselves."""
    said = getattr(error, "strerror", None)
    if said is None or isinstance(error, FileNotFoundError):
        return error
    return ValueError(str(said).lower())


def _name(source: str | Path | bytes) -> str:
    return "video in the data" if isinstance(source, bytes) else str(source)
