"""Finding the texts of an item and the item of a text: two side networks, one space.

B texts of a batch, I different items of them, E width of the space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..losses import symmetric_cross_entropy, triplet_loss, triplet_phase
from ..networks import NetworkConfig
from ..pooling import PoolingName
from .base import SETTLED, ModelParts, Moment, TargetError, TargetReader, TaskOptions
from .two_sides import Embeddings, SideEncoder, TwoSides, across_processes

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from cache_schema import PairedCache

_MARGIN = 0.2  # VSE-infinity's
_SCALE = 1 / 0.07  # where CLIP's learned scale starts


class RetrievalConfig(TaskOptions):
    """Bring each text close to its own image or video, and away from the others of the batch."""

    name: Literal["retrieval"] = "retrieval"
    key: str | None = Field(
        None,
        description="target of both caches that says which text belongs to which item; null: the "
        "only one they share",
    )
    loss: Literal["contrastive", "triplet"] = Field(
        "contrastive",
        description="contrastive: symmetric cross-entropy (CLIP4Clip); triplet: hinge loss, "
        "summed over the batch, with the hardest negatives from the second epoch on "
        "(VSE-infinity)",
    )
    margin: float = Field(_MARGIN, gt=0, description="of the triplet loss, in cosine")
    scale: float = Field(
        _SCALE, gt=0, description="what the contrastive loss multiplies cosines by (at the start)"
    )
    learn_scale: bool = Field(True, description="whether the scale is trained; at most 100")
    same_item: Literal["negative", "ignored"] = Field(
        "negative",
        description="what another text of the same item in a batch is in training: a negative, "
        "as in the paper's systems, or nothing",
    )
    width: int | None = Field(
        None,
        gt=0,
        description="width of the common space, to which a linear layer after the pooling maps "
        "each side; null: no such layer, but for the wider side where they differ",
    )
    text_network: NetworkConfig | None = Field(
        None, description="side network of the texts; null: settings as in `network`"
    )
    text_pooling: PoolingName | None = Field(
        None, description="how the rows of a text become one vector; null: as in `pooling`"
    )
    drop_rows: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of an item's rows (cells of an image grid) left out at random before "
        "the pooling in training; 0.2 in VSE-infinity",
    )
    protocol: Literal["vse-infinity", "clip4clip", "clip4clip-sentences"] = Field(
        "vse-infinity",
        description="how ranks are counted. vse-infinity: only larger scores come before; "
        "clip4clip: every place of a tie counts; clip4clip-sentences: items are ranked by the "
        "best of each item's texts (MSVD)",
    )
    folds: int = Field(
        1,
        gt=0,
        description="also evaluate this many equal parts of the items and average, as "
        "`folds_...`; 5 for the 1K test of COCO. Left out where the items do not divide",
    )
    best_by: Literal["rsum", "text_to_item_r1", "item_to_text_r1"] = Field(
        "rsum", description="metric that picks the best checkpoint"
    )

    @model_validator(mode="after")
    def _settings_of_the_loss(self) -> RetrievalConfig:
        """A setting of the other loss has no effect, so it is an error."""
        idle = {"margin": _MARGIN} if self.loss == "contrastive" else {"scale": _SCALE}
        if self.loss == "triplet":
            idle["learn_scale"] = True
        changed = [name for name, default in idle.items() if getattr(self, name) != default]
        if changed:
            raise ValueError(f"{', '.join(changed)}: no effect with loss {self.loss!r}")
        return self

    def learn(
        self, cache: PairedCache, train: np.ndarray, others: Mapping[str, np.ndarray]
    ) -> RetrievalTask:
        """Look at the pairs; nothing of them is kept.

        Args:
            cache: Items and texts.
            train: (n, 2) pairs that are trained on.
            others: Split name to its pairs.

        Raises:
            TargetError: All texts belong to one item.
        """
        if len(np.unique(train[:, 0])) < 2:
            raise TargetError(
                f"{cache.path}: all {len(train)} training texts belong to one item, needed at "
                "least two to tell apart."
            )
        return RetrievalTask(config=self, key=cache.key)

    def unlearnable(
        self, cache: PairedCache, train: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """(held_out,) bool: none; any pair can be found."""
        return np.zeros(len(held_out), dtype=bool)


class RetrievalTask(TaskOptions):
    """Retrieval with the key that joins items and texts."""

    name: Literal["retrieval"] = "retrieval"
    config: RetrievalConfig
    key: str | None = Field(description="target that joins both caches; null: one cache of pairs")

    @property
    def target(self) -> str:
        """The column that pairs come from."""
        return self.key or "sample"

    @property
    def primary(self) -> str:
        """The metric that picks the best checkpoint."""
        return self.config.best_by

    @property
    def higher_is_better(self) -> bool:
        """Always."""
        return True

    def make_model(self, parts: ModelParts) -> nn.Module:
        """Two side networks into one space: `PairedBatch` to `Embeddings`."""
        config, (items, texts) = self.config, parts.both_sides()
        width = config.width or min(items.network.out_width, texts.network.out_width)
        always = config.width is not None
        log_scale = math.log(config.scale) if config.loss == "contrastive" else 0.0
        return TwoSides(
            SideEncoder(items, width, parts.dropout, drop_rows=config.drop_rows, project=always),
            SideEncoder(texts, width, parts.dropout, project=always),
            log_scale,
            learn_scale=config.loss == "contrastive" and config.learn_scale,
        )

    def reader(self, cache: PairedCache, samples: np.ndarray) -> TargetReader:
        """There is no target but the pairs themselves."""
        return lambda _: {}

    def shared(self, output: Embeddings) -> Embeddings:
        """The pairs of all processes: each one's texts are negatives for the others' items."""
        return across_processes(output)

    def loss(self, output: Embeddings, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """The mean over the batch, or the sum of the triplet loss.

        Evaluations read all texts of an item side by side; there they never count as negatives.
        """
        config, index_B = self.config, output.item_of_text
        scores_BB = output.items.index_select(0, index_B) @ output.texts.T
        if config.loss == "contrastive":
            scores_BB = output.log_scale.exp() * scores_BB
        if config.same_item == "ignored" or moment == SETTLED:
            ids_B = output.item_ids.index_select(0, index_B)
            is_pair_BB = torch.eye(len(ids_B), dtype=torch.bool, device=ids_B.device)
            is_other_BB = (ids_B[:, None] == ids_B) & ~is_pair_BB
            scores_BB = scores_BB.masked_fill(is_other_BB, -math.inf)
        if config.loss == "contrastive":
            return symmetric_cross_entropy(scores_BB)
        phase = triplet_phase(moment.epoch, moment.step, moment.steps_per_epoch)
        return phase.factor * triplet_loss(scores_BB, margin=config.margin, hardest=phase.hardest)

    def metrics(self) -> MetricCollection:
        """Recalls at 1, 5 and 10 in percent, median and mean rank, both ways, and their sum."""
        from torchmetrics import Metric, MetricCollection

        from ..metrics.running import RetrievalRecall

        protocol, folds = self.config.protocol, self.config.folds
        recalls: dict[str, Metric | MetricCollection] = {"all": RetrievalRecall(protocol=protocol)}
        if folds > 1:
            recalls["folds"] = RetrievalRecall(folds, protocol, prefix="folds_", skip_uneven=True)
        return MetricCollection(recalls, compute_groups=False)

    def update_metrics(
        self, metrics: MetricCollection, output: Embeddings, targets: Mapping[str, Tensor]
    ) -> None:
        """Keep the embeddings of one batch, each item once."""
        text_item_ids = output.item_ids.index_select(0, output.item_of_text)
        metrics.update(output.items, output.texts, output.item_ids, text_item_ids)

    def predictions(self, output: Embeddings) -> dict[str, list[object]]:
        """`score`: the cosine of each text and its own item."""
        own_BE = output.items.index_select(0, output.item_of_text)
        return {"score": (own_BE * output.texts).sum(dim=1).tolist()}
