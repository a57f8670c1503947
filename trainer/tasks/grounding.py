"""Visual grounding: the box that an expression refers to.

B expressions, Q queries, T text tokens, C text positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy, generalized_iou, iou
from ..errors import ConfigError
from ..heads import head_tensors
from ..losses import GroundingTargets, GroundingWeights, grounding_losses, total_over_levels
from ..metrics import best_first, predicted_boxes
from ..networks import IncompatibleNetworkError
from ..pooling import PoolingName
from .base import ModelParts, Moment, TargetError, TargetReader, TaskOptions
from .grounding_model import GroundedBatch, GroundingModel
from .grounding_targets import BoxColumns

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from cache_schema import FeatureCache

_COUNTS = (1, 5, 10)


class GroundingConfig(TaskOptions):
    """Find the box that an expression refers to, as MDETR does.

    Besides the box, the cache holds the target `size`: height and width of the image in pixels.
    """

    usual_pooling: ClassVar[PoolingName | None] = None

    name: Literal["grounding"] = "grounding"
    target: str = Field("box", description="target of x, y, width and height in pixels")
    spans: str | None = Field(
        None,
        description="target of the characters where the phrases of the box begin and end; null: "
        "`spans` where the cache has it, else the whole expression",
    )
    text_stream: str = Field(
        "encoder", description="stream of the image grid's cells and then the text tokens"
    )
    soft_tokens: float = Field(1.0, ge=0, description="weight of the loss over text positions")
    l1: float = Field(5.0, ge=0, description="weight of the differences of box numbers")
    giou: float = Field(2.0, ge=0, description="weight of 1 - generalised IoU")
    alignment: float = Field(1.0, ge=0, description="weight of the contrastive alignment")
    num_positions: int = Field(255, gt=0, description="text positions of the soft tokens")
    contrastive_width: int = Field(64, gt=0, description="width of the contrastive space")
    head_weights: str | None = Field(
        None,
        description="safetensors file or checkpoint whose heads (class_embed, bbox_embed and "
        "both contrastive projections) training starts from; null: random",
    )
    overlap: Literal["giou", "iou"] = Field(
        "giou",
        description="what the metric compares with 0.5: generalised IoU as in the authors' code, "
        "or IoU as in most papers",
    )
    best_by: Literal["precision_at_1", "precision_at_5", "precision_at_10"] = Field(
        "precision_at_1", description="metric that picks the best checkpoint"
    )
    top: int = Field(5, gt=0, description="boxes of a prediction, best first")

    def learn(
        self, cache: FeatureCache, train: np.ndarray, others: Mapping[str, np.ndarray]
    ) -> GroundingTask:
        """Look at the columns; nothing of them is kept.

        Raises:
            CacheError: A column is not there.
            TargetError: A column does not suit, or there are augmented views, whose boxes are
                not those of the rows.
        """
        BoxColumns.of(cache, self.target, self.spans)
        moved = [spec.name for spec in cache.manifest.splits if spec.views > 1]
        if moved:
            raise TargetError(
                f"{cache.path}: {', '.join(map(repr, moved))} has augmented views, in which boxes "
                "lie elsewhere. Extract without --views."
            )
        return GroundingTask(config=self)

    def unlearnable(
        self, cache: FeatureCache, train: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """(held_out,) bool: none; any box can be found."""
        return np.zeros(len(held_out), dtype=bool)


class GroundingTask(TaskOptions):
    """Grounding; it has nothing to learn from its targets but the weights."""

    reads: ClassVar[tuple[str, ...]] = ("size",)

    name: Literal["grounding"] = "grounding"
    config: GroundingConfig

    @property
    def target(self) -> str:
        """The column it learns."""
        return self.config.target

    @property
    def primary(self) -> str:
        """The metric that picks the best checkpoint."""
        return self.config.best_by

    @property
    def higher_is_better(self) -> bool:
        """Always."""
        return True

    def make_model(self, parts: ModelParts) -> nn.Module:
        """MDETR's heads on the network's queries: a `GroundedBatch`.

        Raises:
            IncompatibleNetworkError: The text's stream is not there, or has no grid.
        """
        config = self.config
        text = {stream.name: stream for stream in parts.streams}.get(config.text_stream)
        if text is None or text.axes != ("height", "width"):
            found = {stream.name: list(stream.axes) for stream in parts.streams}
            raise IncompatibleNetworkError(
                f"task grounding: streams and their axes are {found!r}, needed "
                f"{config.text_stream!r} with height and width. Set task.text_stream, or extract "
                "with a backbone for grounding, such as MDETR."
            )
        return GroundingModel(
            parts, text.name, text.width, config.num_positions, config.contrastive_width
        )

    def start(self, model: nn.Module) -> None:
        """Copy the released heads, where they are named.

        Raises:
            ConfigError: They do not fit.
        """
        if self.config.head_weights is None:
            return
        assert isinstance(model, GroundingModel)
        start = model.head.state_dict()
        tensors = head_tensors(self.config.head_weights, start)
        for name, value in start.items():
            if tensors[name].shape != value.shape:
                raise ConfigError(
                    "task.head_weights",
                    [
                        f"{self.config.head_weights}: {name} is {list(tensors[name].shape)}, "
                        f"needed {list(value.shape)}. Set task.num_positions and "
                        "task.contrastive_width to those of the file"
                    ],
                )
        model.head.load_state_dict(tensors)

    def reader(self, cache: FeatureCache, samples: np.ndarray) -> TargetReader:
        """`box` (B, 4) in shares of the image, `size` (B, 2) in pixels, `words` (B, T) bool."""
        columns = BoxColumns.of(cache, self.config.target, self.config.spans)
        columns.check(samples)

        def read(chosen: np.ndarray) -> dict[str, Tensor]:
            return {
                "box": columns.boxes(chosen),
                "size": columns.sizes(chosen),
                "words": columns.words(chosen),
            }

        return read

    def facts(self, values: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Tensor]:
        """`size`: boxes are predicted in pixels of the image."""
        return {"size": torch.from_numpy(np.stack(list(values["size"]))).float()}

    def loss(self, output: GroundedBatch, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Soft tokens, boxes and alignment, of every decoder level the same."""
        wanted = self._targets(output, targets)
        levels = [
            grounding_losses(level, output.words, wanted, is_word_BT=output.is_word)
            for level in output.levels
        ]
        config = self.config
        weights = GroundingWeights(config.soft_tokens, config.l1, config.giou, config.alignment)
        return total_over_levels(levels, weights)

    def _targets(self, output: GroundedBatch, targets: Mapping[str, Tensor]) -> GroundingTargets:
        words_BT = targets["words"]
        if words_BT.shape != output.is_word.shape:
            raise TargetError(
                f"token_spans: the longest text of a batch has {words_BT.shape[1]} tokens, the "
                f"stream {self.config.text_stream!r} has {output.is_word.shape[1]} rows after the "
                "image grid. Extract again."
            )
        # The last column is "no object"; tokens past the positions have none of their own.
        kept_BC = words_BT[:, : self.config.num_positions]
        return GroundingTargets(
            boxes=targets["box"],
            image_of_box=torch.arange(len(words_BT), device=words_BT.device),
            soft_tokens=F.pad(kept_BC, (0, self.config.num_positions + 1 - kept_BC.shape[1])),
            words=words_BT,
        )

    def metrics(self) -> MetricCollection:
        """`precision_at_1`, `_5` and `_10`: share of expressions whose box is among the first."""
        from torchmetrics import MetricCollection

        from ..metrics.running import NamedPrecision

        overlap = generalized_iou if self.config.overlap == "giou" else iou
        return MetricCollection({"precision": NamedPrecision(_COUNTS, overlap=overlap)})

    def update_metrics(
        self, metrics: MetricCollection, output: GroundedBatch, targets: Mapping[str, Tensor]
    ) -> None:
        """Count one batch, in pixels."""
        sizes = targets["size"]
        scores_BQ, boxes_BQ4 = predicted_boxes(output.levels[-1], sizes)
        truth_B4 = cxcywh_to_xyxy(targets["box"]) * sizes.flip(1).repeat(1, 2)
        metrics.update(scores_BQ, boxes_BQ4, truth_B4)

    def predictions(self, output: GroundedBatch) -> dict[str, list[object]]:
        """`box` (two corners, in pixels) and `score`, and the same of the best few."""
        scores_BQ, boxes_BQ4 = predicted_boxes(output.levels[-1], output.sizes)
        order_BK = best_first(scores_BQ, boxes_BQ4)[:, : self.config.top]
        scores = scores_BQ.gather(1, order_BK).tolist()
        boxes = boxes_BQ4.gather(1, order_BK[..., None].expand(-1, -1, 4)).tolist()
        return {
            "box": [row[0] for row in boxes],
            "score": [row[0] for row in scores],
            "boxes": boxes,
            "scores": scores,
        }
