"""One label for each word of a text, read from the word's first token.

B texts, W words of the longest text, T tokens of the longest, N packed rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cache_schema import FeatureBatch

from ..metrics import are_span_labels
from ..networks import IncompatibleNetworkError
from ..pooling import PoolingName
from .base import ModelParts, Moment, TargetError, TargetReader, TaskOptions
from .classification import refuse_labels_outside
from .labels import Labels, label_names
from .word_labels import FIRST_TOKENS, NO_WORD, PADDING, WordLabels, padded

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from cache_schema import FeatureCache


class TokenClassificationConfig(TaskOptions):
    """Label every word: named entities, parts of speech and the like."""

    usual_pooling: ClassVar[PoolingName | None] = None

    name: Literal["token-classification"] = "token-classification"
    target: str = Field(description="target column: lists of labels, one for each word")
    best_by: Literal["accuracy", "macro_f1", "span_f1"] | None = Field(
        None,
        description="metric that picks the best checkpoint; null: span_f1 where labels mark spans "
        "(B-, I-, O), else accuracy",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target probability spread over all classes"
    )

    def learn(
        self, cache: FeatureCache, train: np.ndarray, others: Mapping[str, np.ndarray]
    ) -> TokenClassificationTask:
        """Find the classes.

        Raises:
            TargetError: The column is not made of lists of labels, has one class only, a label is
                seen only outside `train`, or `best_by` needs labels of spans.
        """
        column = WordLabels.of(cache, self.target).column
        codes = Labels.of(column, train).distinct
        classes = tuple(label_names(column, codes))
        if len(classes) < 2:
            raise TargetError(
                f"target {self.target!r}: found {len(classes)} class(es) in the training samples "
                f"({list(classes)}), needed at least 2 to tell apart."
            )
        if self.best_by == "span_f1" and not are_span_labels(classes):
            raise TargetError(
                f"task.best_by: is 'span_f1', but the labels {list(classes)} do not mark spans "
                "(O, B-type, I-type). Use accuracy or macro_f1."
            )
        refuse_labels_outside(column, codes, others)
        return TokenClassificationTask(config=self, classes=classes)

    def unlearnable(
        self, cache: FeatureCache, train: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """(held_out,) bool: texts with a label that no training text has."""
        column = WordLabels.of(cache, self.target).column
        return Labels.of(column, held_out).having_other_than(Labels.of(column, train).distinct)


@dataclass(frozen=True, eq=False)
class TokenLogits:
    """What the model says about every token of a batch.

    Attributes:
        logits: (B, T, C).
        first_tokens: (B, W) int64 row of each word's first token; -1 for a word that has none, -2
            past the last word.
    """

    logits: Tensor
    first_tokens: Tensor

    def of_words(self) -> Tensor:
        """(B, W, C); any numbers where a word has no token."""
        index_BWC = self.first_tokens.clamp(min=0)[..., None].expand(-1, -1, self.logits.shape[-1])
        return self.logits.gather(1, index_BWC)


class TokenModel(nn.Module):
    """Side network, and a linear layer on each of its rows.

    Words are those of the first stream: of an encoder-decoder, what the encoder reads.
    """

    def __init__(self, parts: ModelParts, num_classes: int) -> None:
        """Put a head on the network.

        Raises:
            IncompatibleNetworkError: The network gives one row for a whole text, or rows of
                another stream than that of the words.
        """
        super().__init__()
        if not parts.network.has_token_rows:
            raise IncompatibleNetworkError(
                "task token-classification: the network gives one row for each text, needed one "
                "for each token. Set network.structure to tokens, or choose another "
                "network.preset."
            )
        words = parts.streams[0].name
        if parts.network.row_stream != words:
            raise IncompatibleNetworkError(
                "task token-classification: the network gives rows of stream "
                f"{parts.network.row_stream!r}, needed those of {words!r}, at which words begin. "
                f"Let it read that one: --set 'network.streams=[\"{words}\"]' --set "
                f"network.structure=tokens (probes: --set network.stream={words})."
            )
        self.network = parts.network
        self.dropout = nn.Dropout(parts.dropout)
        self.head = nn.Linear(parts.network.out_width, num_classes)

    def forward(self, batch: FeatureBatch) -> TokenLogits:
        """Logits in float32."""
        features = self.network(batch)
        logits_NC = self.head(self.dropout(features.rows)).float()
        return TokenLogits(features.layout.pad(logits_NC), batch.targets[FIRST_TOKENS])


class TokenClassificationTask(TaskOptions):
    """Token classification with its classes."""

    reads: ClassVar[tuple[str, ...]] = (FIRST_TOKENS,)

    name: Literal["token-classification"] = "token-classification"
    config: TokenClassificationConfig
    classes: tuple[str, ...] = Field(description="class names in the order of the outputs")

    @property
    def target(self) -> str:
        """The column it learns."""
        return self.config.target

    @property
    def primary(self) -> str:
        """The metric that picks the best checkpoint."""
        usual = "span_f1" if are_span_labels(self.classes) else "accuracy"
        return self.config.best_by or usual

    @property
    def higher_is_better(self) -> bool:
        """Always."""
        return True

    def make_model(self, parts: ModelParts) -> nn.Module:
        """A linear layer on each token: `TokenLogits`."""
        return TokenModel(parts, len(self.classes))

    def reader(self, cache: FeatureCache, samples: np.ndarray) -> TargetReader:
        """(B, W) class numbers by *name*, -1 past the last word, and the words' first tokens."""
        words = WordLabels.of(cache, self.config.target)
        words.check(samples)
        codes = np.unique(words.labels(samples).values)
        names = label_names(words.column, codes)
        unknown = sorted({*names} - {*self.classes})
        if unknown:
            raise TargetError(
                f"target {self.target!r}: label {unknown[0]!r} is not among the classes of this "
                f"run {list(self.classes)!r}. Evaluate on data with its labels."
            )
        places = np.array([self.classes.index(name) for name in names], np.int64)

        def read(chosen: np.ndarray) -> dict[str, Tensor]:
            labels = words.labels(chosen)
            found = places[np.searchsorted(codes, labels.values)]
            rows = np.split(found, labels.offsets[1:-1])
            return {self.target: padded(rows, PADDING), FIRST_TOKENS: words.first_tokens(chosen)}

        return read

    def facts(self, values: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Tensor]:
        """The first token of each word."""
        return {FIRST_TOKENS: padded(values[FIRST_TOKENS], NO_WORD)}

    def loss(self, output: TokenLogits, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Mean cross-entropy over words that have a token; 0 for a batch without any."""
        truth_BW = targets[self.target].masked_fill(output.first_tokens < 0, PADDING)
        total = F.cross_entropy(
            output.of_words().flatten(0, 1),
            truth_BW.flatten(),
            ignore_index=PADDING,
            label_smoothing=self.config.label_smoothing,
            reduction="sum",
        )
        return total / (truth_BW != PADDING).sum().clamp(min=1)

    def metrics(self) -> MetricCollection:
        """Accuracy and F1 of words, and of spans where labels mark them."""
        from torchmetrics import MetricCollection

        from ..metrics.running_words import WordScores

        return MetricCollection({"words": WordScores(self.classes)})

    def update_metrics(
        self, metrics: MetricCollection, output: TokenLogits, targets: Mapping[str, Tensor]
    ) -> None:
        """Count one batch; a word without a token counts as wrong."""
        predicted_BW = output.of_words().argmax(dim=-1)
        metrics.update(
            predicted_BW.masked_fill(output.first_tokens < 0, PADDING), targets[self.target]
        )

    def predictions(self, output: TokenLogits) -> dict[str, list[object]]:
        """`labels` and `scores` (their probabilities), one for each word.

        None for a word that was cut off.
        """
        scores_BW, places_BW = output.of_words().softmax(dim=-1).max(dim=-1)
        labels: list[object] = []
        scores: list[object] = []
        rows = zip(
            output.first_tokens.tolist(), places_BW.tolist(), scores_BW.tolist(), strict=True
        )
        for tokens, places, chances in rows:
            words = [w for w in zip(tokens, places, chances, strict=True) if w[0] != NO_WORD]
            labels.append([None if t < 0 else self.classes[place] for t, place, _ in words])
            scores.append([None if t < 0 else chance for t, _, chance in words])
        return {"labels": labels, "scores": scores}
