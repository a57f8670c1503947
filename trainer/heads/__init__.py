"""What maps a side network's output to a task: answers, boxes, unit embeddings."""

from .answer import AnswerHead
from .grounding import GroundingHeads, GroundingOutput
from .released import head_tensors
from .unit import scale_to_unit

__all__ = ["AnswerHead", "GroundingHeads", "GroundingOutput", "head_tensors", "scale_to_unit"]
