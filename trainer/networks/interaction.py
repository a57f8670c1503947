"""How the anchor reads the guided layers, and how what was read is mixed.

B samples, T query tokens, S key tokens, G guided layers, R reduced width, H heads of width C.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .options import UniPTConfig
from .places import Places


class Mixed(NamedTuple):
    """What the interaction gives.

    Attributes:
        rows: (B, T, R), the guided layers, each read by the query, mixed by confidence.
        weights: (B, T, S, G), how much of each key each query reads, without the shortcut.
        logits: (B, G) float32, confidence before the softmax.
        confidence: (B, G) float32, summing to 1 over the layers.
    """

    rows: Tensor
    weights: Tensor
    logits: Tensor
    confidence: Tensor


def normalise_scores(scores: Tensor, dim: int, eps: float, rule: Literal["add", "clamp"]) -> Tensor:
    """Positive scores as weights that sum to 1, or to less where all scores are near `eps`.

    Source: UniPT, Eq. (1). The eps is not in the paper; the released systems add it or clamp at
    it, and differ in its size.
    """
    positive = scores.relu()
    norm = positive.sum(dim, keepdim=True)
    return positive / (norm + eps if rule == "add" else norm.clamp(min=eps))


def score_keys(queries_BTR: Tensor, keys_BSGR: Tensor) -> Tensor:
    """(B, T, S, G) products of every query with every key, in one matrix product."""
    scores = torch.bmm(queries_BTR, keys_BSGR.flatten(1, 2).transpose(1, 2))
    return scores.view(len(scores), -1, *keys_BSGR.shape[1:3])


def mix_keys(paths_BTSG: Tensor, keys_BSGR: Tensor) -> Tensor:
    """(B, T, R) sums of the keys of all layers, in one matrix product."""
    return torch.bmm(paths_BTSG.flatten(2), keys_BSGR.flatten(1, 2))


class ParallelInteraction(nn.Module):
    """All guided layers read at once and mixed: UniPT, Eq. (1) and (2) up to the feed-forward.

    All layers share the query, so they are read as one long sequence of S * G keys. The mean of a
    layer enters the confidence only through its product with the pooled anchor, so that product
    is one more query instead of a pass over all keys.
    """

    def __init__(self, config: UniPTConfig, num_layers: int, reduced: int) -> None:
        super().__init__()
        self.config = config
        self.num_layers = num_layers
        if config.confidence == "dynamic":
            self.gate = nn.Linear(reduced, 1, bias=config.bias)
        elif config.confidence == "static":
            self.gate_logits = nn.Parameter(torch.zeros(num_layers))
        if config.interaction == "multi-head":
            self.heads = HeadProjections(reduced, config.heads, bias=config.bias)

    def forward(self, query_BTR: Tensor, keys_BSGR: Tensor, queries: Places, keys: Places) -> Mixed:
        """Read and mix the keys, which are zeros at padded places, as is the query."""
        scores_BTSG, logits_BG = self._score(query_BTR, keys_BSGR, queries, keys)
        confidence_BG = logits_BG.softmax(dim=1)
        shares_B11G = confidence_BG[:, None, None].to(keys_BSGR)
        if self.config.interaction == "multi-head":
            rows_BTR, weights_BTSG = self.heads(query_BTR, keys_BSGR, keys, shares_B11G)
            paths_BTSG = self._shortcut(scores_BTSG, keys) * shares_B11G
            rows_BTR = rows_BTR + mix_keys(paths_BTSG, keys_BSGR)
        else:
            config = self.config
            weights_BTSG = normalise_scores(scores_BTSG, 2, config.eps, config.eps_rule)
            paths_BTSG = (weights_BTSG + self._shortcut(scores_BTSG, keys)) * shares_B11G
            rows_BTR = mix_keys(paths_BTSG, keys_BSGR)
        return Mixed(rows_BTR, weights_BTSG, logits_BG, confidence_BG)

    def _score(
        self, query_BTR: Tensor, keys_BSGR: Tensor, queries: Places, keys: Places
    ) -> tuple[Tensor, Tensor]:
        """Scores of the keys, zero where nothing is read by score, and logits of the layers."""
        num_queries = query_BTR.shape[1]
        guided = self.config.interaction == "guided"
        dynamic = self.config.confidence == "dynamic"
        readers = [query_BTR] if guided else []
        if dynamic:
            share_BT = queries.share(query_BTR.dtype)
            pooled_B1R = torch.bmm(share_BT[:, None], query_BTR)
            readers.append((pooled_B1R * self.gate.weight).to(query_BTR))
        read_BTSG = score_keys(torch.cat(readers, dim=1), keys_BSGR) if readers else None

        if read_BTSG is not None and dynamic:
            agreement_BSG = read_BTSG[:, -1].float()
            logits_BG = (agreement_BSG * keys.share(torch.float32)[..., None]).sum(dim=1)
            if self.gate.bias is not None:
                logits_BG = logits_BG + self.gate.bias
        elif self.config.confidence == "static":
            logits_BG = self.gate_logits.float().expand(len(query_BTR), -1)
        else:
            logits_BG = query_BTR.new_zeros(len(query_BTR), self.num_layers, dtype=torch.float32)

        if guided and read_BTSG is not None:
            scores_BTSG = read_BTSG[:, :num_queries]
        elif self.config.interaction == "self":
            scores_BTSG = torch.einsum("btgr,bsgr->btsg", keys_BSGR, keys_BSGR)
        else:
            scores_BTSG = keys_BSGR.new_zeros(
                len(query_BTR), num_queries, keys_BSGR.shape[1], self.num_layers
            )
        if keys.mask is not None:
            scores_BTSG = scores_BTSG * keys.readable()[:, None, :, None]
        return scores_BTSG, logits_BG

    def _shortcut(self, scores_BTSG: Tensor, keys: Places) -> Tensor:
        """(1 or B, T or 1, S, 1): 1 where a query adds a key whatever its score."""
        num_queries, num_keys = scores_BTSG.shape[1:3]
        kind = self.config.shortcut
        if kind == "identity":
            chosen = torch.eye(num_queries, num_keys, device=scores_BTSG.device)[None]
        elif kind == "last":
            chosen = keys.last()[:, None]
        else:
            chosen = torch.arange(num_keys, device=scores_BTSG.device)[None, None] == 0
            chosen = chosen & (kind == "first")
        return chosen[..., None].to(scores_BTSG)


class HeadProjections(nn.Module):
    """The ablation: each layer read by softmax attention with H heads, projections shared."""

    def __init__(self, reduced: int, num_heads: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(reduced, reduced, bias=bias)
        self.key = nn.Linear(reduced, reduced, bias=bias)
        self.value = nn.Linear(reduced, reduced, bias=bias)
        self.output = nn.Linear(reduced, reduced, bias=bias)

    def forward(
        self, query_BTR: Tensor, keys_BSGR: Tensor, keys: Places, shares_B11G: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T, R) what is read from all layers, and (B, T, S, G) weights averaged over heads."""
        query_BHTC = self._split(self.query(query_BTR))
        key_BHSGC = self._split(self.key(keys_BSGR).flatten(1, 2))
        value_BHSGC = self._split(self.value(keys_BSGR).flatten(1, 2))
        scale = query_BHTC.shape[-1] ** -0.5
        scores = (query_BHTC @ key_BHSGC.transpose(2, 3)) * scale
        scores_BHTSG = scores.view(*scores.shape[:3], *keys_BSGR.shape[1:3])
        hidden = ~keys.readable()[:, None, None, :, None]
        weights_BHTSG = scores_BHTSG.masked_fill(hidden, float("-inf")).softmax(dim=3)
        paths = (weights_BHTSG * shares_B11G[:, None]).to(value_BHSGC).flatten(3)
        read_BTR = (paths @ value_BHSGC).transpose(1, 2).flatten(2)
        return self.output(read_BTR), weights_BHTSG.mean(dim=1)

    def _split(self, rows: Tensor) -> Tensor:
        """(B, X, R) as (B, H, X, C)."""
        return rows.view(*rows.shape[:2], self.num_heads, -1).transpose(1, 2)
