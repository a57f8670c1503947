"""UniPT as one would write it with the paper in hand: one layer after the other, padded tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PaddedLoop(nn.Module):
    """UniPT as released for VSE text on (B, T, D) tensors, one layer after the other."""

    def __init__(self, num_layers: int, width: int, reduced: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(nn.Linear(width, reduced), nn.LayerNorm(reduced))
            for _ in range(num_layers)
        )
        self.gate = nn.Linear(reduced, 1)
        self.project = nn.Sequential(nn.Linear(reduced, reduced), nn.LayerNorm(reduced))
        self.up = nn.Sequential(nn.ReLU(), nn.Linear(reduced, width))

    def forward(self, layers: list[Tensor], mask: Tensor) -> Tensor:
        """(B, T, D) hidden states of each layer and a (B, T) 0/1 mask to (B, T, D) features."""
        reduced = [down(hidden) for down, hidden in zip(self.down, layers, strict=True)]
        anchor, count = reduced[-1], mask.sum(1, keepdim=True)
        pooled_anchor = (anchor * mask[..., None]).sum(1) / count
        identity = torch.eye(mask.shape[1])
        merged, logits = [], []
        for guided in reduced[:-1]:
            scores = (anchor @ guided.transpose(1, 2)) * mask[:, None]
            positive = scores.relu()
            weights = positive / (positive.sum(2, keepdim=True) + 1e-8) + identity
            merged.append(weights @ guided)
            pooled = (guided * mask[..., None]).sum(1) / count
            logits.append(self.gate(pooled_anchor * pooled))
        confidence = torch.cat(logits, 1).softmax(1)
        mixed = sum(confidence[:, i, None, None] * layer for i, layer in enumerate(merged))
        upsampled: Tensor = self.up(anchor + self.project(mixed))
        return upsampled


def mean_of_tokens(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) features and a (B, T) 0/1 mask to (B, D)."""
    return (rows * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
