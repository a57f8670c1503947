"""The model of visual grounding: a side network, its queries as boxes, and the text tokens.

B samples, Q queries, S rows of the longest sample, T text tokens of the longest text, D width of
the text's stream, E output width, H width of the contrastive space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamBatch

from ..heads import GroundingHeads, GroundingOutput
from ..networks import IncompatibleNetworkError
from .base import ModelParts


@dataclass(frozen=True, eq=False)
class GroundedBatch:
    """What the queries of a batch say, and the words that they may mean.

    Attributes:
        levels: Predictions of each decoder level, the one that counts last.
        words: (B, T, H), length 1.
        is_word: (B, T) bool, False for padding.
        sizes: (B, 2) height and width of each image in pixels; 1 where they are not known, so
            that boxes are shares of the image.
    """

    levels: tuple[GroundingOutput, ...]
    words: Tensor
    is_word: Tensor
    sizes: Tensor


class GroundingModel(nn.Module):
    """From the hidden states of an encoder and a decoder to boxes and words.

    Args:
        parts: Side network whose rows are the decoder's queries.
        text_stream: Stream of the encoder: the cells of the image grid, then the text tokens.
        text_width: D.
        num_positions: Text positions of the soft tokens.
        contrastive_width: H.
    """

    def __init__(
        self,
        parts: ModelParts,
        text_stream: str,
        text_width: int,
        num_positions: int,
        contrastive_width: int,
    ) -> None:
        super().__init__()
        self.network = parts.network
        self.dropout = nn.Dropout(parts.dropout)
        self.head = GroundingHeads(
            parts.network.out_width, num_positions, contrastive_width, text_width
        )
        self._text_stream = text_stream

    def forward(self, batch: FeatureBatch) -> GroundedBatch:
        """Predictions in float32: bfloat16 has too few digits for the corners of a box."""
        features = self.network(batch)
        layout = features.layout
        if not layout.is_dense:
            raise IncompatibleNetworkError(
                f"task grounding: the network gives {layout.lengths.min()} to {layout.max_length} "
                "rows per sample, needed the same queries for all. Set network.streams so that "
                "the decoder is last, or its preset to mdetr."
            )
        text_BTD, is_word_BT = text_rows(batch.streams[self._text_stream])
        rows = [self.dropout(layout.pad(level)) for level in (*features.levels, features.rows)]
        with torch.autocast(text_BTD.device.type, enabled=False):
            levels = tuple(self.head(level_BQE.float()) for level_BQE in rows)
            words_BTH = self.head.project_text(text_BTD.float())
        sizes = batch.targets.get("size")
        if sizes is None:
            sizes = words_BTH.new_ones(batch.num_samples, 2)
        return GroundedBatch(levels, words_BTH, is_word_BT, sizes)


def text_rows(stream: StreamBatch) -> tuple[Tensor, Tensor]:
    """The last layer's text tokens (B, T, D), and (B, T) bool which of them are real.

    The authors' contrastive projection reads the frozen encoder's own last layer, not what the
    side network makes of it; so the words do not change while it is trained, their projection
    does. Padded places repeat the sample's last token.
    """
    assert stream.grid is not None, "the task sees to it that the stream has a grid"
    lengths_B = stream.layout.lengths
    num_cells_B = stream.grid.prod(dim=1)
    num_words_B = lengths_B - num_cells_B
    steps_T = torch.arange(int(num_words_B.max()), device=lengths_B.device)
    is_word_BT = steps_T < num_words_B[:, None]
    rows_BT = (stream.layout.first_rows() + num_cells_B)[:, None] + steps_T
    rows_BT = rows_BT.minimum(stream.layout.last_rows()[:, None])
    return stream.values[:, -1][rows_BT], is_word_BT
