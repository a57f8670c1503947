"""What maps a side network's output to a task: answers, boxes, unit embeddings."""

from .answer import AnswerHead
from .grounding import GroundingHeads, GroundingOutput
from .unit import scale_to_unit

__all__ = ["AnswerHead", "GroundingHeads", "GroundingOutput", "scale_to_unit"]
