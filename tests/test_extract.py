"""Extraction end to end on a tiny real BERT: right numbers, resumable, safe to start twice."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from review_caches import all_values, loud_bert, reviews_config

from cache_schema import (
    FeatureCache,
    FingerprintMismatchError,
    StorageError,
    UserError,
    find_garbage,
    verify,
)
from extractor import (
    ExtractConfig,
    HiddenStateError,
    estimate,
    extract,
    load_backbone,
    repair,
)


@pytest.fixture
def config(tiny_bert: Path, reviews_csv: Path, tmp_path: Path) -> ExtractConfig:
    return reviews_config(tiny_bert, reviews_csv, tmp_path)


def texts_of(reviews_csv: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in reviews_csv.read_text().splitlines()[1:]]


def test_stored_states_are_the_backbones_own(config, tiny_bert, reviews_csv) -> None:
    from transformers import AutoModel, AutoTokenizer

    extract(config)

    cache = FeatureCache.open(config.cache)
    model, tokenizer = (
        AutoModel.from_pretrained(tiny_bert),
        AutoTokenizer.from_pretrained(tiny_bert),
    )
    for sample, text in enumerate(texts_of(reviews_csv)):
        with torch.no_grad():
            outputs = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected = torch.stack(outputs.hidden_states, dim=2)[0]
        found = cache[sample].streams["tokens"].values
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert cache.input("token_ids", [sample])[0].tolist() == tokenizer(text)["input_ids"]


def test_targets_and_rows_stay_with_their_samples(config, reviews_csv) -> None:
    extract(config)

    cache = FeatureCache.open(config.cache)
    column = cache.target("label")
    labels = [line.rpartition(",")[2] for line in reviews_csv.read_text().splitlines()[1:]]
    assert [column.spec.classes[code] for code in column.values] == labels
    assert cache.source_rows().tolist() == list(range(48))


def test_the_dry_run_names_the_exact_bytes_and_writes_nothing(config) -> None:
    plan = estimate(config)

    assert not Path(config.cache).exists()
    report = extract(config)
    receipts = FeatureCache.open(config.cache).receipts.values()
    assert plan.num_bytes == report.num_bytes == sum(r.num_bytes for r in receipts)
    assert plan.num_shards == report.num_shards == len(receipts)
    assert plan.num_shards > 5
    assert plan.seconds > 0


def test_a_second_run_says_finished_without_loading_torch(config) -> None:
    """A second: importing torch and transformers alone would take several."""
    extract(config)
    code = (
        "import sys; from extractor import ExtractConfig, extract\n"
        f"report = extract(ExtractConfig.model_validate_json({config.model_dump_json()!r}))\n"
        "assert report.was_finished and report.num_samples == 48\n"
        "loaded = {'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_extraction_killed_at_any_moment_ends_with_the_same_cache(config, tmp_path) -> None:
    whole = config.model_copy(update={"cache": str(tmp_path / "whole")})
    extract(whole)
    code = (
        "import time, extractor.pipeline as p\n"
        "from extractor import ExtractConfig, extract\n"
        "run = p._run_shard\n"
        "def slow(*a): time.sleep(0.05); return run(*a)\n"  # so that the kill falls in between
        "p._run_shard = slow\n"
        f"extract(ExtractConfig.model_validate_json({config.model_dump_json()!r}))\n"
    )
    receipts = Path(config.cache) / "receipts"

    for after in (1, 4):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        while len(list(receipts.glob("0*/zarr.json"))) < after:
            assert process.poll() is None, "the extraction ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = len(list(receipts.glob("0*/zarr.json")))
    report = extract(config)

    assert 4 <= finished < report.num_shards
    assert report.num_written < report.num_samples
    assert verify(config.cache) == []
    torch.testing.assert_close(all_values(config.cache), all_values(whole.cache), rtol=0, atol=0)
    assert len(find_garbage(config.cache, include_recent=True)) <= 4


def test_two_extractions_at_once_make_one_sound_cache(config, tmp_path) -> None:
    code = (
        "from extractor import ExtractConfig, extract\n"
        f"extract(ExtractConfig.model_validate_json({config.model_dump_json()!r}))\n"
    )

    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]

    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    alone = config.model_copy(update={"cache": str(tmp_path / "alone")})
    extract(alone)
    assert verify(config.cache) == []
    assert find_garbage(config.cache, include_recent=True) == []
    torch.testing.assert_close(
        all_values(config.cache), all_values(alone.cache), rtol=1e-6, atol=1e-6
    )


def test_other_data_is_refused_by_name_and_the_cache_stays(config, tmp_path) -> None:
    extract(config)
    other = tmp_path / "other.csv"
    other.write_text("text,label\ngood film,pos\nbad film,neg\n")

    with pytest.raises(FingerprintMismatchError, match=r"data\."):
        extract(config.model_copy(update={"data": (str(other),)}))
    with pytest.raises(FingerprintMismatchError, match=r"features\.max_length: 8 here, 32 there"):
        extract(config.model_copy(update={"max_length": 8}))

    assert verify(config.cache) == []


def test_what_will_not_fit_is_refused_before_it_starts(config, monkeypatch) -> None:
    monkeypatch.setattr("cache_schema.storage.LocalStorage.free_bytes", lambda self: 1000)

    with pytest.raises(StorageError, match=r"needs 0\.\d\d MB, 0\.00 MB are free.*--max-length"):
        extract(config)

    assert not Path(config.cache).exists()


def test_values_too_large_for_float16_name_layer_row_and_flag(config, tiny_bert, tmp_path) -> None:
    folder = loud_bert(tiny_bert, tmp_path)
    loud = config.model_copy(update={"backbone": str(folder), "encoding": "float16"})

    # The state as the backbone gave it: in float16 it is infinite.
    expected = r"layer 2 .*row \d+.* of (99|1\d\d)\d+ is too large.*--encoding bfloat16"
    with pytest.raises(HiddenStateError, match=expected):
        extract(loud)
    extract(loud.model_copy(update={"encoding": "bfloat16"}))

    assert all_values(config.cache).float().max() > 9e4


def test_a_state_that_is_not_a_number_is_told_from_one_that_is_too_large(config, tiny_bert) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_bert / "model.safetensors")
    broken = dict(weights)
    broken["encoder.layer.1.output.LayerNorm.bias"] = torch.full_like(
        weights["encoder.layer.1.output.LayerNorm.bias"], torch.nan
    )
    folder = Path(config.cache).with_name("broken-bert")
    shutil.copytree(tiny_bert, folder)
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(HiddenStateError, match=r"layer 2 .*row \d+.*is not finite.*float32"):
        extract(config.model_copy(update={"backbone": str(folder)}))


def test_repair_writes_only_the_damaged_shard_again(config) -> None:
    extract(config)
    before = all_values(config.cache)
    chunk = sorted(Path(config.cache).glob("shards/000003-*/tokens/values/c/0/0/0"))[0]
    chunk.write_bytes(b"?" + chunk.read_bytes()[1:])
    others = {p for p in Path(config.cache).glob("shards/*") if "000003-" not in p.name}

    report = repair(config.cache)

    assert report is not None
    assert 0 < report.num_written < report.num_samples
    assert others <= set(Path(config.cache).glob("shards/*"))
    assert verify(config.cache) == []
    torch.testing.assert_close(all_values(config.cache), before, rtol=0, atol=0)
    assert repair(config.cache) is None


def test_repair_drops_nothing_before_it_can_be_made_again(config, reviews_csv, tmp_path) -> None:
    """A flipped byte costs one sample; its shard must not go while the data is elsewhere."""
    data = tmp_path / "moved.csv"
    shutil.copy(reviews_csv, data)
    config = config.model_copy(update={"data": (str(data),)})
    extract(config)
    chunk = sorted(Path(config.cache).glob("shards/000003-*/tokens/values/c/0/0/0"))[0]
    chunk.write_bytes(b"?" + chunk.read_bytes()[1:])
    data.rename(tmp_path / "elsewhere.csv")

    with pytest.raises(UserError, match=r"moved\.csv"):
        repair(config.cache)

    assert chunk.exists()
    (tmp_path / "elsewhere.csv").rename(data)
    assert repair(config.cache) is not None
    assert verify(config.cache) == []


def test_repair_finds_everything_from_another_folder(
    config, tiny_bert, reviews_csv, tmp_path, monkeypatch
) -> None:
    """All paths of the request may have been relative."""
    (tmp_path / "bert").symlink_to(tiny_bert)
    shutil.copy(reviews_csv, tmp_path / "data.csv")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    extract(config.model_copy(update={"backbone": "./bert", "data": ("data.csv",)}))
    chunk = sorted(Path(config.cache).glob("shards/000003-*/tokens/values/c/0/0/0"))[0]
    chunk.write_bytes(b"?" + chunk.read_bytes()[1:])
    monkeypatch.chdir(tmp_path / "other")

    assert repair(config.cache) is not None

    assert verify(config.cache) == []


def test_a_device_out_of_memory_gets_smaller_batches(config) -> None:
    from cache_schema import encoding
    from extractor import pipeline

    backbone = load_backbone(config.backbone_config, "cpu")
    prepared = backbone.prepare([{"text": f"good film {'very ' * n}"} for n in range(9)])
    sizes = []
    run = backbone.run

    def scarce(inputs, chosen, dtype):
        if len(chosen) > 3:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(chosen))
        return run(inputs, chosen, dtype)

    backbone.run = scarce
    inputs = pipeline.ShardInputs(0, np.arange(9), np.zeros(9), prepared, {})
    filled, batch_size = pipeline._run_shard(
        backbone, inputs, encoding("float32"), pipeline.Buffers(backbone.device), 8, lambda n: None
    )

    assert batch_size == 2
    assert sizes == [2, 2, 2, 2, 1]
    assert filled.streams["tokens"].parts[0].isfinite().all()


def test_an_interrupt_keeps_what_was_finished(config, monkeypatch) -> None:
    from extractor import pipeline

    run, calls = pipeline._run_shard, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_run_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(config)

    partial = FeatureCache.open(config.cache, allow_partial=True)
    assert len(partial.receipts) == 3
    assert extract(config).num_written < 48
    assert verify(config.cache) == []


def test_mistakes_are_user_errors(config, tmp_path) -> None:
    for change in ({"backbone": "brt-base"}, {"data": (str(tmp_path / "none.csv"),)}):
        with pytest.raises(UserError):
            extract(config.model_copy(update=change))
