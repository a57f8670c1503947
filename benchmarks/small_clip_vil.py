"""A small CLIP-ViL, trained in full on questions about images and saved as a backbone's folder.

Its words start from MiniLM's embeddings along their leading directions; image network and joint
transformer start at random. First all of it learns to see; then the image network is held, so that
what it sees is worked out once, and the rest learns to compare that with a question's words.

Q questions, B of a batch, T tokens of the longest, U images, S places of one, D width, A answers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
# At BERT's start of 0.02 words are as large as their positions and kinds. Then yes and no stayed at
# chance for 500 to 1,100 steps of the second part; at 0.08 and 0.12 they rose from step 300 on.
WORD_STD = 0.12


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    Most questions of easy-VQA are answered by yes or no, and mostly by the one that the question
    itself suggests: a network that does not see yet learns that and stays there. So while it learns
    to see, every answer is drawn equally often; afterwards every answer of a question is, and the
    text alone tells nothing.
    """

    steps_seeing: int = 160
    batch_size_seeing: int = 128
    of_one_image: int = 4
    steps_held: int = 2000
    batch_size_held: int = 64
    rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions as a network reads them.

    Attributes:
        images: (U, 3, H, W) uint8.
        image_of: (Q,) int64, number of a question's image.
        ids: (Q, T) int64 tokens, padded at the end.
        mask: (Q, T) int64, 1 where a token is real.
        answers: (Q,) int64, its answer's number.
    """

    images: Tensor
    image_of: Tensor
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
        # BERT's start of 0.02 suits its width; at this one it is a quarter of Xavier's.
        for module in self.network.bert.encoder.layer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        # So that places do not drown what is seen: torch draws them as large as the map's values.
        for places in self.network.bert.encoder.visual_pos.parameters():
            nn.init.normal_(places, std=0.02)
        start = leading(
            words["embeddings.word_embeddings.weight"], self.config.hidden_size, WORD_STD
        )
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
            torch.tensor([place[row["image"]] for row in rows]),
            tokens["input_ids"],
            tokens["attention_mask"],
            torch.tensor([self.answers.index(row["answer"]) for row in rows]),
        )

    def see(self, images: Tensor, mirror: Sequence[int] = ()) -> Tensor:
        """(U, S, D) of uint8 images; `mirror` are the axes along which they are turned around."""
        mean, std = self.config.image_mean[0], self.config.image_std[0]
        pixels = (images.flip(list(mirror)) / 255 - mean) / std
        places: Tensor = self.network.bert.encoder.see(pixels)
        return places

    def logits(self, data: Questions, chosen: Tensor, places_BSD: Tensor) -> Tensor:
        """(B, A): what the network's own forward pass and the head give, without its loops."""
        words = self.network.bert.embeddings(data.ids[chosen])
        states = torch.cat([words, places_BSD], 1)
        mask = nn.functional.pad(data.mask[chosen].bool(), (0, places_BSD.shape[1]), value=True)
        for layer in self.network.bert.encoder.layer:
            states = layer(states, mask[:, None, None])
        logits: Tensor = self.head(states[:, 0])
        return logits

    def train(self, data: Questions, held_out: Questions) -> float:
        """Both parts of the training; the accuracy on the held-out questions."""
        draw = np.random.default_rng(self.recipe.seed)
        parts = {
            "all weights": self._learn_to_see(data, draw),
            "image network held": self._compare(data, draw),
        }
        for name, part in parts.items():
            for said in part:
                found = self.accuracy(held_out)
                print(f"{name}, {said}, held out {found:.3f}", file=sys.stderr, flush=True)
        return self.accuracy(held_out)

    @torch.no_grad()
    def accuracy(self, data: Questions) -> float:
        """Share of questions that are answered."""
        was_training = self.network.training
        self.network.eval()
        seen, right = self._seen(data, ((),))[0], 0
        for chosen in torch.arange(len(data)).split(512):
            found = self.logits(data, chosen, seen[data.image_of[chosen]]).argmax(1)
            right += int((found == data.answers[chosen]).sum())
        self.network.train(was_training)
        return right / len(data)

    def _learn_to_see(self, data: Questions, draw: np.random.Generator) -> Iterator[str]:
        """Train all weights; a few questions of one image come together, which is seen once."""
        recipe, shares = self.recipe, _equal_answers(data, by_text=False)
        of_image = [np.flatnonzero(data.image_of == image) for image in range(len(data.images))]

        def step() -> Tensor:
            num_images = recipe.batch_size_seeing // recipe.of_one_image
            rows = []
            for image in data.image_of[draw.choice(len(data), num_images, p=shares)]:
                own = of_image[image]
                chances = shares[own] / shares[own].sum()
                rows.append(draw.choice(own, recipe.of_one_image, p=chances))
            chosen = torch.from_numpy(np.concatenate(rows))
            used, number = data.image_of[chosen].unique(return_inverse=True)
            mirror = [axis for axis in (2, 3) if draw.integers(2)]
            return self._loss(data, chosen, self.see(data.images[used], mirror)[number])

        self.network.train()
        parameters = [*self.network.parameters(), *self.head.parameters()]
        yield from self._steps(step, parameters, recipe.steps_seeing)

    def _compare(self, data: Questions, draw: np.random.Generator) -> Iterator[str]:
        """Train the joint transformer and the head on what the image network sees by now."""
        recipe, shares = self.recipe, _equal_answers(data, by_text=True)
        self.network.eval()  # its norms do not change; nothing else differs
        seen = self._seen(data, ((), (2,), (3,), (2, 3)))

        def step() -> Tensor:
            chosen = torch.from_numpy(draw.choice(len(data), recipe.batch_size_held, p=shares))
            turned = torch.from_numpy(draw.integers(len(seen), size=len(chosen)))
            return self._loss(data, chosen, seen[turned, data.image_of[chosen]])

        bert = self.network.bert
        joint = (*bert.embeddings.parameters(), *bert.encoder.layer.parameters())
        yield from self._steps(step, [*joint, *self.head.parameters()], recipe.steps_held)

    def _loss(self, data: Questions, chosen: Tensor, places_BSD: Tensor) -> Tensor:
        wanted = nn.functional.one_hot(data.answers[chosen], len(self.answers)).float()
        scale = float(len(self.answers))
        logits = self.logits(data, chosen, places_BSD)
        return soft_score_loss(logits, wanted, loss_scale=scale)

    def _steps(
        self, loss_of_step: Callable[[], Tensor], parameters: list[nn.Parameter], num_steps: int
    ) -> Iterator[str]:
        """Train, and tell about every hundred steps."""
        started, total = time.perf_counter(), 0.0
        rate = self.recipe.rate
        decay = self.recipe.weight_decay
        optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda at: min(1.0, (at + 1) / 50, 2.5 * (1 - at / num_steps))
        )
        for step in range(1, num_steps + 1):
            loss = loss_of_step()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 100 == 0 or step == num_steps:
                seconds = time.perf_counter() - started
                yield f"step {step}: loss {total / ((step - 1) % 100 + 1):.3f}, {seconds:.0f} s"
                total = 0.0

    @torch.no_grad()
    def _seen(self, data: Questions, mirrors: Sequence[Sequence[int]]) -> Tensor:
        """(mirrors, U, S, D): all images, turned around along these axes."""
        return torch.stack(
            [
                torch.cat([self.see(part, mirror) for part in data.images.split(64)])
                for mirror in mirrors
            ]
        )

    def save(self, folder: Path) -> Path:
        """A folder for `--backbone`, as `unipt convert` writes them."""
        state, head = self.network.state_dict(), self.head.state_dict()
        save_network(folder, self.config, state, head, self.tokenizer)
        return folder


def _equal_answers(data: Questions, *, by_text: bool) -> np.ndarray:
    """(Q,) chances to be drawn: each answer as often as the others, of all or of each text.

    By text, "is there a red shape?" is answered by yes as often as by no, and each text is drawn
    as often as it is in the data.
    """
    text_of = torch.zeros_like(data.answers)
    if by_text:
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
