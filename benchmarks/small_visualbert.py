"""A small VisualBERT, trained in full on questions about images and saved as a backbone's folder.

A frozen ViT makes a grid of each image, which is what VisualBERT reads in place of a detector's
regions. Its words start from MiniLM's embeddings along their leading directions, the joint
transformer at random.

Q questions, T tokens of the longest, U images, R places of one, F features of each, A answers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from extractor import BackboneConfig, resolve_backbone
from extractor.media import load_image
from trainer.heads import AnswerHead

SIDE = 96  # pixels; six by six patches of 16
POOLED = 2  # of which two by two become one place
# At BERT's start of 0.02 words are as large as their positions and kinds.
WORD_STD = 0.12


@dataclass(frozen=True)
class Recipe:
    """How large, how long and how fast.

    Most questions of easy-VQA are answered by yes or no, and mostly by the one that the question
    itself suggests. So every answer of a question is drawn equally often, and the text alone tells
    nothing.
    """

    hidden_size: int = 128
    num_layers: int = 4
    steps: int = 1000
    batch_size: int = 128
    rate: float = 5e-4
    weight_decay: float = 1e-2
    seed: int = 0


class Grids:
    """Images as a frozen ViT sees them, each in a file that `--regions-column` can name."""

    def __init__(self, vit: Path, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._vit: Any = timm.create_model(f"local-dir:{vit}", pretrained=True, img_size=SIDE)
        self._vit.eval()
        found: Any = self._vit.pretrained_cfg
        self._mean = torch.tensor(found["mean"])[:, None, None]
        self._std = torch.tensor(found["std"])[:, None, None]

    @torch.no_grad()
    def write(self, images: Sequence[str]) -> list[str]:
        """One file for each image, with `features` (R, F)."""
        files: list[str] = []
        for start in range(0, len(images), 64):
            part = images[start : start + 64]
            patches_UPF = self._vit.forward_features(torch.stack([*map(self._pixels, part)]))
            across = SIDE // 16
            map_UFHW = patches_UPF[:, -across * across :].mT.unflatten(2, (across, across))
            places_URF = nn.functional.avg_pool2d(map_UFHW, POOLED).flatten(2).mT
            for features in places_URF.numpy():
                files.append(str(self._folder / f"{len(files):06}.npz"))
                np.savez(files[-1], features=features)
        return files

    def _pixels(self, image: str) -> Tensor:
        resized = load_image(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
        return (values - self._mean) / self._std


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions as a network reads them.

    Attributes:
        grids: (U, R, F) float32.
        grid_of: (Q,) int64, number of a question's image.
        ids: (Q, T) int64 tokens, padded at the end.
        mask: (Q, T) int64, 1 where a token is real.
        answers: (Q,) int64, its answer's number.
    """

    grids: Tensor
    grid_of: Tensor
    ids: Tensor
    mask: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.grid_of)


class Trainer:
    """The network with its head, and what a training step needs."""

    def __init__(self, answers: Sequence[str], recipe: Recipe) -> None:
        from transformers import AutoTokenizer

        self.recipe = recipe
        self.answers = tuple(answers)
        text = resolve_backbone(BackboneConfig(name="minilm"))
        load: Any = AutoTokenizer.from_pretrained
        self.tokenizer = load(text.folder)
        self._words: dict[str, Tensor] = {}
        for path in text.weights:
            self._words |= load_file(path)

    def read(self, rows: Sequence[dict[str, Any]]) -> Questions:
        """Tokens, grids and answers of rows whose answers are all known."""
        files = sorted({row["regions"] for row in rows})
        place = {file: number for number, file in enumerate(files)}
        tokens = self.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        return Questions(
            torch.stack([torch.from_numpy(np.load(file)["features"]) for file in files]),
            torch.tensor([place[row["regions"]] for row in rows]),
            tokens["input_ids"],
            tokens["attention_mask"],
            torch.tensor([self.answers.index(row["answer"]) for row in rows]),
        )

    def train(self, data: Questions, held_out: Questions) -> float:
        """Train all weights of a new network; the accuracy on the held-out questions."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        self._build(data)
        draw = np.random.default_rng(recipe.seed)
        shares = equal_answers(data)
        parameters = [*self.network.parameters(), *self.head.parameters()]
        optimizer = torch.optim.AdamW(
            parameters, recipe.rate, weight_decay=recipe.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda at: min(1.0, (at + 1) / 50, 2.5 * (1 - at / recipe.steps))
        )
        started, total = time.perf_counter(), 0.0
        for step in range(1, recipe.steps + 1):
            chosen = torch.from_numpy(draw.choice(len(data), recipe.batch_size, p=shares))
            loss = nn.functional.cross_entropy(self.logits(data, chosen), data.answers[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 100 == 0:
                print(
                    f"step {step}: loss {total / 100:.3f}, held out {self.accuracy(held_out):.3f}, "
                    f"{time.perf_counter() - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
                total = 0.0
        return self.accuracy(held_out)

    def logits(self, data: Questions, chosen: Tensor) -> Tensor:
        """(B, A) of B chosen questions, from the first token's last state."""
        grids = data.grids[data.grid_of[chosen]]
        there = torch.ones(grids.shape[:2], dtype=torch.int64)
        outputs = self.network(
            input_ids=data.ids[chosen],
            attention_mask=data.mask[chosen],
            visual_embeds=grids,
            visual_attention_mask=there,
            visual_token_type_ids=there,
        )
        logits: Tensor = self.head(outputs.last_hidden_state[:, 0])
        return logits

    @torch.no_grad()
    def accuracy(self, data: Questions) -> float:
        """Share of questions that are answered."""
        right = 0
        for chosen in torch.arange(len(data)).split(512):
            right += int((self.logits(data, chosen).argmax(1) == data.answers[chosen]).sum())
        return right / len(data)

    def save(self, folder: Path) -> None:
        """A folder for `--backbone`."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _build(self, data: Questions) -> None:
        from transformers import VisualBertConfig, VisualBertModel

        recipe = self.recipe
        words = self._words["embeddings.word_embeddings.weight"]
        self.network: Any = VisualBertModel(
            VisualBertConfig(
                vocab_size=len(words),
                hidden_size=recipe.hidden_size,
                num_hidden_layers=recipe.num_layers,
                num_attention_heads=4,
                intermediate_size=2 * recipe.hidden_size,
                max_position_embeddings=32,
                visual_embedding_dim=data.grids.shape[2],
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        self.head = AnswerHead(recipe.hidden_size, len(self.answers))
        embeddings = self.network.embeddings
        # BERT's start of 0.02 suits its width; at this one it is a quarter of Xavier's.
        for module in (*self.network.encoder.modules(), embeddings.visual_projection):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        # A ViT's features differ from place to place by little of their size: the projection starts
        # as one of features with mean 0 and deviation 1.
        mean_F, std_F = data.grids.mean((0, 1)), data.grids.std((0, 1))
        projection = embeddings.visual_projection
        with torch.no_grad():
            projection.weight /= std_F
            projection.bias.copy_(-projection.weight @ mean_F)
            embeddings.word_embeddings.weight.copy_(leading(words, recipe.hidden_size, WORD_STD))


def equal_answers(data: Questions) -> np.ndarray:
    """(Q,) chances to be drawn: each answer of a text as often as that text's others.

    "Is there a red shape?" is answered by yes as often as by no, and each text is drawn as often
    as it is in the data.
    """
    _, text_of = data.ids.unique(dim=0, return_inverse=True)
    counts_TA = torch.zeros(int(text_of.max()) + 1, int(data.answers.max()) + 1, dtype=torch.double)
    counts_TA.index_put_((text_of, data.answers), torch.ones(len(data)).double(), accumulate=True)
    of_answer = counts_TA.sum(1) / (counts_TA > 0).sum(1)
    shares = of_answer[text_of] / counts_TA[text_of, data.answers]
    return (shares / shares.sum()).numpy()


def leading(vectors: Tensor, width: int, std: float) -> Tensor:
    """Vectors along their leading directions, at this standard deviation."""
    centred = vectors - vectors.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]
    turned = centred @ directions
    scaled: Tensor = turned * (std / turned.std())
    return scaled
