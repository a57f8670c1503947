"""What every test may use: no network, one thread per library, a tiny real backbone, the CLI."""

from __future__ import annotations

import os

# Before torch and Hugging Face are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

VOCABULARY = (
    "the a an and of to is was not very film book plot actor scene story good bad great awful "
    "dull bright slow fast sad happy boring moving funny long short old new best worst loved "
    "hated it this that i we they"
)
WORDS = VOCABULARY.split()


@dataclass(frozen=True)
class Outcome:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def unipt_command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `unipt ARGUMENTS` in this process, through the same door as the console script."""
    from cli.app import main

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(int(left.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real BERT of 2 blocks and width 16, its tokenizer and safetensors weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("backbones") / "tiny-bert"
    folder.mkdir()
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    vocabulary = list(dict.fromkeys(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
        BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 short reviews with a `text` and a `label` column (pos, neg) that the words give away."""
    import random

    rng = random.Random(7)
    rows = ["text,label"]
    for row in range(48):
        label = ("pos", "neg")[row % 2]
        mood = ("good great best loved", "bad awful worst hated")[row % 2].split()
        words = rng.sample(WORDS, rng.randint(3, 9))
        words.insert(rng.randrange(len(words)), rng.choice(mood))
        rows.append(f"{' '.join(words)},{label}")
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
