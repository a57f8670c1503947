"""A small CLIP-ViL, trained in full on questions about images and saved as a backbone's folder.

Its words start from MiniLM's embeddings along their leading directions; image network and joint
transformer start at random.

Q questions, T tokens of the longest, U images, A answers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from extractor import BackboneConfig, resolve_backbone
from extractor.backbones.clip_vil import ClipViL, ClipViLConfig
from extractor.backbones.clip_vil.inputs import LetterboxRecipe
from extractor.backbones.released import save_network
from trainer.heads import AnswerHead
from trainer.losses import soft_score_loss

SIDE = 64


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    In the first epochs every answer is drawn equally often. Most questions of easy-VQA are
    answered by yes or no, and a network that does not see yet learns from those what the text
    alone tells, and stays there.
    """

    epochs_balanced: int = 3
    epochs: int = 12
    batch_size: int = 128
    of_one_image: int = 4
    rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions as a network reads them.

    Attributes:
        images: (U, 3, H, W) uint8.
        image_of: (Q,) number of a question's image.
        ids: (Q, T) int64 tokens, padded at the end.
        mask: (Q, T) int64, 1 where a token is real.
        answers: (Q,) int64, its answer's number.
    """

    images: Tensor
    image_of: np.ndarray
    ids: Tensor
    mask: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.image_of)


class Trainer:
    """The network with its head, and what a training step needs."""

    def __init__(self, answers: Sequence[str], recipe: Recipe) -> None:
        from transformers import AutoTokenizer

        text = resolve_backbone(BackboneConfig(name="minilm"))
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.answers = tuple(answers)
        load: Any = AutoTokenizer.from_pretrained
        self.tokenizer = load(text.folder)
        self.config = ClipViLConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=128,
            num_layers=4,
            num_heads=4,
            intermediate_size=256,
            max_position_embeddings=32,
            dropout=0.0,
            visual_layers=(1, 1, 1, 1),
            visual_width=16,
            visual_positions=2,
            image_size=(SIDE, SIDE),
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
        )
        self.network = ClipViL(self.config)
        self.head = AnswerHead(self.config.hidden_size, len(answers))
        words: dict[str, Tensor] = {}
        for path in text.weights:
            words |= load_file(path)
        # So that places do not drown what is seen: torch draws them as large as the map's values.
        for places in self.network.bert.encoder.visual_pos.parameters():
            nn.init.normal_(places, std=0.02)
        start = leading(words["embeddings.word_embeddings.weight"], self.config.hidden_size)
        self.network.bert.embeddings.word_embeddings.weight.data.copy_(start)

    def read(self, rows: Sequence[dict[str, Any]]) -> Questions:
        """Tokens, pixels and answers of rows whose answers are all known."""
        paths = sorted({row["image"] for row in rows})
        recipe = LetterboxRecipe(*self.config.image_size)
        place = {path: number for number, path in enumerate(paths)}
        tokens = self.tokenizer(
            [row["text"] for row in rows], padding=True, return_tensors="pt", truncation=True,
            max_length=self.config.max_length,
        )  # fmt: skip
        return Questions(
            torch.stack([torch.from_numpy(recipe.pixels({}, path)) for path in paths]),
            np.array([place[row["image"]] for row in rows]),
            tokens["input_ids"],
            tokens["attention_mask"],
            torch.tensor([self.answers.index(row["answer"]) for row in rows]),
        )

    def logits(self, data: Questions, chosen: np.ndarray, mirror: Sequence[int] = ()) -> Tensor:
        """(B, A); `mirror` are the axes along which images are turned around."""
        used, number = np.unique(data.image_of[chosen], return_inverse=True)
        pixels = data.images[torch.from_numpy(used)].flip(list(mirror))
        mean, std = self.config.image_mean[0], self.config.image_std[0]
        mask = data.mask[torch.from_numpy(chosen)]
        ids = data.ids[torch.from_numpy(chosen)]
        states = self.network(list((pixels / 255 - mean) / std), ids, mask, number)
        logits: Tensor = self.head(states.tokens[-1][:, 0])
        return logits

    @torch.no_grad()
    def accuracy(self, data: Questions) -> float:
        """Share of questions that are answered."""
        self.network.eval()
        right = 0
        for chosen in np.array_split(np.arange(len(data)), -(-len(data) // 512)):
            found = self.logits(data, chosen).argmax(1)
            right += int((found == data.answers[torch.from_numpy(chosen)]).sum())
        return right / len(data)

    def train(self, data: Questions, held_out: Questions) -> float:
        """The whole training; the accuracy on the held-out questions."""
        recipe = self.recipe
        draw = np.random.default_rng(recipe.seed)
        parameters = [*self.network.parameters(), *self.head.parameters()]
        optimizer = torch.optim.AdamW(
            parameters, recipe.rate, weight_decay=recipe.weight_decay, fused=True
        )
        num_batches = -(-len(data) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.rate, total_steps=recipe.epochs * num_batches, pct_start=0.1
        )
        for epoch in range(recipe.epochs):
            started, total = time.perf_counter(), 0.0
            self.network.train()
            for chosen in self._batches(data, draw, balanced=epoch < recipe.epochs_balanced):
                mirror = [axis for axis in (2, 3) if draw.integers(2)]
                wanted = nn.functional.one_hot(
                    data.answers[torch.from_numpy(chosen)], len(self.answers)
                ).float()
                loss = soft_score_loss(
                    self.logits(data, chosen, mirror), wanted, loss_scale=float(len(self.answers))
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(chosen) / len(data)
            print(
                f"epoch {epoch + 1}: loss {total:.3f}, held out {self.accuracy(held_out):.3f}, "
                f"{time.perf_counter() - started:.1f} s",
                file=sys.stderr,
            )
        return self.accuracy(held_out)

    def _batches(
        self, data: Questions, draw: np.random.Generator, *, balanced: bool
    ) -> list[np.ndarray]:
        """An epoch; a few questions of one image come together, which is then seen once."""
        mixed = draw.permutation(len(data))
        if balanced:
            shares = 1 / data.answers.bincount(minlength=len(self.answers))[data.answers].double()
            mixed = draw.choice(len(data), len(data), p=(shares / shares.sum()).numpy())
        by_image = mixed[np.argsort(data.image_of[mixed], kind="stable")]
        groups = np.array_split(by_image, -(-len(data) // self.recipe.of_one_image))
        sequence = np.concatenate([groups[place] for place in draw.permutation(len(groups))])
        return np.array_split(sequence, -(-len(data) // self.recipe.batch_size))

    def save(self, folder: Path) -> Path:
        """A folder for `--backbone`, as `unipt convert` writes them."""
        state, head = self.network.state_dict(), self.head.state_dict()
        save_network(folder, self.config, state, head, self.tokenizer)
        return folder


def leading(vectors: Tensor, width: int) -> Tensor:
    """Vectors along their leading directions, as long as BERT's embeddings start: std 0.02."""
    centred = vectors - vectors.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]
    turned = centred @ directions
    return turned * (0.02 / turned.std())
