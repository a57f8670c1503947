"""Files of a model on the Hugging Face hub, at a commit that is known afterwards."""

from __future__ import annotations

from pathlib import Path

from .errors import BackboneNotFoundError

_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]


def download_model(hub_id: str, revision: str | None, *, with_code: bool) -> tuple[Path, str]:
    """Fetch a repository's config, tokenizer and safetensors files.

    What the local hub cache has is not fetched again, and is used when there is no network.

    Returns:
        The folder, and the commit it is.

    Raises:
        BackboneNotFoundError: There is no such repository or revision, it is not open to this
            user, or the hub cannot be reached and the cache does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=[*_FILES, "*.py"] if with_code else _FILES,
            ignore_patterns=["*/*"],
        )
    except GatedRepoError as error:
        problem = "the repository is gated. Accept its terms on the hub and run `hf auth login`."
        raise BackboneNotFoundError(f"{hub_id}: {problem}") from error
    except RevisionNotFoundError as error:
        problem = f"there is no revision {revision!r}. Name a branch, tag or commit it has."
        raise BackboneNotFoundError(f"{hub_id}: {problem}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        problem = "no such repository on the hub, or it is private. Check the name or log in."
        raise BackboneNotFoundError(f"{hub_id}: {problem}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BackboneNotFoundError(
            f"{hub_id}: the hub cannot be reached and the local hub cache does not have it. "
            "Connect once, or pass a local folder as --backbone."
        ) from error
    # The folder of a snapshot is named by its commit.
    return Path(folder), Path(folder).name
