"""Where words begin among tokens, and texts that come as lists of words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_library import save_tiny_dual, save_tiny_encoder_decoder
from tiny_models import save_tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers

import unipt
from extractor.backbones import BackboneConfig, BackboneError, load_backbone
from extractor.backbones.first_tokens import first_tokens
from extractor.inputs import BadRowError
from trainer.networks import IncompatibleNetworkError
from unipt.online import TextForm, sample_of


def byte_tokenizer() -> Tokenizer:
    """GPT-2's cutting with nothing learned: every byte is a token, spaces too."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def piece_tokenizer() -> Tokenizer:
    """T5's cutting into single characters, white space a piece of its own before each word."""
    pieces = [("<unk>", 0.0), *((piece, -2.0) for piece in "\u2581in24")]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


@pytest.mark.parametrize(
    ("tokenizer", "text", "rows"),
    [
        (byte_tokenizer(), "in 2004  x\ty\nz", [0, 3, 9, 11, 13]),
        (byte_tokenizer(), "  in ", [2]),
        # The piece of white space tells that it comes from the "2" and the "i" themselves.
        (piece_tokenizer(), "in 24", [1, 4]),
        # A word that is nothing but that piece has no other token.
        (piece_tokenizer(), "i \u2581", [1, 3]),
        (byte_tokenizer(), ["New York", "", " in"], [0, -1, 11]),
    ],
)
def test_a_word_begins_at_its_first_token_that_is_no_white_space(tokenizer, text, rows) -> None:
    """A decoder's token of the space before a number has not seen the number yet."""
    whole = text if isinstance(text, str) else " ".join(text)

    found = first_tokens(tokenizer.encode(whole), text)

    assert found.tolist() == rows


WORDS = [
    (["the dog", "sat"], ["B-ANIMAL", "O"]),
    (["the", "\u200b", "cat"], ["O", "O", "B-ANIMAL"]),  # BERT drops the one in the middle
    (["a", "mat"], ["O", "O"]),
    (["dog"], ["B-ANIMAL"]),
]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory) -> Path:
    """A folder with a tiny BERT, a file of listed words, its cache and a run."""
    folder = tmp_path_factory.mktemp("listed")
    save_tiny_model(folder / "bert", "bert")
    rows = [{"tokens": words, "ner_tags": tags} for words, tags in WORDS * 12]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    unipt.extract(
        str(folder / "bert"),
        folder / "train.jsonl",
        cache=folder / "cache",
        targets=("ner_tags",),
        align="words",
        device="cpu",
        encoding="float32",
    )
    unipt.fit(
        folder / "cache",
        run=folder / "run",
        epochs=10,
        batch_size=8,
        device="cpu",
        overrides=["optimizer.learning_rates=[0.02]"],
    )
    return folder


def test_a_list_of_words_is_one_text_with_a_row_for_each_entry(tagged) -> None:
    """Each word used to become a sample with the labels of its whole sentence."""
    cache = unipt.open_cache(tagged / "cache")

    rows = cache.input("first_tokens", np.arange(4))

    assert cache.num_samples == len(WORDS) * 12
    assert [row.tolist() for row in rows] == [[1, 5], [1, -1, 2], [1, 2], [1]]


def test_listed_words_are_predicted_alike_from_cache_file_and_python(tagged) -> None:
    cached = list(unipt.predict_cached(tagged / "run", tagged / "cache", "train", device="cpu"))

    of_file = list(unipt.predict(tagged / "run", tagged / "train.jsonl", device="cpu"))
    of_python = unipt.load(tagged / "run", device="cpu").predict([words for words, _ in WORDS])

    assert [row["labels"] for row in of_file] == [row["labels"] for row in cached]
    assert [row["labels"] for row in of_python] == [row["labels"] for row in cached[:4]]
    assert [row["labels"] for row in cached[:4]] == [
        ["B-ANIMAL", "O"],
        ["O", None, "B-ANIMAL"],
        ["O", "O"],
        ["B-ANIMAL"],
    ]


def test_a_list_is_a_text_of_words_and_a_tuple_a_pair(tagged) -> None:
    model = unipt.load(tagged / "run", device="cpu")
    needed = "needed a text or a list of its words, which the run was trained with"

    (row,) = model.predict([["the", "dog sat"]])

    assert len(row["labels"]) == 2
    with pytest.raises(unipt.UserError, match=rf"text 1: found .*{needed}"):
        model.predict([["the"], ["", " "]])
    with pytest.raises(unipt.UserError, match=rf"text 0: found .*{needed}"):
        model.predict([(["the", "dog sat"], "a mat")])
    pair = sample_of(0, (["the", "dog sat"], "a mat"), ("text",), TextForm(2, True))
    assert pair == {"id": 0, "text": ["the", "dog sat"], "text_pair": "a mat"}


def test_lists_that_hold_other_words_give_another_cache(tagged, tmp_path) -> None:
    """The joined text is the same, and the words are not."""
    joined = [{"tokens": [" ".join(words)], "ner_tags": tags} for words, tags in WORDS]
    apart = [{"tokens": words, "ner_tags": tags} for words, tags in WORDS]
    found = []
    for name, rows in (("joined", joined), ("apart", apart)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"targets": ("ner_tags",), "align": "words", "device": "cpu"}
        unipt.extract(str(tagged / "bert"), path, cache=tmp_path / name, **options)
        found.append(unipt.open_cache(tmp_path / name).manifest.identity.data["texts"])

    assert found[0] != found[1]


@pytest.mark.parametrize("words", [["", " "], [], ["dog", None]])
def test_a_list_without_a_word_is_refused_by_its_row(tagged, tmp_path, words) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"tokens": ["dog"], "tags": ["O"]}, {"tokens": words, "tags": ["O"] * len(words)}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(BadRowError, match="row 1 of split 'train'"):
        unipt.extract(str(tagged / "bert"), path, targets=("tags",), align="words", device="cpu")


def test_words_of_an_encoder_decoder_are_those_that_its_encoder_reads(tagged, tmp_path) -> None:
    """The flag used to be ignored, and fit to ask for it again."""
    save_tiny_encoder_decoder(tmp_path / "t5", "t5")
    options = {"targets": ("ner_tags",), "align": "words", "device": "cpu"}
    unipt.extract(str(tmp_path / "t5"), tagged / "train.jsonl", cache=tmp_path / "cache", **options)
    fast = {"epochs": 1, "device": "cpu"}

    for network in ("unipt", "lst", "mlp-probe"):
        report = unipt.fit(tmp_path / "cache", run=tmp_path / network, network=network, **fast)
        assert report.primary == "span_f1"
    (row,) = unipt.load(tmp_path / "unipt", device="cpu").predict([["the dog", "sat", "on"]])

    assert len(row["labels"]) == 3
    # A decoder's rows are not those of the words, also where they are equally many.
    with pytest.raises(IncompatibleNetworkError, match="needed those of 'encoder'"):
        unipt.fit(
            tmp_path / "cache",
            run=tmp_path / "other",
            overrides=["network.structure=encoder-decoder"],
            **fast,
        )


def test_aligned_words_change_no_hidden_state_of_an_encoder_decoder(tmp_path) -> None:
    save_tiny_encoder_decoder(tmp_path / "bart", "bart")
    samples = [{"text": "the dog sat on the mat"}, {"text": "a cat"}]

    states = []
    for align in ("none", "words"):
        backbone = load_backbone(BackboneConfig(name=str(tmp_path / "bart"), align=align), "cpu")
        states.append(backbone.run(backbone.prepare(samples), range(2)).streams)

    for name, stream in states[0].items():
        torch.testing.assert_close(stream.values, states[1][name].values, rtol=0, atol=0)


def test_words_are_not_aligned_by_backbones_without_rows_of_words(tmp_path) -> None:
    save_tiny_dual(tmp_path / "clip", "clip")
    config = BackboneConfig(name=str(tmp_path / "clip"), modality="text", align="words")

    with pytest.raises(BackboneError, match=r"align is 'words', .* this is a dual encoder"):
        load_backbone(config, "cpu")
