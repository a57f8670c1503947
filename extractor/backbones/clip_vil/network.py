"""CLIP-ViL as a plain module with gradients: images and texts in, all hidden states out.

B samples, U images, T words of the longest text, S positions of the longest sample, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..shared_images import run_by_size
from .config import ClipViLConfig
from .joint import ImageEmbeddings, JointLayer, WordEmbeddings
from .visual import GridPositions, ModifiedResNet


@dataclass(frozen=True, eq=False)
class ClipViLStates:
    """Everything that a CLIP-ViL works out.

    Attributes:
        tokens: The input and every layer's output, (B, S, D) each: a text's tokens, then its
            image's places row by row, then padding.
        lengths: (B,) int64, real positions.
    """

    tokens: list[Tensor]
    lengths: Tensor


class Encoder(nn.Module):
    """The image network and the joint layers."""

    def __init__(self, config: ClipViLConfig) -> None:
        super().__init__()
        visual = ModifiedResNet(config.visual_layers, config.visual_width)
        self.visual_model = nn.ModuleDict({"visual": visual})
        self.visual_pos = GridPositions(config.visual_positions, visual.num_channels)
        self.visn_fc = ImageEmbeddings(visual.num_channels, config)
        self.layer = nn.ModuleList(JointLayer(config) for _ in range(config.num_layers))

    def see(self, images_U3HW: Tensor) -> Tensor:
        """Places of images of one size, (U, h * w, D)."""
        rows = self.visual_pos(self.visual_model["visual"](images_U3HW))
        result: Tensor = self.visn_fc(rows)
        return result


class Trunk(nn.Module):
    """Words and encoder, under the name that the checkpoints give them."""

    def __init__(self, config: ClipViLConfig) -> None:
        super().__init__()
        self.embeddings = WordEmbeddings(config)
        self.encoder = Encoder(config)


class ClipViL(nn.Module):
    """The network without pooler and answer head, which are trained.

    The released code runs its frozen parts in training mode, where BatchNorm mixes the images of a
    batch; in eval mode no sample changes with its batch.
    """

    def __init__(self, config: ClipViLConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Trunk(config)
        for module in (*self.bert.embeddings.modules(), *self.bert.encoder.layer.modules()):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)  # as BERT's
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        images: Sequence[Tensor],
        token_ids_BT: Tensor,
        token_mask_BT: Tensor,
        image_of: Sequence[int] | np.ndarray | None = None,
    ) -> ClipViLStates:
        """Run images, each with one text or more.

        Args:
            images: U normalised images (3, H, W), multiples of 32 pixels.
            token_ids_BT: int64, padded at the end.
            token_mask_BT: int64, 1 where a token is real.
            image_of: Number of the image that each text is about; None where it is its own.
        """
        numbers = range(len(images)) if image_of is None else image_of
        places = self.see(images)
        # Taken apart once: the gradient of an index is as large as the whole.
        texts = self.bert.embeddings(token_ids_BT).unbind()
        counts = token_mask_BT.sum(1).tolist()
        joint = [
            torch.cat([texts[sample][: counts[sample]], places[number]])
            for sample, number in enumerate(numbers)
        ]
        lengths = torch.tensor([len(rows) for rows in joint], device=texts[0].device)
        # Not pad_sequence, whose gradient copies the whole batch for each of its samples.
        longest = int(lengths.max())
        states = [torch.stack([pad(rows, (0, 0, 0, longest - len(rows))) for rows in joint])]
        mask_B11S = None
        if len({len(rows) for rows in joint}) > 1:
            steps = torch.arange(states[0].shape[1], device=lengths.device)
            mask_B11S = (steps < lengths[:, None])[:, None, None]
        for layer in self.bert.encoder.layer:
            states.append(layer(states[-1], mask_B11S))
        return ClipViLStates(states, lengths)

    def see(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Places of every image as rows (h * w, D); images of one size run together."""
        return run_by_size(images, self.bert.encoder.see)
