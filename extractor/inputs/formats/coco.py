"""COCO's images, named after folder and number: train2014/COCO_train2014_000000000009.jpg."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import DataError
from .folder import media_folder

_PLACES = (
    "", "images", "mscoco", "coco", "coco/images", "coco2014", "coco2014/images", "data/mscoco",
    "Images/mscoco",
)  # fmt: skip
_NAME = re.compile(r"COCO_(\w+?)_\d{12}")


class CocoImages:
    """Where the images of each of COCO's folders lie below a root, found on first use."""

    def __init__(self, what: str, root: Path) -> None:
        self._what, self._root = what, root
        self._folders: dict[str, Path] = {}

    def path(self, folder: str, file_name: str) -> str:
        """Absolute path of a file of `train2014`, `val2014` or `test2015`.

        Raises:
            DataNotFoundError: There is no such folder, or no image in it.
        """
        if folder not in self._folders:
            # LXMERT keeps questions and images in folders side by side: data/vqa, data/mscoco.
            beside = [f"../{place}/{folder}" for place in ("mscoco", "coco", ".")]
            places = [f"{place}/{folder}".strip("/") for place in _PLACES] + beside
            self._folders[folder] = self._find(places, file_name)
        return str(self._folders[folder] / file_name)

    def _find(self, places: list[str], file_name: str) -> Path:
        # The first image may be missing by itself; then a folder with any image is the one.
        there = [p for p in places if next((self._root / p).glob("*.jpg"), None) is not None]
        if there and not any((self._root / place / file_name).is_file() for place in there):
            return (self._root / there[0]).resolve()
        return media_folder(self._what, self._root, places, [file_name])

    def path_of_name(self, name: str) -> str:
        """Absolute path of `COCO_train2014_000000000009`.

        Raises:
            DataError: The name does not tell its folder.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"{self._root}: found the image {name!r}, needed a name like "
                "'COCO_train2014_000000000009'. Is it LXMERT's file for VQA?"
            )
        return self.path(match[1], f"{name}.jpg")

    def path_of_id(self, folder: str, image_id: str) -> str:
        """Absolute path of an image by its number."""
        return self.path(folder, f"COCO_{folder}_{int(image_id):012d}.jpg")
