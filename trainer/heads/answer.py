"""The head that chooses an answer to a question about an image.

B questions, D width of the joint features, A answers.
"""

from __future__ import annotations

from torch import Tensor, nn

LAYER_NORM_EPS = 1e-12
"""As in BERT."""


class AnswerHead(nn.Module):
    """Scores every answer from the first token's features.

    Parameters carry the names of the authors' release (`pooler.dense.*`, `logit_fc.*`).

    Args:
        width: D.
        num_answers: A; 3,129 for VQA v2, 1,842 for GQA.

    Source: CLIP-ViL's pooler and answer layers. The pooler has no tanh there, unlike BERT's.
    """

    def __init__(self, width: int, num_answers: int) -> None:
        super().__init__()
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.logit_fc = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.LayerNorm(2 * width, eps=LAYER_NORM_EPS),
            nn.Linear(2 * width, num_answers),
        )
        self.apply(_start_like_bert)

    def forward(self, first_BD: Tensor) -> Tensor:
        """Logits (B, A) from each question's first token."""
        logits_BA: Tensor = self.logit_fc(self.pool(first_BD))
        return logits_BA

    def pool(self, first_BD: Tensor) -> Tensor:
        """The pooled question, (B, D)."""
        pooled_BD: Tensor = self.pooler["dense"](first_BD)
        return pooled_BD


def _start_like_bert(module: nn.Module) -> None:
    """Weights from N(0, 0.02), biases 0: how the authors start side network and head."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
