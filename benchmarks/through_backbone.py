"""The usual ways to adapt a text encoder, all of which send gradients through it.

B texts of a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PROMPT_TOKENS = 20


@dataclass(frozen=True)
class Way:
    """One of them.

    Attributes:
        prepare: Makes the encoder trainable in its way; gives what is called instead of it.
        rates: Learning rates to choose from.
    """

    prepare: Callable[[Any], Any]
    rates: tuple[float, float]


class TextClassifier(nn.Module):
    """An encoder that is adapted in some way, the mean over tokens, and a linear head."""

    def __init__(self, folder: Path, way: Way, num_classes: int) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
        encoder.pooler = None
        self.encoder = way.prepare(encoder)
        self.head = nn.Linear(encoder.config.hidden_size, num_classes)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that get gradients."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, texts: list[str]) -> Tensor:
        """(B, classes) logits."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        mask_BT = inputs["attention_mask"]
        states_BTD = self.encoder(
            input_ids=inputs["input_ids"], attention_mask=mask_BT
        ).last_hidden_state[:, -mask_BT.shape[1] :]  # prompts come first
        weights_BT1 = mask_BT[..., None].float()
        logits: Tensor = self.head((states_BTD * weights_BT1).sum(1) / weights_BT1.sum(1))
        return logits


def full_tuning(encoder: Any) -> Any:
    """All parameters."""
    return encoder


def last_blocks(encoder: Any) -> Any:
    """The last two blocks; gradients stop below them."""
    encoder.requires_grad_(False)
    encoder.encoder.layer[-2:].requires_grad_(True)
    return encoder


def bitfit(encoder: Any) -> Any:
    """Biases alone (arXiv 2106.10199)."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return encoder


def lora(encoder: Any) -> Any:
    """Updates of rank 8 to queries and values (arXiv 2106.09685), by peft."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"])
    return get_peft_model(encoder, config)


def prompts(encoder: Any) -> Any:
    """Trained vectors before the words (arXiv 2104.08691), by peft."""
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=PROMPT_TOKENS)
    return get_peft_model(encoder, config)


def adapters(encoder: Any) -> Any:
    """A bottleneck of width 64 after both parts of every block (arXiv 1902.00751)."""
    encoder.requires_grad_(False)
    for block in encoder.encoder.layer:
        for part in (block.attention.output, block.output):
            part.dense = nn.Sequential(part.dense, Adapter(encoder.config.hidden_size, 64))
    return encoder


class Adapter(nn.Module):
    """Adds a bottleneck to what it is given; the identity at first."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Any shape with the width last."""
        moved: Tensor = states + self.up(nn.functional.gelu(self.down(states)))
        return moved


WAYS: Mapping[str, Way] = {
    "full tuning": Way(full_tuning, (2e-5, 5e-5)),
    "last two blocks": Way(last_blocks, (5e-5, 2e-4)),
    "adapters": Way(adapters, (5e-4, 1e-3)),
    "LoRA": Way(lora, (5e-4, 2e-3)),
    "BitFit": Way(bitfit, (1e-3, 3e-3)),
    "prompts": Way(prompts, (1e-2, 3e-2)),
}
