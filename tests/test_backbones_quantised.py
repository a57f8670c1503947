"""Backbones whose weights are rounded to 8 or 4 bits: real bitsandbytes, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packed_rows import sample_of
from tiny_library import save_tiny_decoder
from tiny_models import TEXTS, tiny_tokenizer

from cache_schema import FeatureCache
from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError
from extractor.backbones.quantised import check_sizes, loading_options, round_weights_only


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A Llama whose sizes are multiples of 64, as those of real ones are."""
    from transformers import LlamaConfig, LlamaModel

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = tiny_tokenizer("GPT2Tokenizer")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.05,
    )  # fmt: skip
    model = LlamaModel(config)
    for layer in model.layers:
        # A column that is large in some tokens: bitsandbytes treats it by the whole batch.
        layer.input_layernorm.weight.data[5] = 3.0
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("bits", "furthest"), [("8bit", 0.05), ("4bit", 0.3)])
def test_rounded_weights_change_states_a_little_and_samples_do_not_feel_their_batch(
    llama, bits, furthest
) -> None:
    whole, rounded = load(llama), load(llama, quantize=bits)
    prepared = whole.prepare([{"text": text} for text in TEXTS])

    exact = whole.run(prepared, [0, 1, 2, 3]).streams["tokens"]
    states = rounded.run(prepared, [0, 1, 2, 3]).streams["tokens"]
    again = load_backbone(BackboneConfig.from_spec(rounded.spec), "cpu")

    apart = (states.values - exact.values).norm() / exact.values.norm()
    assert 1e-4 < apart < furthest
    for sample in range(4):
        alone = rounded.run(prepared, [sample]).streams["tokens"].values
        # 4 bits are multiplied in bfloat16 where a CPU can.
        torch.testing.assert_close(alone, sample_of(states, sample), atol=0.05, rtol=0.02)
        if bits == "8bit":
            torch.testing.assert_close(alone, sample_of(states, sample), atol=1e-4, rtol=1e-4)
    assert again.identity == rounded.identity != whole.identity
    assert rounded.spec.options["quantize"] == bits


def test_large_values_of_one_sample_do_not_round_another(llama) -> None:
    """The library's own 8-bit products leave columns whole where any row of a batch is large."""
    rounded = transformers.AutoModel.from_pretrained(
        llama, **loading_options("a", "8bit", "float32", torch.device("cpu"))
    ).eval()
    layer = rounded.layers[0].mlp.gate_proj
    rows = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    rows[7, 5] = 50.0

    library = layer(rows)[:7] - layer(rows[:7])
    round_weights_only(rounded)
    ours = layer(rows)[:7] - layer(rows[:7])

    assert library.abs().max() > 1e-3
    torch.testing.assert_close(ours, torch.zeros_like(ours), atol=1e-5, rtol=0)


def test_rounding_fewer_bits_needs_a_device_that_can_and_says_so() -> None:
    with pytest.raises(BackboneError, match=r"quantize is '4bit', which needs a CUDA device or a"):
        loading_options("a", "4bit", "float32", torch.device("mps"))


def test_four_bits_of_odd_widths_are_refused_on_a_cpu_in_one_line(tmp_path) -> None:
    """Else bitsandbytes fails an assertion in the first batch, on some CPUs."""
    folder = save_tiny_decoder(tmp_path / "gpt2", "gpt2")

    with pytest.raises(
        BackboneError, match=r"16, 48 outputs, needed multiples of 64 inputs and 32"
    ):
        load(folder, quantize="4bit")


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (64, 32, None),
        (192, 96, None),
        (96, 32, "linear layers have 96 inputs, needed multiples of 64 inputs"),
        (32, 64, "linear layers have 32 inputs, needed"),
        (64, 48, "linear layers have 48 outputs, needed"),
        (96, 48, "linear layers have 96 inputs and 48 outputs, needed"),
    ],
)
def test_four_bits_on_a_cpu_need_sizes_that_the_library_can_pack(inputs, outputs, words) -> None:
    """96 inputs ended in `shape '[96, 1]' is invalid`; what passes is packed by the library."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(inputs, outputs, quant_type="nf4", compute_dtype=torch.float32).to("cpu")

    if words is None:
        check_sizes("a", torch.nn.Sequential(layer), torch.device("cpu"))
        _convert_weight_packed_for_cpu(layer.weight.data, layer.weight.quant_state)
    else:
        with pytest.raises(BackboneError, match=words):
            check_sizes("a", torch.nn.Sequential(layer), torch.device("cpu"))
        with pytest.raises((RuntimeError, AssertionError)):
            _convert_weight_packed_for_cpu(layer.weight.data, layer.weight.quant_state)


def test_quantised_weights_need_bitsandbytes_and_say_so(monkeypatch) -> None:
    from extractor.backbones import quantised

    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'unipt\[quantize\]'"):
        loading_options("a", "8bit", "float32", torch.device("cuda"))


def test_only_models_of_transformers_are_quantised() -> None:
    from extractor.backbones.kinds import KINDS, check_settings

    timm = next(kind for kind in KINDS if kind.name == "timm model")
    with pytest.raises(BackboneError, match="quantize is '8bit', which a timm model cannot be"):
        check_settings(timm, BackboneConfig(name="a", quantize="8bit"), "image")


def test_a_cache_of_rounded_weights_is_another_cache(
    llama, unipt_command, reviews_csv, tmp_path
) -> None:
    """From the command line, and it goes on only with the same weights."""
    same = ("extract", "--backbone", llama, "--data", reviews_csv, "--cache", tmp_path / "cache")

    made = unipt_command(*same, "--quantize", "8bit")
    other = unipt_command(*same)

    assert made.code == 0, made.err
    assert "bitsandbytes" not in made.err
    assert FeatureCache.open(tmp_path / "cache").manifest.identity.features["quantize"] == "8bit"
    assert other.code == 2
    assert "quantize" in other.err
