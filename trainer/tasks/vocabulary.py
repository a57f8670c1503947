"""Lists of answers, one per row of an answer head."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConfigError


def read_answers(path: str, setting: str) -> tuple[str, ...]:
    """The answers of a file in its order.

    Args:
        path: JSON: a list of strings, a mapping from answer to number, or a list of mappings with
            `ans` (CLIP-ViL's own); or text with an answer in each line.
        setting: What names the file, for messages.

    Raises:
        ConfigError: The file cannot be read, or does not hold different answers.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(setting, [f"{path} cannot be read ({error}). Correct it"]) from error
    answers = _parse(text) if Path(path).suffix == ".json" else tuple(text.split("\n"))
    answers = answers[:-1] if answers and answers[-1] == "" else answers
    if len(answers) < 2 or len(set(answers)) != len(answers) or "" in answers:
        raise ConfigError(
            setting,
            [
                f"{path} holds {len(answers)} answers, {len(set(answers))} of them different, "
                "needed two or more different ones: a JSON list, or one in each line"
            ],
        )
    return answers


def _parse(text: str) -> tuple[str, ...]:
    try:
        document = json.loads(text)
    except ValueError:
        return ()
    if isinstance(document, dict) and all(isinstance(v, int) for v in document.values()):
        return tuple(sorted(document, key=document.__getitem__))
    if not isinstance(document, list):
        return ()
    answers = [entry.get("ans") if isinstance(entry, dict) else entry for entry in document]
    texts = [answer for answer in answers if isinstance(answer, str)]
    return tuple(texts) if len(texts) == len(answers) else ()
