"""MDETR as a plain module with gradients: images and texts in, all hidden states out.

B samples, U images, T text tokens of the longest, S positions of the longest, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..shared_images import run_by_size
from .config import MDETRConfig
from .images import ImageNetwork, sine_positions
from .transformer import Transformer


@dataclass(frozen=True, eq=False)
class MDETRStates:
    """Everything that an MDETR works out.

    Attributes:
        encoder: The input and every layer's output, (B, S, D) each: an image's places row by row,
            then its text's tokens, then padding.
        decoder: Every layer's output, (B, Q, D) each; the last one is normed.
        lengths: (B,) int64, real positions of the encoder.
        grids: (B, 2) int64, height and width of the image's part.
    """

    encoder: list[Tensor]
    decoder: list[Tensor]
    lengths: Tensor
    grids: Tensor


class MDETR(nn.Module):
    """The network without its heads, which are small and trained.

    Every image is seen as if it were alone: nothing is padded before the convolutions, so no
    sample changes with its batch.
    """

    def __init__(self, config: MDETRConfig) -> None:
        super().__init__()
        self.config = config
        images = ImageNetwork(config.backbone, config.backbone_options)
        self.backbone = nn.Sequential(images)
        self.input_proj = nn.Conv2d(images.num_channels, config.hidden_size, 1)
        self.transformer = Transformer(config)
        self.query_embed = nn.Embedding(config.num_queries, config.hidden_size)
        for parameter in (
            *self.transformer.encoder.parameters(),
            *self.transformer.decoder.parameters(),
        ):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        images: Sequence[Tensor],
        token_ids_BT: Tensor,
        token_mask_BT: Tensor,
        image_of: Sequence[int] | np.ndarray | None = None,
    ) -> MDETRStates:
        """Run images, each with one text or more.

        Args:
            images: U normalised images (3, H, W) of any sizes.
            token_ids_BT: int64, padded at the end.
            token_mask_BT: int64, 1 where a token is real.
            image_of: Number of the image that each text is about; None where it is its own.
        """
        numbers = range(len(images)) if image_of is None else image_of
        maps, grids = self.see(images)
        # Taken apart once: the gradient of an index is as large as the whole.
        texts = self.read(token_ids_BT, token_mask_BT).unbind()
        counts = token_mask_BT.sum(1).tolist()
        device, width = texts[0].device, self.config.hidden_size
        where = {grid: sine_positions(*grid, width, device).to(texts[0]) for grid in set(grids)}
        sources, places = [], []
        for sample, number in enumerate(numbers):
            words_TD = texts[sample][: counts[sample]]
            sources.append(torch.cat([maps[number], words_TD]))
            places.append(torch.cat([where[grids[number]], torch.zeros_like(words_TD)]))
        lengths = torch.tensor([len(source) for source in sources], device=device)
        source_BSD = pad_sequence(sources, batch_first=True)
        places_BSD = pad_sequence(places, batch_first=True)
        steps = torch.arange(source_BSD.shape[1], device=lengths.device)
        padding_BS = None
        if len({len(source) for source in sources}) > 1:
            padding_BS = steps >= lengths[:, None]
        encoder = self.transformer.encoder(source_BSD, places_BSD, padding_BS)
        queries_BQD = self.query_embed.weight.expand(len(sources), -1, -1)
        decoder = self.transformer.decoder(queries_BQD, encoder[-1], places_BSD, padding_BS)
        shapes = torch.tensor([grids[number] for number in numbers], device=lengths.device)
        return MDETRStates(encoder, decoder, lengths, shapes)

    def see(self, images: Sequence[Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Places of every image as rows (h * w, D), and (h, w); images of one size run together."""
        maps = run_by_size(images, lambda batch: self.input_proj(self.backbone(batch)))
        grids = [(map_Dhw.shape[1], map_Dhw.shape[2]) for map_Dhw in maps]
        return [map_Dhw.flatten(1).T for map_Dhw in maps], grids

    def read(self, token_ids_BT: Tensor, token_mask_BT: Tensor) -> Tensor:
        """Texts as (B, T, D)."""
        states = self.transformer.text_encoder(
            input_ids=token_ids_BT, attention_mask=token_mask_BT
        ).last_hidden_state
        resized: Tensor = self.transformer.resizer(states)
        return resized
