"""The joint transformer: BERT's layers over words and places of an image.

B samples, T words of the longest text, S positions of the longest sample, D width, C of the map.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .config import ClipViLConfig

_EPS = 1e-12


class WordEmbeddings(nn.Module):
    """Word pieces, their places, and the kind of text, which is always the first."""

    def __init__(self, config: ClipViLConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_ids_BT: Tensor) -> Tensor:
        """(B, T, D)."""
        places = self.position_embeddings.weight[: token_ids_BT.shape[1]]
        words = self.word_embeddings(token_ids_BT) + self.token_type_embeddings.weight[0]
        result: Tensor = self.dropout(self.LayerNorm(words + places))
        return result


class ImageEmbeddings(nn.Module):
    """Rows of a map at the transformer's width."""

    def __init__(self, num_channels: int, config: ClipViLConfig) -> None:
        super().__init__()
        self.visn_fc = nn.Linear(num_channels, config.hidden_size)
        self.visn_layer_norm = nn.LayerNorm(config.hidden_size, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, rows_USC: Tensor) -> Tensor:
        """(U, S, D)."""
        result: Tensor = self.dropout(self.visn_layer_norm(self.visn_fc(rows_USC)))
        return result


class SelfAttention(nn.Module):
    """Queries, keys and values of BERT."""

    def __init__(self, config: ClipViLConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self._num_heads = config.num_heads
        self._dropout = config.dropout

    def forward(self, states_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """(B, S, D); the mask is True where a key is real."""
        query, key, value = (
            part(states_BSD).unflatten(-1, (self._num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        read = functional.scaled_dot_product_attention(
            query, key, value, mask_B11S, dropout_p=self._dropout if self.training else 0.0
        )
        return read.transpose(1, 2).flatten(2)


class AddAndNorm(nn.Module):
    """A linear map, added to what was there, and a norm."""

    def __init__(self, width_in: int, config: ClipViLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inner: Tensor, outer_BSD: Tensor) -> Tensor:
        """(B, S, D)."""
        result: Tensor = self.LayerNorm(self.dropout(self.dense(inner)) + outer_BSD)
        return result


class JointLayer(nn.Module):
    """One layer of BERT, under BERT's names."""

    def __init__(self, config: ClipViLConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(config), "output": AddAndNorm(config.hidden_size, config)}
        )
        self.intermediate = nn.ModuleDict(
            {"dense": nn.Linear(config.hidden_size, config.intermediate_size)}
        )
        self.output = AddAndNorm(config.intermediate_size, config)

    def forward(self, states_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """(B, S, D)."""
        read = self.attention["self"](states_BSD, mask_B11S)
        states = self.attention["output"](read, states_BSD)
        wide = functional.gelu(self.intermediate["dense"](states))
        result: Tensor = self.output(wide, states)
        return result
