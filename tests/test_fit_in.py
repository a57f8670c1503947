"""What an extraction costs in each encoding, and the choice of the most exact one that fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from review_caches import loud_bert, reviews_config

from cache_schema import FeatureCache, FingerprintMismatchError, StorageError, encoding, verify
from extractor import ExtractConfig, HiddenStateError, estimate, extract, repair


@pytest.fixture
def config(tiny_bert: Path, reviews_csv: Path, tmp_path: Path) -> ExtractConfig:
    """In the encoding that is chosen if nobody asks for one."""
    config = reviews_config(tiny_bert, reviews_csv, tmp_path)
    return config.model_copy(update={"encoding": None, "batch_size": 5})


def changed(config: ExtractConfig, **settings: object) -> ExtractConfig:
    """The configuration with other settings, checked as a user's are."""
    return ExtractConfig.model_validate({**config.model_dump(), **settings})


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "int8", "int4"])
def test_the_dry_run_names_the_exact_bytes_of_every_encoding(config, name) -> None:
    """Told by the dry run of one encoding, and found when each of them is written."""
    planned = estimate(config)

    report = extract(changed(config, encoding=name))

    receipts = FeatureCache.open(config.cache).receipts.values()
    assert planned.encoding == "float16"
    assert planned.num_bytes == planned.encodings["float16"]
    assert planned.encodings[name] == report.num_bytes == sum(r.num_bytes for r in receipts)
    written = [path for path in Path(config.cache).glob("shards/*/**/c/**/*") if path.is_file()]
    assert report.num_bytes - sum(path.stat().st_size for path in written) in range(200)
    assert list(planned.encodings.values()) == sorted(planned.encodings.values(), reverse=True)


@pytest.mark.parametrize(
    ("limit", "expected"), [("float16", "float16"), ("int8", "int8"), ("int4", "int4")]
)
def test_the_most_exact_encoding_that_fits_is_chosen(config, limit, expected) -> None:
    """To the byte: what an encoding takes is room enough for it, one byte less is not."""
    sizes = estimate(config).encodings

    found = estimate(changed(config, fit_in=sizes[limit]))
    smaller = changed(config, fit_in=sizes[limit] - 1)

    assert (found.encoding, found.num_bytes) == (expected, sizes[expected])
    if limit == "int4":
        with pytest.raises(StorageError, match=r"int8, .* MB as int4; --fit-in allows"):
            estimate(smaller)
    else:
        assert estimate(smaller).encoding != expected


def test_a_second_run_recognises_its_cache_and_an_unfinished_one_goes_on(config) -> None:
    """The same choice every time; the finished one without loading anything."""
    fitting = changed(config, fit_in=estimate(config).encodings["int8"] + 10)
    first = extract(fitting)
    whole = FeatureCache.open(config.cache).gather(range(48)).streams["tokens"].values

    again = extract(fitting)
    shutil.rmtree(Path(config.cache) / "receipts" / "000001")
    rest = extract(fitting)

    assert first.num_shards > 2
    assert again.was_finished
    assert 0 < rest.num_written < 48
    cache = FeatureCache.open(config.cache)
    assert cache.manifest.encoding == "int8"
    torch.testing.assert_close(
        cache.gather(range(48)).streams["tokens"].values, whole, rtol=0, atol=0
    )


def test_a_cache_that_was_made_to_fit_can_be_repaired(config) -> None:
    """Repair asks again for what was asked for, and has to come to the same encoding."""
    extract(changed(config, fit_in=estimate(config).encodings["int4"]))
    chunk = next(Path(config.cache).glob("shards/000001-*/tokens/scales/c/0/0/0"))
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])

    report = repair(config.cache)

    assert report is not None
    assert 0 < report.num_written < 48
    assert verify(config.cache) == []


def test_another_encoding_is_another_cache(config) -> None:
    extract(changed(config, encoding="int8"))

    with pytest.raises(FingerprintMismatchError, match=r"encoding: 'int4' here, 'int8' there"):
        extract(changed(config, encoding="int4"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40GB", 40 * 10**9),
        ("1.5 TiB", 3 * 2**39),
        ("500mb", 5 * 10**8),
        ("2 kB", 2000),
        ("7B", 7),
        (123, 123),
    ],
)
def test_sizes_are_read_as_people_write_them(config, text, expected) -> None:
    assert changed(config, fit_in=text).fit_in == expected


@pytest.mark.parametrize("text", ["40", "GB", "-1GB", "4e9B", "40 parsecs", "0GB", 0])
def test_what_is_no_size_is_refused(config, text) -> None:
    """A bare number could mean anything."""
    with pytest.raises(ValidationError, match=r"40GB, 500MB or 1\.5TiB|greater than 0"):
        changed(config, fit_in=text)


def test_a_state_that_is_not_finite_is_named_with_a_quantised_encoding(config, tiny_bert) -> None:
    """Whole numbers have no infinity: without the guard it would be stored as data."""
    from safetensors.torch import load_file, save_file

    folder = Path(config.cache).with_name("broken-bert")
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][3] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(HiddenStateError, match=r"layer 2 .*row \d+.*is not finite.*float32\.$"):
        extract(changed(config, backbone=str(folder), encoding="int4"))


def test_states_that_float16_cannot_hold_are_stored_in_8_bits(config, tiny_bert) -> None:
    """States of 1e5 are rounded from what the backbone gave, never by way of float16."""
    folder = loud_bert(tiny_bert, Path(config.cache).parent)

    extract(changed(config, backbone=str(folder), encoding="int8"))

    cache = FeatureCache.open(config.cache)
    values = cache.gather(range(48)).streams["tokens"].values
    statistics = [receipt.statistics["tokens"] for receipt in cache.receipts.values()]
    torch.testing.assert_close(values[:, 2], torch.full_like(values[:, 2], 1e5), rtol=0.01, atol=0)
    assert max(found.absmax[2] for found in statistics) == pytest.approx(1e5, rel=1e-3)
    assert encoding(cache.manifest.encoding).bits == 8


def test_the_command_shows_what_each_encoding_costs_and_says_its_choice(
    unipt_command, tiny_bert, reviews_csv, in_tmp
) -> None:
    asked = ("extract", "--backbone", tiny_bert, "--data", reviews_csv, "--device", "cpu")
    table = unipt_command(*asked, "--dry-run").out
    sizes = json.loads(unipt_command(*asked, "--dry-run", "--json").out)["encodings"]

    chosen = unipt_command(*asked, "--fit-in", f"{sizes['int8']}B")
    both = unipt_command(*asked, "--fit-in", "1GB", "--encoding", "int8")
    none = unipt_command(*asked, "--fit-in", "1kB", "--cache", "other")

    rows = {line.split()[0]: line.split() for line in table.splitlines() if line}
    assert rows["int8"][1:] == [f"{sizes['int8']:,}", f"{sizes['int8'] / 1000:.1f}", "kB", "yes"]
    assert rows["float16"][-2:] == ["this", "run"]
    assert chosen.code == 0
    assert "int8 is the most exact encoding that fits in" in chosen.err
    assert (both.code, none.code) == (2, 2)
    assert both.err.count("\n") == 1
    assert "--fit-in chooses the encoding itself, found also 'int8'" in both.err
    assert none.err.splitlines()[-1].startswith("error: other: needs 0.")
    assert not Path("other").exists()
