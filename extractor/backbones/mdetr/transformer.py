"""MDETR's transformer: an encoder over image and text, a decoder of queries.

B samples, S positions of the longest (image, then text), Q queries, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import MDETRConfig


def _attention(config: MDETRConfig) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(
        config.hidden_size, config.num_heads, dropout=config.dropout, batch_first=True
    )


def _attend(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
) -> Tensor:
    """What each query reads; `padding` is (B, keys), True where a key is none."""
    read: Tensor = attention(query, key, value, key_padding_mask=padding, need_weights=False)[0]
    return read


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part, each followed by a norm."""

    def __init__(self, config: MDETRConfig) -> None:
        super().__init__()
        self.self_attn = _attention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states_BSD: Tensor, places_BSD: Tensor, padding_BS: Tensor | None) -> Tensor:
        """(B, S, D); places are added to queries and keys in every layer."""
        placed = states_BSD + places_BSD
        read = _attend(self.self_attn, placed, placed, states_BSD, padding_BS)
        states = self.norm1(states_BSD + self.dropout(read))
        wide = self.dropout(self.linear1(states).relu())
        result: Tensor = self.norm2(states + self.dropout(self.linear2(wide)))
        return result


class DecoderLayer(nn.Module):
    """Self-attention of the queries, their look at image and text, a feed-forward part."""

    def __init__(self, config: MDETRConfig) -> None:
        super().__init__()
        self.self_attn = _attention(config)
        self.cross_attn_image = _attention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        # There is no norm2: it belonged to an attention that the released model does without.
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.norm3 = nn.LayerNorm(config.hidden_size)
        self.norm4 = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states_BQD: Tensor,
        queries_BQD: Tensor,
        memory_BSD: Tensor,
        placed_BSD: Tensor,
        padding_BS: Tensor | None,
    ) -> Tensor:
        """(B, Q, D); `placed_BSD` is the memory with its places added."""
        asked = states_BQD + queries_BQD
        read = _attend(self.self_attn, asked, asked, states_BQD, None)
        states = self.norm1(states_BQD + self.dropout(read))
        seen = _attend(
            self.cross_attn_image, states + queries_BQD, placed_BSD, memory_BSD, padding_BS
        )
        states = self.norm3(states + self.dropout(seen))
        wide = self.dropout(self.linear1(states).relu())
        result: Tensor = self.norm4(states + self.dropout(self.linear2(wide)))
        return result


class Encoder(nn.Module):
    """Layers over image and text."""

    def __init__(self, config: MDETRConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))

    def forward(
        self, source_BSD: Tensor, places_BSD: Tensor, padding_BS: Tensor | None
    ) -> list[Tensor]:
        """The source and the output of every layer, (B, S, D) each."""
        states = [source_BSD]
        for layer in self.layers:
            states.append(layer(states[-1], places_BSD, padding_BS))
        return states


class Decoder(nn.Module):
    """Layers of queries and a last norm."""

    def __init__(self, config: MDETRConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self,
        queries_BQD: Tensor,
        memory_BSD: Tensor,
        places_BSD: Tensor,
        padding_BS: Tensor | None,
    ) -> list[Tensor]:
        """The output of every layer, (B, Q, D) each; only the last one is normed."""
        placed = memory_BSD + places_BSD
        state, states = torch.zeros_like(queries_BQD), []
        for layer in self.layers:
            state = layer(state, queries_BQD, memory_BSD, placed, padding_BS)
            states.append(state)
        return [*states[:-1], self.norm(states[-1])]


class TextResizer(nn.Module):
    """Text states at the transformer's width."""

    def __init__(self, text_width: int, config: MDETRConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(text_width, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D)."""
        result: Tensor = self.dropout(self.layer_norm(self.fc(states)))
        return result


class Transformer(nn.Module):
    """The text encoder, and what reads it together with the image."""

    def __init__(self, config: MDETRConfig) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        make: Any = AutoModel.from_config
        settings = dict(config.text_config)
        text = AutoConfig.for_model(settings.pop("model_type", "roberta"), **settings)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.text_encoder = make(text, add_pooling_layer=False, dtype=torch.float32)
        self.resizer = TextResizer(int(text.hidden_size), config)
