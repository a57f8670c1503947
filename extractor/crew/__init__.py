"""Several processes that fill one cache: who starts them, and what is shown of it."""

from .dask import fill_on_dask
from .local import fill_with_workers

__all__ = ["fill_on_dask", "fill_with_workers"]
