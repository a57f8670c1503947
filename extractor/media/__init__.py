"""Images, videos and regions: from files or encoded bytes to what a backbone reads."""

from .images import ImageSource, UnreadableMediaError, image_size, load_image, read_all
from .recipe import ImageRecipe, View
from .regions import RegionRecipe, Regions
from .videos import VideoSource, count_frames, read_frames, video_size
from .views import WordChange, draw_tokens, draw_view, drop_words, view_of

__all__ = [
    "ImageRecipe",
    "ImageSource",
    "RegionRecipe",
    "Regions",
    "UnreadableMediaError",
    "VideoSource",
    "View",
    "WordChange",
    "count_frames",
    "draw_tokens",
    "draw_view",
    "drop_words",
    "image_size",
    "load_image",
    "read_all",
    "read_frames",
    "video_size",
    "view_of",
]
