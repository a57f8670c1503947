"""Quantised numbers: how far they may be off, whatever the states are, and what is never stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema import decode, encode, encoding, quantised, rounded

QUANTISED = ("int8", "int4")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def states(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest_of_groups(values: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each number's own group."""
    groups = [group.abs().amax(-1, keepdim=True) for group in values.split(32, dim=-1)]
    shares = zip(groups, values.split(32, dim=-1), strict=True)
    return torch.cat([largest.expand_as(group) for largest, group in shares], dim=-1)


@given(
    name=st.sampled_from(QUANTISED),
    rows=st.integers(0, 5),
    width=st.integers(1, 100),
    dtype=st.sampled_from(FLOATS),
    exponent=st.integers(-4, 2),
    seed=st.integers(0, 100),
)
@settings(deadline=None)
def test_numbers_come_back_within_a_step_of_their_group(
    name, rows, width, dtype, exponent, seed
) -> None:
    """Any width, an odd one too; a row that is large elsewhere does not matter.

    Half a step; a whole one opposite to the extreme, where the highest whole number is one short;
    and with 8 bits half a step more, as the scale is rounded itself: by up to 2^-8, 128 steps off.
    """
    stored = encoding(name)
    values = states((rows, 3, width), seed, 10.0**exponent).to(dtype)
    values[..., width // 2] *= 50

    encoded = encode(values, stored)
    found = decode(encoded.parts, stored, width)

    expected = values.float()
    step = largest_of_groups(expected) / 2 ** (stored.bits - 1)
    assert ((found - expected).abs() <= 1.51 * step).all()
    torch.testing.assert_close(
        encoded.absmax_L,
        expected.abs().amax((0, 2)) if rows else torch.zeros(3),
        rtol=0,
        atol=0,
    )
    assert [part.shape[-1] for part in encoded.parts] == [p.length for p in stored.parts(width)]


@pytest.mark.parametrize(("name", "most"), [("int8", 0.0056), ("int4", 0.09)])
def test_the_error_of_usual_states_is_small(name, most) -> None:
    """A lost sign, scale or half of a byte would give 1 and more; 15 numbers, not 16, 0.097."""
    values = states((200, 2, 384), seed=0)

    error = (rounded(values, encoding(name)) - values).norm() / values.norm()

    assert error < most


@pytest.mark.parametrize("name", QUANTISED)
def test_what_was_rounded_stays_as_it_is(name) -> None:
    """Else a prediction from states that went through a cache would not repeat."""
    once = rounded(states((50, 2, 96), seed=1), encoding(name))

    twice = rounded(once, encoding(name))

    torch.testing.assert_close(twice, once, rtol=0.01, atol=0)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("share", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("is_constant", [True, False])
def test_the_largest_finite_state_never_becomes_infinite(name, dtype, share, is_constant) -> None:
    """Not in float32, nor when a GPU decodes into bfloat16."""
    stored, largest = encoding(name), share * torch.finfo(dtype).max
    values = torch.full((2, 2, 70), largest, dtype=dtype)
    if not is_constant:
        values[..., ::3], values[..., 1::3] = 0.1, -largest

    encoded = encode(values, stored)
    found = decode(encoded.parts, stored, 70)
    scales = quantised.Scales(encoded.parts[1], stored.bits, 70)
    on_arrival = quantised.dequantise(encoded.parts[0], scales, torch.bfloat16)

    assert found.isfinite().all()
    assert on_arrival.isfinite().all()
    torch.testing.assert_close(found[:, :, 0], values.float()[:, :, 0], rtol=0.02, atol=1.0)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 6e-8])
def test_small_states_stay_small(name, size) -> None:
    """Zero is exact; a group is at most 2^-127 off, however small it is."""
    values = size * torch.linspace(-1, 1, 64).expand(3, 2, 64)

    found = rounded(values, encoding(name))

    bound = max(2.0**-127, size / 2 ** (encoding(name).bits - 1))
    assert ((found - values).abs() <= 1.26 * bound).all()
    assert (found[values == 0] == 0).all()


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("channel", [0, 40, 69])
def test_a_state_that_is_not_finite_shows_in_its_layer_and_row(name, bad, channel) -> None:
    """The guard of an extraction looks at both."""
    values = states((6, 3, 70), seed=2)
    values[4, 1, channel] = bad

    encoded = encode(values, encoding(name))

    assert encoded.absmax_L.isfinite().tolist() == [True, False, True]
    bad_rows = ~encoded.parts[1].isfinite().all(-1)
    assert bad_rows.nonzero().tolist() == [[4, 1]]


@given(
    name=st.sampled_from(QUANTISED),
    width=st.integers(1, 70),
    spread=st.floats(0, 0.2),
    level=st.sampled_from([1.0, -3.0, 1e30]),
    seed=st.integers(0, 50),
)
@settings(deadline=None)
def test_no_row_looks_like_a_missing_chunk(name, width, spread, level, seed) -> None:
    """Zarr fills a missing chunk with the lowest number: equal channels must not give only that."""
    values = level * (1 - spread * torch.rand(4, 1, width, generator=torch.manual_seed(seed)))

    packed = encode(values, encoding(name)).parts[0]

    assert not (packed == encoding(name).fill).all(-1).any()


def test_blocks_of_rows_give_the_same_numbers(monkeypatch) -> None:
    """A batch is rounded in blocks that stay in a core's cache."""
    values = states((37, 3, 70), seed=3)
    at_once = encode(values, encoding("int4"))

    monkeypatch.setitem(quantised._BLOCK, "cpu", 5 * 3 * 70)
    in_blocks = encode(values, encoding("int4"))

    torch.testing.assert_close(in_blocks.parts, at_once.parts, rtol=0, atol=0)
    torch.testing.assert_close(in_blocks.absmax_L, at_once.absmax_L, rtol=0, atol=0)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decoding_into_another_dtype_rounds_once(name, dtype) -> None:
    """float16 has no number for a scale of 1e-9, but it has one for what is decoded with it."""
    stored, values = encoding(name), states((20, 2, 70), seed=4, scale=1e-6)
    parts = encode(values, stored).parts
    scales = quantised.Scales(parts[1], stored.bits, 70)

    found = quantised.dequantise(parts[0], scales, dtype)

    assert found.dtype == dtype
    torch.testing.assert_close(found, decode(parts, stored, 70).to(dtype), rtol=0, atol=0)


def test_only_what_determines_the_numbers_is_identity() -> None:
    """The fingerprints of exact caches stay what they were."""
    assert encoding("float16").identity == {"encoding": "float16"}
    assert encoding("int4").identity == {"encoding": "int4", "group": 32}


@pytest.mark.parametrize(
    ("name", "num_bytes"), [("float32", 4 * 70), ("bfloat16", 140), ("int8", 76), ("int4", 41)]
)
def test_a_row_takes_what_its_arrays_say(name, num_bytes) -> None:
    """70 channels are 3 groups, with 2 bytes of scale each."""
    values = states((5, 2, 70), seed=5)

    parts = encode(values, encoding(name)).parts

    assert encoding(name).row_bytes(2, 70) == 2 * num_bytes
    assert sum(part.nbytes for part in parts) == 5 * 2 * num_bytes
    assert np.dtype(encoding(name).stored_dtype).itemsize == parts[0].element_size()
