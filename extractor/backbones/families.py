"""Where each family of text encoders keeps its embeddings, blocks and final norm.

Module paths are those of transformers 5 and name the module whose output a stored layer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cache_schema import LayerSpec


@dataclass(frozen=True)
class TextFamily:
    """One kind of encoder, by the `model_type` of its config.

    Attributes:
        blocks: Path of the list of blocks.
        embeddings: Paths of the module that feeds the first block; the first that exists counts.
        first_block: Path of the module that gives layer 1 where it is not the first block itself;
            used when it exists and is not None.
        final_norm: Path of the norm after the last block; None where the family has none.
        load_options: What its constructor takes to leave out parts that are never read.
    """

    blocks: str = "encoder.layer"
    embeddings: tuple[str, ...] = ("embeddings",)
    first_block: str | None = None
    final_norm: str | None = None
    load_options: Mapping[str, bool] = field(default_factory=dict)


_NO_POOLER = {"add_pooling_layer": False}

FAMILIES: dict[str, TextFamily] = {
    "bert": TextFamily(load_options=_NO_POOLER),
    "roberta": TextFamily(load_options=_NO_POOLER),
    "xlm-roberta": TextFamily(load_options=_NO_POOLER),
    "distilbert": TextFamily(blocks="transformer.layer"),
    # Small ELECTRAs widen their embeddings before the first block.
    "electra": TextFamily(embeddings=("embeddings_project", "embeddings")),
    "mpnet": TextFamily(load_options=_NO_POOLER),
    # Some DeBERTas add a convolution of the embeddings to the output of the first block.
    "deberta-v2": TextFamily(first_block="encoder.conv"),
    "modernbert": TextFamily(blocks="layers", final_norm="final_norm"),
}


def describe_layers(
    family: TextFamily, modules: Mapping[str, object], num_blocks: int
) -> list[LayerSpec]:
    """Every layer of a model, embeddings first.

    Args:
        family: Its kind.
        modules: Its modules by dotted path.
        num_blocks: How many blocks it has.
    """
    embeddings = next(path for path in family.embeddings if path in modules)
    paths = [embeddings, *(f"{family.blocks}.{block}" for block in range(num_blocks))]
    if family.first_block is not None and family.first_block in modules:
        paths[1] = family.first_block
    if family.final_norm is not None:
        paths[-1] = family.final_norm
    return [
        LayerSpec(
            index=index,
            module=path,
            final_norm=None if family.final_norm is None else index == num_blocks,
        )
        for index, path in enumerate(paths)
    ]
