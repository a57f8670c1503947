"""How the anchor reads the guided layers, and how what was read is mixed.

B samples, N packed query rows, M packed key rows, T query tokens, S key tokens, G guided layers,
R reduced width, X readers (the queries, and the gate before them), H heads of width C, K = S * G.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import wide
from .options import UniPTConfig
from .places import Places
from .ragged import RaggedInteraction, Reading

ALONE_FROM = 2**14
"""Numbers in a sample's keys from which a CPU reads samples one by one: below, the calls cost more
than the padding (measured with 2 to 12 layers, reduced widths of 32 to 512, 4 to 256 tokens)."""


class Mixed(NamedTuple):
    """What the interaction gives.

    Attributes:
        rows: (B, T, R), the guided layers, each read by the query, mixed by confidence.
        weights: (B, T, S, G), how much of each key each query reads, without the shortcut.
        logits: (B, G), confidence before the softmax.
        confidence: (B, G), summing to 1 over the layers.
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
    return scores.view(*queries_BTR.shape[:2], *keys_BSGR.shape[1:3])


def mix_keys(paths_BTSG: Tensor, keys_BSGR: Tensor) -> Tensor:
    """(B, T, R) sums of the keys of all layers, in one matrix product."""
    return torch.bmm(paths_BTSG.flatten(2), keys_BSGR.flatten(1, 2))


class ParallelInteraction(nn.Module):
    """All guided layers read at once and mixed: UniPT, Eq. (1) and (2) up to the feed-forward.

    All layers share the query, so they are read as one long sequence of S * G keys. The mean of a
    layer enters the confidence only through its product with the pooled anchor, so that product
    is one more query (the gate, before the others) instead of a pass over all keys.
    """

    def __init__(self, config: UniPTConfig, num_layers: int, reduced: int) -> None:
        super().__init__()
        self.config = config
        self.num_layers = num_layers
        self.dynamic = config.confidence == "dynamic"
        if self.dynamic:
            self.gate = nn.Linear(reduced, 1, bias=config.bias)
        elif config.confidence == "static":
            self.gate_logits = nn.Parameter(torch.zeros(num_layers))
        if config.interaction == "multi-head":
            self.heads = HeadProjections(reduced, config.heads, bias=config.bias)

    def forward(self, query_NR: Tensor, keys_MGR: Tensor, queries: Places, keys: Places) -> Mixed:
        """Read and mix packed keys with packed queries, of which only the wanted ones read."""
        query_BTR = queries.pad_wanted(query_NR)
        readers = [query_BTR] if self.config.interaction == "guided" else []
        if self.dynamic:
            share_BT = queries.share(query_NR.dtype)
            pooled_B1R = torch.bmm(share_BT[:, None], queries.pad(query_NR))
            readers.insert(0, (pooled_B1R * self.gate.weight).to(query_BTR))
        readers_BXR = torch.cat(readers, dim=1) if readers else query_BTR[:, :0]
        shortcut_BTS1 = self._shortcut(query_BTR, queries, keys)
        logits_BG = self._own_logits(query_BTR)
        if self._sample_by_sample(keys_MGR, keys):
            reading = Reading(
                queries.num_wanted().tolist(),
                keys.layout.lengths.tolist(),
                self.dynamic,
                self.config.eps,
                self.config.eps_rule,
            )
            # Not in bfloat16, where every pair of lengths needs a kernel that takes a millisecond
            # to compile: beside MiniLM's states a first epoch of SST-2 was a third as fast.
            rows_BTR, weights_BTSG, logits_BG = RaggedInteraction.apply(
                wide(readers_BXR), wide(keys_MGR), logits_BG, wide(shortcut_BTS1), reading
            )
            return Mixed(rows_BTR, weights_BTSG, logits_BG, logits_BG.softmax(dim=1))
        return self._padded(
            query_BTR, readers_BXR, keys.pad(keys_MGR), keys, logits_BG, shortcut_BTS1
        )

    def _sample_by_sample(self, keys_MGR: Tensor, keys: Places) -> bool:
        return (
            self.config.interaction == "guided"
            and keys_MGR.is_cpu
            and keys.mask is None
            and keys_MGR.numel() >= ALONE_FROM * keys.layout.num_samples
            and not torch.compiler.is_compiling()
        )

    def _own_logits(self, query_BTR: Tensor) -> Tensor:
        """(B, G) logits of the layers, as far as they do not depend on the sample."""
        logits_BG = wide(query_BTR.new_zeros(len(query_BTR), self.num_layers))
        if self.config.confidence == "static":
            return logits_BG + self.gate_logits
        return logits_BG + self.gate.bias if self.dynamic and self.config.bias else logits_BG

    def _padded(
        self,
        query_BTR: Tensor,
        readers_BXR: Tensor,
        keys_BSGR: Tensor,
        keys: Places,
        logits_BG: Tensor,
        shortcut_BTS1: Tensor,
    ) -> Mixed:
        scores_BXSG = score_keys(readers_BXR, keys_BSGR)
        if self.dynamic:
            agreement_BSG = wide(scores_BXSG[:, 0])
            share_BS1 = keys.share(agreement_BSG.dtype)[..., None]
            logits_BG = logits_BG + (agreement_BSG * share_BS1).sum(dim=1)
        confidence_BG = logits_BG.softmax(dim=1)
        shares_B11G = confidence_BG[:, None, None].to(keys_BSGR)
        if self.config.interaction == "multi-head":
            read_BTR, weights_BTSG = self.heads(query_BTR, keys_BSGR, keys, shares_B11G)
            rows_BTR = read_BTR + mix_keys(shortcut_BTS1 * shares_B11G, keys_BSGR)
            return Mixed(rows_BTR, weights_BTSG, logits_BG, confidence_BG)
        if self.config.interaction == "guided":
            scores_BTSG = scores_BXSG[:, int(self.dynamic) :]
        elif self.config.interaction == "self":
            scores_BTSG = torch.einsum("btgr,bsgr->btsg", keys_BSGR, keys_BSGR)
        else:
            scores_BTSG = keys_BSGR.new_zeros(*query_BTR.shape[:2], *keys_BSGR.shape[1:3])
        if keys.mask is not None:
            scores_BTSG = scores_BTSG * keys.readable()[:, None, :, None]
        weights_BTSG = normalise_scores(scores_BTSG, 2, self.config.eps, self.config.eps_rule)
        rows_BTR = mix_keys((weights_BTSG + shortcut_BTS1) * shares_B11G, keys_BSGR)
        return Mixed(rows_BTR, weights_BTSG, logits_BG, confidence_BG)

    def _shortcut(self, query_BTR: Tensor, queries: Places, keys: Places) -> Tensor:
        """(1 or B, T or 1, S, 1): 1 where a query adds a key whatever its score."""
        num_queries, num_keys = query_BTR.shape[1], keys.layout.max_length
        kind = self.config.shortcut
        if kind == "identity" and queries.kept is not None:
            steps_B = queries.kept - queries.layout.first_rows()
            chosen = F.one_hot(steps_B, num_keys)[:, None]
        elif kind == "identity":
            chosen = torch.eye(num_queries, num_keys, device=query_BTR.device)[None]
        elif kind == "last":
            chosen = keys.last()[:, None]
        else:
            chosen = torch.arange(num_keys, device=query_BTR.device)[None, None] == 0
            chosen = chosen & (kind == "first")
        return chosen[..., None].to(query_BTR)


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
        key_BHKC = self._split(self.key(keys_BSGR).flatten(1, 2))
        value_BHKC = self._split(self.value(keys_BSGR).flatten(1, 2))
        scale = query_BHTC.shape[-1] ** -0.5
        scores_BHTK = (query_BHTC @ key_BHKC.transpose(2, 3)) * scale
        scores_BHTSG = scores_BHTK.view(*scores_BHTK.shape[:3], *keys_BSGR.shape[1:3])
        hidden = ~keys.readable()[:, None, None, :, None]
        weights_BHTSG = scores_BHTSG.masked_fill(hidden, float("-inf")).softmax(dim=3)
        paths_BHTK = (weights_BHTSG * shares_B11G[:, None]).to(value_BHKC).flatten(3)
        read_BTR = (paths_BHTK @ value_BHKC).transpose(1, 2).flatten(2)
        return self.output(read_BTR), weights_BHTSG.mean(dim=1)

    def _split(self, rows: Tensor) -> Tensor:
        """(B, X, R) as (B, H, X, C)."""
        return rows.view(*rows.shape[:2], self.num_heads, -1).transpose(1, 2)
