"""From one vector for each token to one for each sample: packed rows and layout in, (B, E) out."""

from .base import Pooling
from .choose import PoolingName, RowReduction, build_pooling
from .frames import mean_of_frames
from .generalized import GeneralizedPooling, sinusoidal_table
from .reduce import first, last, mean
from .row_drop import keep_at_random, select_rows

__all__ = [
    "GeneralizedPooling",
    "Pooling",
    "PoolingName",
    "RowReduction",
    "build_pooling",
    "first",
    "keep_at_random",
    "last",
    "mean",
    "mean_of_frames",
    "select_rows",
    "sinusoidal_table",
]
