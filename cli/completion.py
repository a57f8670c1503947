"""What the shell offers after TAB: runs on every TAB, so it validates nothing."""

from __future__ import annotations

from pathlib import Path

# Written out, because the configs that define them take too long to import; a test compares.
NETWORKS = ("unipt", "lst", "probe", "mlp-probe", "weighted-sum")
TASKS = (
    "classification",
    "regression",
    "retrieval",
    "vqa",
    "grounding",
    "token-classification",
)


def networks() -> list[str]:
    """Names of the side networks."""
    return [*NETWORKS]


def tasks() -> list[str]:
    """Names of the tasks."""
    return [*TASKS]


def backbones() -> list[str]:
    """Aliases of known backbones."""
    from extractor import ALIASES

    return sorted(ALIASES)


def pipelines() -> list[tuple[str, str]]:
    """Names and descriptions of the pipelines at hand."""
    import yaml

    here = Path("pipelines.yaml")
    file = here if here.is_file() else Path(__file__).parents[1] / "pipelines.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return [(name, pipeline["description"]) for name, pipeline in found.items()]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return []
