"""Files of a model on the Hugging Face hub, at a commit that is known afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import BackboneNotFoundError

# The heads are those of a converted checkpoint, for the trainer.
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "heads.safetensors"]


def download_model(hub_id: str, revision: str | None, *, with_code: bool) -> tuple[Path, str]:
    """Fetch a repository's config, tokenizer and safetensors files.

    What the local hub cache has is not fetched again, and is used when there is no network.

    Returns:
        The folder, and the commit it is.

    Raises:
        BackboneNotFoundError: There is no such repository or revision, it is not open to this
            user, or the hub cannot be reached and the cache does not have it.
    """
    try:
        folder = _download(hub_id, revision, [*_FILES, "*.py"] if with_code else _FILES)
    except Exception as error:
        whole = _whole_snapshot(error)
        problem = _problem(error, revision)
        if whole is None and problem is None:
            raise
        if whole is None:
            raise BackboneNotFoundError(f"{hub_id}: {problem}") from error
        folder = whole
    # The folder of a snapshot is named by its commit.
    return folder, folder.name


def _download(hub_id: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class PatientBar(tqdm):
        """Shown only in a terminal, and only if there is something to wait for."""

        def __init__(self, *args: Any, **options: Any) -> None:
            options |= {"disable": None, "delay": 1.0}
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    return Path(
        snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=files,
            ignore_patterns=["*/*"],
            tqdm_class=PatientBar,
        )
    )


def _whole_snapshot(error: Exception) -> Path | None:
    """The local snapshot that lacks files of the repository, but none that are needed."""
    path = getattr(error, "snapshot_path", None)
    if path is None or not (Path(path) / "config.json").is_file():
        return None
    return Path(path) if any(Path(path).glob("model*.safetensors")) else None


def _problem(error: Exception, revision: str | None) -> str | None:
    """What an error of the hub's client means to a user; None if it is none of the hub's."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated. Accept its terms on the hub and run `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"there is no revision {revision!r}. Name a branch, tag or commit it has."
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return "no such repository on the hub, or it is private. Check the name, or log in."
    # The client's HTTP library is another one in each of its major versions.
    is_network = type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests")
    if is_network or isinstance(error, errors.HfHubHTTPError | OSError):
        return (
            "the hub cannot be reached and the local hub cache does not have it. "
            "Connect once, or pass a local folder as --backbone."
        )
    return None
