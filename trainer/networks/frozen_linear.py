"""Linear maps and norms of frozen layers on a CPU: one layer after the other, gradient included.

N packed rows, G layers, D backbone width, R reduced width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class FrozenLayersLinear(torch.autograd.Function):
    """Each layer through its own linear map and LayerNorm, with the gradient written out.

    A layer is brought from the stored to the computing dtype just before it is used, twice: the
    cast costs less than keeping a second, larger copy of all layers in memory. Its rows stay in
    the core's cache from the cast to the norm, and results go straight to where they belong.
    Hidden states are frozen, so they get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values_NGD: Tensor,
        weight_GRD: Tensor,
        bias_GR: Tensor | None,
        scale_GR: Tensor | None,
        shift_GR: Tensor | None,
        activate: bool,
        eps: float,
    ) -> Tensor:
        """(N, G, R) in the dtype of the weights.

        Args:
            ctx: For the gradient.
            values_NGD: Hidden states in any floating dtype.
            weight_GRD: Of the linear maps.
            bias_GR: Of the linear maps, or None.
            scale_GR: Of the norms; None for no norms.
            shift_GR: Of the norms; None for no norms.
            activate: ReLU on the hidden states first.
            eps: Of the norms.
        """
        num_rows, num_layers = values_NGD.shape[:2]
        reduced = weight_GRD.shape[1]
        rows_NGR = weight_GRD.new_empty(num_rows, num_layers, reduced)
        layer_ND = weight_GRD.new_empty(num_rows, values_NGD.shape[2])
        saved: list[Tensor] = []
        for layer in range(num_layers):
            _bring(values_NGD[:, layer], layer_ND, activate)
            mapped_NR = torch.mm(layer_ND, weight_GRD[layer].T)
            if bias_GR is not None:
                # Not in the product, which would write the bias first and read it again (an
                # eighth of the layer's time at BERT-base size).
                mapped_NR.add_(bias_GR[layer])
            if scale_GR is None or shift_GR is None:
                rows_NGR[:, layer] = mapped_NR
                continue
            normed_NR, mean, scale = torch.native_layer_norm(
                mapped_NR, (reduced,), scale_GR[layer], shift_GR[layer], eps
            )
            rows_NGR[:, layer] = normed_NR
            saved += [mapped_NR, mean, scale]
        ctx.save_for_backward(values_NGD, weight_GRD, scale_GR, shift_GR, *saved)
        ctx.has_bias, ctx.activate = bias_GR is not None, activate
        return rows_NGR

    @staticmethod
    def backward(ctx: Any, grad_NGR: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of weights, biases, scales and shifts."""
        values_NGD, weight_GRD, scale_GR, shift_GR, *saved = ctx.saved_tensors
        grad_weight_GRD = torch.empty_like(weight_GRD)
        grad_bias_GR = weight_GRD.new_empty(weight_GRD.shape[:2]) if ctx.has_bias else None
        grad_scale_GR = None if scale_GR is None else torch.empty_like(scale_GR)
        grad_shift_GR = None if shift_GR is None else torch.empty_like(shift_GR)
        layer_ND = weight_GRD.new_empty(len(values_NGD), values_NGD.shape[2])
        for layer in range(len(weight_GRD)):
            grad_NR = grad_NGR[:, layer]
            if grad_scale_GR is not None and grad_shift_GR is not None:
                mapped_NR, mean, scale = saved[3 * layer : 3 * layer + 3]
                grad_NR, grad_scale_GR[layer], grad_shift_GR[layer] = (
                    torch.ops.aten.native_layer_norm_backward(
                        grad_NR.contiguous(), mapped_NR, mapped_NR.shape[1:], mean, scale,
                        scale_GR[layer], shift_GR[layer], [True, True, True],
                    )
                )  # fmt: skip
            _bring(values_NGD[:, layer], layer_ND, ctx.activate)
            torch.mm(grad_NR.T, layer_ND, out=grad_weight_GRD[layer])
            if grad_bias_GR is not None:
                torch.sum(grad_NR, dim=0, out=grad_bias_GR[layer])
        return None, grad_weight_GRD, grad_bias_GR, grad_scale_GR, grad_shift_GR, None, None


def _bring(values_ND: Tensor, layer_ND: Tensor, activate: bool) -> None:
    """One layer into the memory that all layers use in turn, so that it stays in the cache."""
    layer_ND.copy_(values_ND)
    if activate:
        layer_ND.relu_()
