"""Which columns are inputs and targets, where the user does not say.

A guess is made only from names that mean one thing, or where one column is left; anything else is
an error that lists the columns. Every guess is reported in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cells import ColumnFacts
from .config import DataConfig
from .errors import DataError, MissingColumnError

# Titles, questions and the like are no texts by name alone: another column may be the one meant.
_TEXT_NAMES = (
    "text", "sentence", "review", "review_text", "content", "body", "document", "tweet",
    "utterance",
)  # fmt: skip
# Of texts that come with an image, looked for where none of the names above is there.
_CAPTION_NAMES = ("captions", "caption", "texts", "sentences")
# Of texts that are lists of words, looked for first where a list may be one text.
_WORDS_NAMES = ("tokens", "words")
_QUESTION_NAMES = ("question", "expression", "query")
_PAIR_NAMES = (
    ("text", "text_pair"), ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"),
    ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("question1", "question2"), ("premise", "hypothesis"), ("question", "sentence"),
    ("question", "context"), ("query", "passage"),
)  # fmt: skip
_MEDIA_NAMES = {
    "image": (
        "image", "img", "image_path", "img_path", "image_file", "photo", "picture", "file_name",
        "filename", "file_path", "filepath", "path", "file",
    ),
    "video": (
        "video", "video_path", "video_file", "clip", "frames", "file_name", "filename",
        "file_path", "filepath", "path", "file",
    ),
    "regions": (
        "regions", "region_features", "regions_path", "regions_file", "features", "npz",
        "file_name", "filename", "file_path", "filepath", "path", "file",
    ),
}  # fmt: skip
_TARGET_NAMES = (
    "label", "labels", "target", "targets", "class", "category", "sentiment", "topic", "intent",
    "emotion", "score", "rating", "stars", "label_name", "label_text",
)  # fmt: skip
_ID_NAMES = ("id", "idx", "index", "row", "row_id", "uid", "uuid", "guid", "unnamed: 0")


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
        inputs: Role (`text`, `text_pair`, `image`, `video`, `regions`) to column.
        targets: To keep beside the hidden states.
        keys: To keep beside them as names.
        notes: In words, how those were found that the user did not name.
        is_left_over: Whether the target was guessed only because no other column is left.
    """

    inputs: Mapping[str, str]
    targets: tuple[str, ...]
    keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_left_over: bool = False


def choose_columns(
    config: DataConfig, columns: Sequence[str], facts: Mapping[str, ColumnFacts]
) -> Columns:
    """Take the columns that the user named and guess the others.

    Args:
        config: What the user said.
        columns: All columns of any split, in order.
        facts: What the cells of each look like.

    Raises:
        MissingColumnError: A named column is not there, or an input's column cannot be guessed.
        DataError: A column was named that nothing reads, or for two things at once.
    """
    _refuse_wrong_names(config, columns)
    inputs: dict[str, str] = {}
    notes: list[str] = []
    for role in config.reads:
        if role != "text":
            inputs[role] = _media(role, config, columns, facts, notes)
    if "text" in config.reads:
        inputs |= _texts(config, columns, facts, inputs, notes)
    if config.targets or not config.guess_targets:
        return Columns(inputs, config.targets, config.keys, tuple(notes))
    taken = {*inputs.values(), *config.keys}
    left = [c for c in columns if c not in taken and not _is_id(c) and not facts[c].is_media]
    named = tuple(c for c in left if _is_target(c))
    if named:
        notes.append(f"targets: {_quoted(named)}, by name")
        return Columns(inputs, named, config.keys, tuple(notes))
    # Whoever names keys wants to join caches: captions beside images are no classes of them.
    if len(left) == 1 and not config.keys:
        notes.append(f"target: column {left[0]!r}, the only one left")
        return Columns(inputs, (left[0],), config.keys, tuple(notes), is_left_over=True)
    if config.keys:
        return Columns(inputs, (), config.keys, tuple(notes))
    found = f"none of {_quoted(left)} is named like one" if left else "there is no other column"
    return Columns(inputs, (), config.keys, (*notes, f"no target: {found}"))


def _refuse_wrong_names(config: DataConfig, columns: Sequence[str]) -> None:
    named = [
        ("--text-column", config.text_column, "text"),
        ("--text-pair-column", config.text_pair_column, "text"),
        ("--image-column", config.image_column, "image"),
        ("--video-column", config.video_column, "video"),
        ("--regions-column", config.regions_column, "regions"),
        *(("--target", target, None) for target in config.targets),
        *(("--key", key, None) for key in config.keys),
    ]
    for flag, name, role in named:
        if name is not None and name not in columns:
            raise MissingColumnError(
                f"{flag}: there is no column {name!r}, the data has {list(columns)!r}. "
                f"Choose one of those."
            )
        if name is not None and role is not None and role not in config.reads:
            raise DataError(
                f"{flag}: is {name!r}, but what is read of each row is "
                f"{' and '.join(config.reads)}. Leave it out, or choose another backbone, "
                "--modality or --frames."
            )
    both = sorted({*config.targets} & {*config.keys})
    if both:
        raise DataError(
            f"--key: {both!r} is a --target too. Name it once: a key is kept as a name."
        )


def _media(
    role: str,
    config: DataConfig,
    columns: Sequence[str],
    facts: Mapping[str, ColumnFacts],
    notes: list[str],
) -> str:
    """The column of the images, videos or regions."""
    named_by_user = {
        "image": config.image_column,
        "video": config.video_column,
        "regions": config.regions_column,
    }
    chosen = named_by_user[role]
    if chosen is not None:
        return chosen
    several = role if role == "regions" else f"{role}s"
    free = [
        c for c in columns
        if c not in (*config.targets, config.text_column, config.text_pair_column)
    ]  # fmt: skip
    by_name = {c.strip().lower(): c for c in free}
    names = [name for name in _MEDIA_NAMES[role] if name in by_name]
    named = [by_name[name] for name in names if facts[by_name[name]].could_be(role)]
    if len(named) == 1 or (named and named[0].strip().lower() == role):
        notes.append(f"{role}: column {named[0]!r}, by its name")
        return named[0]
    left = [c for c in free if facts[c].media == role]
    if len(left) == 1:
        notes.append(f"{role}: column {left[0]!r}, the only one with {several}")
        return left[0]
    is_of_videos = role == "image" and any(
        facts[c].media == "video" or c.strip().lower() == "video" for c in free
    )
    raise _cannot_be_told(
        f"which column holds the {several}",
        named or left,
        several,
        free,
        config,
        f"--{role}-column",
        " Videos are read with --frames N." if is_of_videos else "",
    )


def _texts(
    config: DataConfig,
    columns: Sequence[str],
    facts: Mapping[str, ColumnFacts],
    taken: Mapping[str, str],
    notes: list[str],
) -> dict[str, str]:
    """The columns of the text and its pair."""
    pair = {} if config.text_pair_column is None else {"text_pair": config.text_pair_column}
    if config.text_column is not None:
        return {"text": config.text_column, **pair}
    used = (*config.targets, *config.keys, *pair.values(), *taken.values())
    free = [c for c in columns if c not in used]
    by_name = {c.strip().lower(): c for c in free}
    if not pair and not taken:
        for first, second in _PAIR_NAMES:
            if first in by_name and second in by_name:
                pair = {"text": by_name[first], "text_pair": by_name[second]}
                notes.append(
                    f"text pairs: columns {_quoted([*pair.values()], ' and ')}, by their names"
                )
                return pair
    words = _WORDS_NAMES if config.lists_hold_words else ()
    named = [
        by_name[name] for name in words if name in by_name and facts[by_name[name]].is_text_list
    ]
    for names in (_TEXT_NAMES, _CAPTION_NAMES, _QUESTION_NAMES if taken else ()):
        found = [by_name[name] for name in names if name in by_name]
        named = named or [c for c in found if facts[c].is_text or facts[c].is_text_list]
    left = [c for c in free if facts[c].is_text and not _is_id(c) and not _is_target(c)]
    left = [c for c in left if not facts[c].is_media]
    if len(named) == 1 or (named and named[0].strip().lower() == "text"):
        notes.append(f"text: column {named[0]!r}, by its name")
        return {"text": named[0], **pair}
    if not named and len(left) == 1:
        notes.append(f"text: column {left[0]!r}, the only one with texts")
        return {"text": left[0], **pair}
    raise _cannot_be_told(
        "which column is the text", named or left, "text", free, config, "--text-column"
    )


def _cannot_be_told(
    what: str,
    found: Sequence[str],
    kind: str,
    free: Sequence[str],
    config: DataConfig,
    flag: str,
    hint: str = "",
) -> MissingColumnError:
    said = f"{found!r} could all be it" if found else f"none looks like {kind}"
    named = [*config.targets, *config.keys]
    aside = f"; {named!r} is named as target or key" if named else ""
    return MissingColumnError(
        f"--data: {what} cannot be told, {said} among {free!r}{aside}. Say it with {flag}.{hint}"
    )


def _quoted(names: Sequence[str], between: str = ", ") -> str:
    return between.join(map(repr, names))


def _is_target(column: str) -> bool:
    return column.strip().lower() in _TARGET_NAMES


def _is_id(column: str) -> bool:
    name = column.strip().lower()
    return name in _ID_NAMES or name.endswith("_id") or name.startswith("__index")
