"""The pages tell the truth: their code runs and prints what they show, their commands parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def fenced(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """Each fenced block in a language, and the `text` block right after it (or nothing)."""
    pattern = rf"^```{language}\n(.*?)^```\n(?:\s*^```text\n(.*?)^```$)?"
    for match in re.finditer(pattern, page.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1], match[2] or ""


@pytest.mark.parametrize(("page", "num_blocks"), [("tutorial.md", 6), ("retrieval.md", 2)])
def test_the_code_of_a_page_runs_and_prints_what_it_shows(
    page: str, num_blocks: int, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader who copies the page gets the page."""
    names: dict[str, object] = {}
    blocks = list(fenced(ROOT / "docs" / page, "python"))

    assert len(blocks) >= num_blocks
    for code, shown in blocks:
        exec(compile(code, f"docs/{page}", "exec"), names)
        assert capsys.readouterr().out == shown


def code_lines(page: Path) -> Iterator[str]:
    """Lines of fenced and of indented blocks; continued lines are joined."""
    is_fenced = False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            yield line.strip().removeprefix("$ ")


def commands() -> list[tuple[str, str]]:
    """Every `unipt COMMAND ...` that a page shows as code, with the page's name."""
    return [
        (page.name, line)
        for page in PAGES
        for line in code_lines(page)
        if re.match(r"unipt [a-z]+( |$)", line)
    ]


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_on_a_page_parses(page: str, line: str) -> None:
    """Flags that were renamed are found here, not by a reader."""
    _, name, *arguments = shlex.split(line, comments=True)
    group = get_command(app)

    assert name in group.commands  # type: ignore[attr-defined]
    group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    """Moved files take their links along."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not (page.parent / target).exists()] == []
