"""Images and videos: from files or encoded bytes to the pixels that a backbone reads."""

from .images import ImageSource, UnreadableMediaError, image_size, load_image, read_all
from .recipe import ImageRecipe, View

__all__ = [
    "ImageRecipe",
    "ImageSource",
    "UnreadableMediaError",
    "View",
    "image_size",
    "load_image",
    "read_all",
]
