"""From one vector for each token to one for each sample: packed rows and layout in, (B, E) out."""

from .choose import PoolingName, RowReduction, build_pooling
from .generalized import GeneralizedPooling, sinusoidal_table
from .reduce import first, last, mean

__all__ = [
    "GeneralizedPooling",
    "PoolingName",
    "RowReduction",
    "build_pooling",
    "first",
    "last",
    "mean",
    "sinusoidal_table",
]
