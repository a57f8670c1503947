"""Decoders and encoder-decoders give the library's own states, whatever they are batched with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_rows import sample_of
from tiny_library import (
    DECODERS,
    ENCODER_DECODERS,
    save_tiny_decoder,
    save_tiny_encoder_decoder,
)
from tiny_models import TEXTS

from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError

SAMPLES = [{"text": text} for text in TEXTS]
PAIRS = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model of a family, made once per session."""
    root = tmp_path_factory.mktemp("language")

    def make(family: str) -> Path:
        folder = root / family
        save = save_tiny_decoder if family in DECODERS else save_tiny_encoder_decoder
        return folder if folder.exists() else save(folder, family)

    return make


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, str]]) -> dict[str, Any]:
    return backbone.run(backbone.prepare(samples), range(len(samples))).streams


def library(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_gives_each_text_as_if_it_were_alone(tiny, family) -> None:
    folder = tiny(family)
    model, tokenizer = library(folder)

    backbone = load(folder)
    stream, again = run(backbone, SAMPLES)["tokens"], run(backbone, SAMPLES)["tokens"]

    assert torch.equal(stream.values, again.values)
    for at, text in enumerate(TEXTS):
        with torch.no_grad():
            outputs = model(
                tokenizer(text, return_tensors="pt")["input_ids"],
                output_hidden_states=True,
                use_cache=False,
            )
        expected = torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=2)[0]
        torch.testing.assert_close(sample_of(stream, at), expected, **CLOSE)
    layers = backbone.streams[0].layers
    assert [layer.final_norm for layer in layers] == [False] * (len(layers) - 1) + [True]
    assert "norm" in layers[-1].module or "ln_f" in layers[-1].module


def test_a_text_without_tokens_has_no_states(tiny) -> None:
    """A decoder's tokenizer adds none of its own, so an empty text has none at all."""
    backbone = load(tiny("gpt2"))

    prepared = backbone.prepare([{"text": "a"}, {"text": ""}])

    assert dict(prepared.failures) == {1: "the text has no tokens"}
    assert prepared.lengths["tokens"].tolist() == [1, 0]


def test_the_rest_of_a_batch_comes_after_what_was_read_before(tiny) -> None:
    """States of a prefix are those of the whole: nothing of a decoder looks ahead."""
    backbone = load(tiny("llama"))
    whole, prefix = "Please read the old forms again", "Please read"

    streams = run(backbone, [{"text": whole}, {"text": prefix}])["tokens"]

    start = sample_of(streams, 1)
    torch.testing.assert_close(sample_of(streams, 0)[: len(start)], start, **CLOSE)


@pytest.mark.parametrize("samples", [SAMPLES, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_an_encoder_decoder_gives_both_stacks_as_if_alone(tiny, family, samples) -> None:
    folder = tiny(family)
    model, tokenizer = library(folder)
    start = model.config.decoder_start_token_id

    backbone = load(folder)
    streams, again = run(backbone, samples), run(backbone, samples)

    assert list(streams) == ["encoder", "decoder"]
    for at, sample in enumerate(samples):
        ids = tokenizer(sample["text"])["input_ids"]
        target = tokenizer(sample["text_pair"])["input_ids"] if "text_pair" in sample else ids
        begin = target[-1] if family == "mbart" else start
        decoder_ids = [begin, *target[:-1]]
        if family in ("t5", "mt5", "umt5") and "text_pair" not in sample:
            decoder_ids = [begin]
        with torch.no_grad():
            outputs = model(
                torch.tensor([ids]),
                decoder_input_ids=torch.tensor([decoder_ids]),
                output_hidden_states=True,
            )
        for name, states, last in (
            ("encoder", outputs.encoder_hidden_states, outputs.encoder_last_hidden_state),
            ("decoder", outputs.decoder_hidden_states, outputs.last_hidden_state),
        ):
            expected = torch.stack([*states[:-1], last], dim=2)[0]
            # T5's attention is not scaled: what batches round differently grows to 3e-5.
            torch.testing.assert_close(sample_of(streams[name], at), expected, atol=2e-4, rtol=2e-4)
            assert torch.equal(streams[name].values, again[name].values)
    has_norm = family != "bart"
    for stream in backbone.streams:
        norms = [layer.final_norm for layer in stream.layers]
        last = len(norms) - 1
        assert norms == ([False] * last + [True] if has_norm else [None] * (last + 1))
        assert all(layer.module.startswith(f"{stream.name}.") for layer in stream.layers)


def test_bart_reads_its_text_again_as_its_classification_head_does(tiny) -> None:
    from transformers import BartForSequenceClassification

    folder = tiny("bart")
    headed = BartForSequenceClassification.from_pretrained(folder, num_labels=2)
    _, tokenizer = library(folder)

    stream = run(load(folder), SAMPLES)["decoder"]

    inputs = tokenizer(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        outputs = headed(**inputs, output_hidden_states=True)
    expected = torch.stack(outputs.decoder_hidden_states, dim=2)[0]
    # The head's own config starts with another token than this tiny one's tokenizer.
    assert headed.config.decoder_start_token_id == tokenizer.pad_token_id
    torch.testing.assert_close(sample_of(stream, 1), expected, **CLOSE)


def test_a_length_too_short_for_a_model_without_a_limit_says_what_would_do(tiny) -> None:
    """T5 has no last position: `needed 4 to 2 tokens`."""
    with pytest.raises(BackboneError, match=r"max length is 2, needed at least \d tokens"):
        load(tiny("t5"), max_length=2)


def test_chosen_layers_are_kept_in_both_stacks_each_with_its_last(tiny) -> None:
    first = load(tiny("t5"), layers=(1,), max_length=20)

    again = load_backbone(BackboneConfig.from_spec(first.spec), "cpu")

    kept = [[layer.index for layer in stream.layers] for stream in first.streams]
    assert kept == [[1, 2], [1, 3]]
    assert again.identity == first.identity
    assert again.streams == first.streams


def test_a_family_that_is_not_listed_is_checked_while_it_loads(tiny, monkeypatch) -> None:
    """Here the check is made to fail: batches of Pegasus are run with a mask of ones."""
    from extractor.backbones.encoder_decoder import EncoderDecoderStates, Padded

    folder = tiny("pegasus")
    assert load(folder).spec.architecture == "PegasusModel"
    honest = EncoderDecoderStates.__call__

    def leaky(self, inputs):
        return honest(self, {name: Padded(given.ids, None) for name, given in inputs.items()})

    monkeypatch.setattr(EncoderDecoderStates, "__call__", leaky)
    with pytest.raises(UnsupportedBackboneError, match="change with the other samples"):
        load(folder)


def test_a_tokenizer_written_in_python_is_read_too(tiny, tmp_path) -> None:
    """ByT5's; SigLIP's is another one."""
    from transformers import ByT5Tokenizer, T5Config, T5Model

    ByT5Tokenizer(model_max_length=12).save_pretrained(tmp_path)
    config = T5Config(
        vocab_size=384, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5Model(config).save_pretrained(tmp_path)

    backbone = load(tmp_path)
    prepared = backbone.prepare([{"text": "short"}, {"text": "much longer than that"}])

    expected = [*(3 + byte for byte in b"much longer"), 1]
    assert prepared.inputs["token_ids"][1].tolist() == expected
    assert prepared.truncated.tolist() == [False, True]
    assert backbone.run(prepared, [0, 1]).streams["encoder"].layout.lengths.tolist() == [6, 12]
    with pytest.raises(BackboneError, match="written in Python and does not tell"):
        backbone.prepare([{"id": 0, "view": 1, "text": "a"}])


def test_a_family_that_does_not_read_texts_alone_is_refused_in_one_line(tmp_path) -> None:
    """transformers lists Whisper for language modelling, but it needs sound."""
    from tiny_library import _train
    from transformers import WhisperConfig, WhisperModel

    _train("GPT2Tokenizer").save_pretrained(tmp_path)
    config = WhisperConfig(
        vocab_size=300, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp_path)

    with pytest.raises(UnsupportedBackboneError, match="does not run on text alone"):
        load(tmp_path)
