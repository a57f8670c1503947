"""Videos give exactly the frames asked for, whatever their container says; damage is named."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from extractor.media import (
    UnreadableMediaError,
    count_frames,
    image_size,
    load_image,
    read_all,
    read_frames,
    video_size,
)
from extractor.media.videos import spread

CODECS = {"mp4": "libx264", "avi": "mpeg4", "mkv": "ffv1"}
STEP = 6  # grey levels between frames: more than the codecs lose


def save_video(path: Path, num_frames: int, size: tuple[int, int] = (48, 32)) -> Path:
    """Frame i is grey of level 10 + 6 i."""
    codec = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base, stream.bit_rate = Fraction(1, 10), 4_000_000
        for number in range(num_frames):
            pixels = np.full((size[1], size[0], 3), 10 + STEP * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def levels(frames: list[Image.Image]) -> list[int]:
    """Which frame of `save_video` each is."""
    return [round((float(np.asarray(frame).mean()) - 10) / STEP) for frame in frames]


@pytest.mark.parametrize("container", CODECS)
def test_frames_are_spread_evenly_over_the_video(tmp_path, container) -> None:
    path = save_video(tmp_path / f"v.{container}", 23)

    assert count_frames(path) == 23
    assert video_size(path) == (32, 48)
    assert levels(read_frames(path, 12)) == list(range(0, 23, 2))
    assert levels(read_frames(path, 3)) == [0, 11, 22]
    assert levels(read_frames(path, 1)) == [11]
    assert levels(read_frames(path, 23)) == list(range(23))
    assert {frame.size for frame in read_frames(path, 2)} == {(48, 32)}
    assert {frame.mode for frame in read_frames(path, 2)} == {"RGB"}


def test_a_short_video_shows_frames_twice(tmp_path) -> None:
    path = save_video(tmp_path / "v.mp4", 3)

    assert levels(read_frames(path, 7)) == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(("there", "wanted"), [(1, 1), (1, 5), (2, 3), (300, 12), (12, 12), (7, 1)])
def test_spread_frames_exist_and_do_not_run_backwards(there, wanted) -> None:
    places = spread(there, wanted)

    assert len(places) == wanted
    assert (np.diff(places) >= 0).all()
    assert places.min() >= 0
    assert places.max() < there
    if wanted > 1:
        assert (places[0], places[-1]) == (0, there - 1)
        assert np.ptp(np.diff(places)) <= 1


@pytest.mark.parametrize("claimed", [5, 90])
def test_a_container_that_counts_wrongly_is_not_believed(tmp_path, monkeypatch, claimed) -> None:
    """Headers, and even packets, may say another number than what decodes."""
    path = save_video(tmp_path / "v.avi", 23)
    monkeypatch.setattr("extractor.media.videos._count_packets", lambda source: claimed)

    assert levels(read_frames(path, 12)) == list(range(0, 23, 2))


def test_the_header_of_a_matroska_file_counts_nothing_and_is_not_needed(tmp_path) -> None:
    path = save_video(tmp_path / "v.mkv", 9)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0

    assert levels(read_frames(path, 3)) == [0, 4, 8]


def test_bytes_and_lists_of_frames_are_videos_too(tmp_path) -> None:
    path = save_video(tmp_path / "v.mp4", 5)
    images = []
    for number in range(5):
        image = Image.new("RGB", (8, 6), (10 + STEP * number,) * 3)
        images.append(str(tmp_path / f"{number}.png"))
        image.save(images[-1])

    assert levels(read_frames(path.read_bytes(), 3)) == [0, 2, 4]
    assert levels(read_frames(images, 3)) == [0, 2, 4]
    assert levels(read_frames([Path(i).read_bytes() for i in images], 2)) == [0, 4]
    assert video_size(images) == (6, 8)


def damaged(tmp_path: Path, kind: str) -> Path:
    good = save_video(tmp_path / "good.mp4", 20)
    if kind == "absent":
        return tmp_path / "absent.mp4"
    path = tmp_path / f"{kind}.mp4"
    if kind == "no picture":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            stream.layout = "mono"
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path
    content = {
        "cut": good.read_bytes()[: good.stat().st_size // 2],
        "empty": b"",
        "text": b"this is no video at all, whatever its name says",
        "a page": b"<html><body>404</body></html>" * 50,
    }[kind]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["absent", "cut", "empty", "text", "a page", "no picture"])
def test_a_video_that_cannot_be_read_is_named(tmp_path, kind, capfd) -> None:
    path = damaged(tmp_path, kind)

    for look in (lambda: read_frames(path, 4), lambda: count_frames(path)):
        with pytest.raises(UnreadableMediaError) as caught:
            look()

        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_hole_in_a_video_is_not_filled_with_guesses(tmp_path) -> None:
    """Decoders cover damage with what was there before; a stored state would show that."""
    path = tmp_path / "v.avi"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(12):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    whole = path.read_bytes()
    hole = len(whole) // 2
    path.write_bytes(whole[:hole] + b"\xff" * 3000 + whole[hole + 3000 :])

    with pytest.raises(UnreadableMediaError, match=r"v\.avi: cannot be read"):
        read_frames(path, 12)


def test_a_missing_frame_is_named(tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    frames = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]

    with pytest.raises(UnreadableMediaError, match=r"1\.png: there is no such file"):
        read_frames(frames, 4)
    with pytest.raises(UnreadableMediaError, match=r"1\.png: there is no such file"):
        video_size(frames)
    with pytest.raises(UnreadableMediaError, match="it has no frames"):
        read_frames([], 4)


@pytest.fixture
def photo(tmp_path) -> Callable[[str], Path]:
    def save(name: str) -> Path:
        pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return save


def test_an_image_cut_short_has_a_size_and_no_pixels(photo) -> None:
    """The header is whole, so only decoding finds it: both must say the same about a file."""
    path = photo("a.jpg")
    path.write_bytes(path.read_bytes()[:-900])

    assert image_size(path) == (40, 60)
    with pytest.raises(UnreadableMediaError, match=r"a\.jpg: cannot be read \(image file is trunc"):
        load_image(path)


GREYS_1W = np.array([[0, 1000, 32896, 65535]], np.uint16)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.jp2", "grey.pgm"])
def test_greys_of_16_bits_are_scaled_and_not_cut_to_white(tmp_path, name) -> None:
    """Pillow's conversion to RGB cuts at 255 what has more bits."""
    path = tmp_path / name
    Image.fromarray(GREYS_1W).save(path, **({"irreversible": False} if "jp2" in name else {}))

    pixels = np.asarray(load_image(path))

    assert pixels[0].tolist() == [[level] * 3 for level in (0, 4, 128, 255)]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_an_image_whose_white_is_not_told_is_refused(tmp_path, kind) -> None:
    Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / "depth.tif")

    with pytest.raises(UnreadableMediaError, match=r"depth.tif.*needed 8 or 16 bits"):
        load_image(tmp_path / "depth.tif")


def test_transparency_is_dropped(tmp_path) -> None:
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "a.png")

    assert np.asarray(load_image(tmp_path / "a.png"))[0, 0].tolist() == [10, 20, 30]


def test_many_files_are_read_in_order_and_failures_keep_their_place(photo, tmp_path) -> None:
    sources = [photo("a.png"), tmp_path / "absent.png", photo("b.png")]

    found, failures = read_all(sources, load_image)

    assert sorted(found) == [0, 2]
    assert found[0].tobytes() == found[2].tobytes()
    assert failures == {1: f"{tmp_path / 'absent.png'}: there is no such file"}
