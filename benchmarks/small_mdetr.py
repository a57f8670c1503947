"""A small MDETR, trained in full on referring expressions and saved as a backbone's folder.

Its image network and its text encoder start from pretrained weights, as the released model's did;
everything else starts at random. First both are held, so that what they see is worked out once and
a pass over the data takes a second; then all weights are trained together.

B captions, K boxes of a batch, T text tokens of the longest caption, Q queries.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mosaics import Caption, Captions
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from extractor import BackboneConfig, resolve_backbone
from extractor.backbones.mdetr import MDETR, MDETRConfig
from extractor.backbones.mdetr.inputs import SpanTokenizer
from extractor.backbones.released import save_network
from trainer.boxes import cxcywh_to_xyxy, iou
from trainer.heads import GroundingHeads, GroundingOutput
from trainer.losses import (
    GroundingTargets,
    Matches,
    alignment_loss,
    grounding_losses,
    total_over_levels,
)
from trainer.metrics import best_first, predicted_boxes

NUM_POSITIONS = 40
PLACES_WEIGHT = 3.0
_TEXT_SIZES = (
    "model_type", "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How long and how fast; rates are the highest of their schedule."""

    epochs: int = 20
    epochs_together: int = 2
    batch_size: int = 32
    rate: float = 1e-3
    rate_together: float = 1e-4
    rate_pretrained: float = 3e-5
    weight_decay: float = 1e-4
    seed: int = 0


class Remembered(nn.Module):
    """A text encoder that is held: it reads every text once and remembers what it saw."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._states: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """As transformers' encoders; states of padding are 0."""
        lengths = attention_mask.sum(1).tolist()
        keys = [tuple(row[:n]) for row, n in zip(input_ids.tolist(), lengths, strict=True)]
        for key in dict.fromkeys(keys):
            if key not in self._states:
                states = self.encoder.eval()(input_ids=torch.tensor([key])).last_hidden_state
                self._states[key] = states[0]
        rows = pad_sequence([self._states[key] for key in keys], batch_first=True)
        return SimpleNamespace(last_hidden_state=rows)


@dataclass(frozen=True, eq=False)
class Read:
    """What a batch of captions gives: each level's predictions, places, words and their tokens.

    Places and words are in the contrastive space, (B, h * w, H) and (B, T, H).
    """

    levels: list[GroundingOutput]
    places: Tensor
    grid: tuple[int, int]
    words: Tensor
    is_word: Tensor
    token_spans: list[Tensor]

    def targets(self, captions: Sequence[Caption]) -> GroundingTargets:
        """Boxes, and the tokens that name each."""
        named = torch.zeros(sum(len(c.boxes) for c in captions), self.words.shape[1]).bool()
        owner = [at for at, caption in enumerate(captions) for _ in caption.boxes]
        spans = [span for caption in captions for span in caption.spans]
        for row, (at, (begin, end)) in enumerate(zip(owner, spans, strict=True)):
            start_T, stop_T = self.token_spans[at].T
            named[row, : len(start_T)] = (start_T >= begin) & (stop_T <= end) & (stop_T > start_T)
        soft_tokens = nn.functional.pad(named, (0, NUM_POSITIONS + 1 - named.shape[1]))
        boxes = torch.tensor([box for caption in captions for box in caption.boxes])
        return GroundingTargets(boxes, torch.tensor(owner), soft_tokens, named)

    def loss(self, captions: Sequence[Caption]) -> Tensor:
        """The released model's, and the alignment of the encoder's places with the words.

        A query is matched with a box by where it looks, long before it knows what the text is
        about, so that learning to compare words with photos takes a thousand times as many
        captions as there are here. The encoder is told by the boxes which places are meant.
        """
        targets = self.targets(captions)
        levels = [
            grounding_losses(level, self.words, targets, is_word_BT=self.is_word)
            for level in self.levels
        ]
        inside = Matches(*_places_inside(targets, self.grid))
        seen = alignment_loss(self.places, self.words, targets, inside, self.is_word)
        return total_over_levels(levels) + PLACES_WEIGHT * seen / len(targets.boxes)


def _places_inside(targets: GroundingTargets, grid: tuple[int, int]) -> tuple[Tensor, ...]:
    """Image, place and number of a box, for every place whose middle is in the box."""
    centre, half = targets.boxes[:, None, :2], targets.boxes[:, None, 2:] / 2
    y, x = (((torch.arange(size) + 0.5) / size) for size in grid)
    middles = torch.cartesian_prod(y, x).flip(1)
    boxes, places = ((middles - centre).abs() < half).all(2).nonzero(as_tuple=True)
    return targets.image_of_box[boxes], places, boxes


class Trainer:
    """The network with its heads, and their training."""

    def __init__(self, image_weights: Path, recipe: Recipe) -> None:
        text = resolve_backbone(BackboneConfig(name="minilm"))
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.text_folder = text.folder
        self.config = small_config(text.folder, image_weights)
        self.network = MDETR(self.config)
        self.heads = GroundingHeads(self.config.hidden_size, NUM_POSITIONS)
        for module in self.network.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0  # dropping its weights costs half of a training step
        self.tokenizer = SpanTokenizer(text.folder / "tokenizer.json", max_length=NUM_POSITIONS)
        body: Any = self.network.backbone[0].body
        fill(body, load_file(image_weights))
        words: dict[str, Tensor] = {}
        for path in text.weights:
            words |= load_file(path)
        fill(self.network.transformer.text_encoder, words)

    def read(self, images: Tensor, captions: Sequence[Caption]) -> Read:
        """Run the network; the levels before the last are normed for the heads, as DETR does."""
        tokens = self.tokenizer.tokenize([{"text": caption.text} for caption in captions])
        texts = range(len(captions))
        ids = [torch.from_numpy(tokens.token_ids[at].astype(np.int64)) for at in texts]
        mask_BT = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        used, number = np.unique([c.image for c in captions], return_inverse=True)
        states = self.network(
            [images[one] for one in used], pad_sequence(ids, batch_first=True), mask_BT, number
        )
        norm = self.network.transformer.decoder.norm
        decoder = [*(norm(level) for level in states.decoder[:-1]), states.decoder[-1]]
        height, width = states.grids[0].tolist()
        num_cells = height * width
        return Read(
            [self.heads(level) for level in decoder],
            self.heads(states.encoder[-1][:, :num_cells]).queries,
            (height, width),
            self.heads.project_text(states.encoder[-1][:, num_cells:]),
            mask_BT.bool(),
            [torch.from_numpy(tokens.token_spans[at].reshape(-1, 2)) for at in texts],
        )

    @torch.no_grad()
    def precision(self, images: Tensor, data: Captions) -> float:
        """Share of expressions whose best box overlaps the right one by half."""
        self.network.eval()
        hits = 0
        for start in range(0, len(data.single), 128):
            captions = data.single[start : start + 128]
            last = self.read(images, captions).levels[-1]
            scores_BQ, boxes_BQ4 = predicted_boxes(last, torch.ones(len(captions), 2))
            best = boxes_BQ4[torch.arange(len(captions)), best_first(scores_BQ, boxes_BQ4)[:, 0]]
            truth = cxcywh_to_xyxy(torch.tensor([caption.boxes[0] for caption in captions]))
            hits += int((iou(best, truth) >= 0.5).sum())
        return hits / len(data.single)

    def train(self, data: Captions, held_out: Captions) -> float:
        """Both parts of the training; the precision on the held-out expressions."""
        network, recipe = self.network, self.recipe
        body, encoder = network.backbone.eval(), network.transformer.text_encoder
        with torch.no_grad():
            maps, test_maps = (
                torch.cat([body(part) for part in source.images.split(16)])
                for source in (data, held_out)
            )
        network.backbone = nn.Sequential(nn.Identity())
        network.transformer.text_encoder = Remembered(encoder)
        for epoch, said in enumerate(self._epochs(maps, data, recipe.epochs, recipe.rate)):
            found = (
                f", held out {self.precision(test_maps, held_out):.3f}" if epoch % 5 == 4 else ""
            )
            print(f"image network held, {said}{found}", file=sys.stderr, flush=True)
        network.backbone, network.transformer.text_encoder = body, encoder
        for said in self._epochs(data.images, data, recipe.epochs_together, recipe.rate_together):
            print(f"all weights, {said}", file=sys.stderr, flush=True)
        return self.precision(held_out.images, held_out)

    def _epochs(self, images: Tensor, data: Captions, epochs: int, rate: float) -> Any:
        """Train, and tell about each epoch."""
        recipe, draw = self.recipe, np.random.default_rng(self.recipe.seed)
        groups = self._groups(rate)
        parameters = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        num_batches = -(-len(data.all) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in groups],
            total_steps=max(1, epochs * num_batches),
            pct_start=0.1,
        )
        for epoch in range(epochs):
            started, total = time.perf_counter(), 0.0
            self.network.train()
            self.network.backbone.eval()  # norms stay as pretrained, as in the released model
            for chosen in np.array_split(data.order(draw), num_batches):
                captions = [data.all[number] for number in chosen]
                loss = self.read(images, captions).loss(captions)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                total += loss.item() / num_batches
            seconds = time.perf_counter() - started
            yield f"epoch {epoch + 1}: loss {total:.3f}, {seconds:.1f} s"

    def _groups(self, rate: float) -> list[dict[str, Any]]:
        pretrained = [
            *self.network.backbone.parameters(),
            *self.network.transformer.text_encoder.parameters(),
        ]
        known = {id(parameter) for parameter in pretrained}
        rest = [p for p in self.network.parameters() if id(p) not in known]
        return [
            {"params": [*rest, *self.heads.parameters()], "lr": rate},
            {"params": pretrained, "lr": self.recipe.rate_pretrained},
        ]

    def save(self, folder: Path) -> Path:
        """A folder for `--backbone`, as `unipt convert` writes them."""
        from transformers import AutoTokenizer

        load: Any = AutoTokenizer.from_pretrained
        state, heads = self.network.state_dict(), self.heads.state_dict()
        save_network(folder, self.config, state, heads, load(self.text_folder))
        return folder


def small_config(text_folder: Path, image_weights: Path) -> MDETRConfig:
    """Three layers each of width 64, twelve queries, images of 192 pixels, two text layers."""
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(text_folder).to_dict()
    with safe_open(image_weights, "pt") as file:
        known = file.metadata()
    options = json.loads(known["model_kwargs"])
    mean, std = float(known["mean"]), float(known["std"])
    return MDETRConfig(
        backbone=f"timm_{known['arch']}",
        backbone_options={name: options[name] for name in options if name != "num_classes"},
        hidden_size=64,
        num_heads=4,
        num_encoder_layers=3,
        num_decoder_layers=3,
        intermediate_size=128,
        num_queries=12,
        image_size=192,
        max_image_size=192,
        image_mean=(mean, mean, mean),
        image_std=(std, std, std),
        text_config={**{name: text[name] for name in _TEXT_SIZES}, "num_hidden_layers": 2},
    )


def fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy pretrained weights; the source may have more than the module, never less."""
    own = module.state_dict()
    missing = [name for name in own if name not in state and "position_ids" not in name]
    assert not missing, missing
    module.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
