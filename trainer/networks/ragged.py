"""The guided interaction on packed rows, sample by sample: the fast form for a CPU.

B samples, T query tokens and S key tokens of the longest sample, X readers (the queries, and the
gate before them), N packed key rows, G guided layers, R reduced width. Only the corner of a padded
(B, X, S, G) tensor that a sample fills is ever multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .base import wide


class Reading(NamedTuple):
    """What a sample-by-sample interaction is told besides its tensors.

    Attributes:
        num_queries: Query tokens of each sample.
        num_keys: Key tokens of each sample.
        dynamic: Whether each sample's first reader is the gate, whose mean scores are logits.
        eps: Guards the L1 norm.
        eps_rule: norm + eps, or max(norm, eps).
    """

    num_queries: Sequence[int]
    num_keys: Sequence[int]
    dynamic: bool
    eps: float
    eps_rule: Literal["add", "clamp"]

    def corners(self, padded_BXSG: Tensor, *, with_gate: bool) -> Iterator[Tensor]:
        """Each sample's (readers, keys * G) corner, as a view."""
        extra, num_layers = int(with_gate and self.dynamic), padded_BXSG.shape[3]
        flat = padded_BXSG.flatten(2)
        for sample, (queries, keys) in enumerate(zip(self.num_queries, self.num_keys, strict=True)):
            yield flat[sample, : queries + extra, : keys * num_layers]

    def key_rows(self, packed_NGR: Tensor) -> Iterator[Tensor]:
        """Each sample's (keys * G, R) rows, as a view."""
        num_layers = packed_NGR.shape[1]
        return iter(torch.split(packed_NGR.flatten(0, 1), [n * num_layers for n in self.num_keys]))

    def counts(self, like: Tensor) -> Tensor:
        """(B, 1) number of keys."""
        return like.new_tensor(self.num_keys)[:, None]


class Weighing(NamedTuple):
    """Scores made into weights, and what their gradient needs.

    Attributes:
        weights: (B, T, S, G).
        divisor: (B, T, 1, G), what the positive scores were divided by.
        logits: (B, G).
        shares: (B, 1, 1, G), the confidence.
    """

    weights: Tensor
    divisor: Tensor
    logits: Tensor
    shares: Tensor


class RaggedInteraction(torch.autograd.Function):
    """Scores, confidence and mixture with the gradient written out.

    One sample's keys are read from memory and then stay in the core's cache, no padding is
    multiplied, and both contributions to the keys' gradient meet in one place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        readers_BXR: Tensor,
        keys_NGR: Tensor,
        logits_BG: Tensor,
        shortcut_BTS1: Tensor,
        reading: Reading,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read and mix.

        Args:
            ctx: For the gradient.
            readers_BXR: The queries, after the gate where `reading.dynamic`.
            keys_NGR: Packed keys.
            logits_BG: (B, G), to which the gate's mean scores are added.
            shortcut_BTS1: (1 or B, T or 1, S, 1), what is added to the weights.
            reading: Lengths and options.

        Returns:
            (B, T, R) mixtures, zeros at padded places, and without gradient the (B, T, S, G)
            weights and the (B, G) logits.
        """
        num_samples, num_readers, width = readers_BXR.shape
        num_queries = num_readers - int(reading.dynamic)
        shape = (num_samples, num_readers, max(reading.num_keys), keys_NGR.shape[1])
        scores_BXSG = readers_BXR.new_zeros(shape)
        corners = reading.corners(scores_BXSG, with_gate=True)
        _score(readers_BXR, reading.key_rows(keys_NGR), corners)
        weighing = _weigh(scores_BXSG, logits_BG, reading)
        paths_BTSG = (weighing.weights + shortcut_BTS1) * weighing.shares
        mixed_BTR = keys_NGR.new_zeros(num_samples, num_queries, width)
        corners = reading.corners(paths_BTSG, with_gate=False)
        _mix(corners, reading.key_rows(keys_NGR), mixed_BTR)
        ctx.save_for_backward(readers_BXR, keys_NGR, shortcut_BTS1, *weighing)
        ctx.reading = reading
        ctx.mark_non_differentiable(weighing.weights, weighing.logits)
        return mixed_BTR, weighing.weights, weighing.logits

    @staticmethod
    def backward(
        ctx: Any, grad_BTR: Tensor, _weights: Tensor, _logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of the readers, the keys and the logits."""
        reading: Reading = ctx.reading
        readers_BXR, keys_NGR, shortcut_BTS1, *saved = ctx.saved_tensors
        weighing = Weighing(*saved)
        grad_paths_BTSG = torch.zeros_like(weighing.weights)
        corners = reading.corners(grad_paths_BTSG, with_gate=False)
        _score(grad_BTR, reading.key_rows(keys_NGR), corners)

        paths_BTSG = weighing.weights + shortcut_BTS1
        grad_logits_BG = _grad_of_logits(grad_paths_BTSG, paths_BTSG, weighing.shares)
        paths_BTSG.mul_(weighing.shares)
        grad_scores_BXSG = _grad_of_scores(
            grad_paths_BTSG.mul_(weighing.shares), grad_logits_BG, weighing, reading
        )
        grad_readers_BXR = torch.zeros_like(readers_BXR)
        corners = reading.corners(grad_scores_BXSG, with_gate=True)
        # Contiguous whatever the keys are: key_rows must give views to write into.
        grad_keys_NGR = torch.empty_like(keys_NGR, memory_format=torch.contiguous_format)
        blocks = zip(
            reading.key_rows(grad_keys_NGR),
            reading.key_rows(keys_NGR),
            reading.corners(paths_BTSG, with_gate=False),
            strict=True,
        )
        for sample, (grad_keys, keys, paths) in enumerate(blocks):
            grad_scores = next(corners)
            torch.mm(grad_scores, keys, out=grad_readers_BXR[sample, : len(grad_scores)])
            torch.mm(paths.T, grad_BTR[sample, : len(paths)], out=grad_keys)
            grad_keys.addmm_(grad_scores.T, readers_BXR[sample, : len(grad_scores)])
        return grad_readers_BXR, grad_keys_NGR, grad_logits_BG, None, None


def _score(readers_BXR: Tensor, key_rows: Iterator[Tensor], corners: Iterator[Tensor]) -> None:
    for readers, keys, scores in zip(readers_BXR, key_rows, corners, strict=True):
        torch.mm(readers[: len(scores)], keys.T, out=scores)


def _mix(corners: Iterator[Tensor], key_rows: Iterator[Tensor], mixed_BTR: Tensor) -> None:
    for paths, keys, mixed in zip(corners, key_rows, mixed_BTR, strict=True):
        torch.mm(paths, keys, out=mixed[: len(paths)])


def _weigh(scores_BXSG: Tensor, logits_BG: Tensor, reading: Reading) -> Weighing:
    gate = int(reading.dynamic)
    if reading.dynamic:
        total_BG = wide(scores_BXSG[:, 0]).sum(dim=1)
        logits_BG = logits_BG + total_BG / reading.counts(logits_BG)
    positive_BTSG = scores_BXSG[:, gate:].relu()
    norm_BT1G = positive_BTSG.sum(dim=2, keepdim=True)
    adds = reading.eps_rule == "add"
    divisor_BT1G = norm_BT1G + reading.eps if adds else norm_BT1G.clamp(min=reading.eps)
    shares_B11G = logits_BG.softmax(dim=1)[:, None, None].to(scores_BXSG)
    return Weighing(positive_BTSG / divisor_BT1G, divisor_BT1G, logits_BG, shares_B11G)


def _grad_of_logits(grad_paths_BTSG: Tensor, paths_BTSG: Tensor, shares_B11G: Tensor) -> Tensor:
    share_BG = wide(shares_B11G[:, 0, 0])
    grad_share_BG = wide(grad_paths_BTSG * paths_BTSG).sum(dim=(1, 2))
    mean_B1 = (grad_share_BG * share_BG).sum(dim=1, keepdim=True)
    return share_BG * (grad_share_BG - mean_B1)


def _grad_of_scores(
    grad_weights_BTSG: Tensor, grad_logits_BG: Tensor, weighing: Weighing, reading: Reading
) -> Tensor:
    """(B, X, S, G); overwrites the gradient of the weights."""
    weights_BTSG, divisor_BT1G = weighing.weights, weighing.divisor
    grad_norm_BT1G = (grad_weights_BTSG * weights_BTSG).sum(dim=2, keepdim=True)
    if reading.eps_rule == "clamp":
        grad_norm_BT1G = grad_norm_BT1G * (divisor_BT1G > reading.eps)
    grad_BTSG = grad_weights_BTSG.sub_(grad_norm_BT1G).div_(divisor_BT1G).mul_(weights_BTSG > 0)
    if not reading.dynamic:
        return grad_BTSG
    # Every key of a sample has the same part in the mean that is its logit.
    gate_BG = grad_logits_BG / reading.counts(grad_logits_BG)
    gate_B1SG = gate_BG[:, None, None].expand(-1, 1, weights_BTSG.shape[2], -1)
    return torch.cat([gate_B1SG.to(grad_BTSG), grad_BTSG], dim=1)
