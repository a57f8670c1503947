"""Answers of VQA v2 as its evaluation sees them: normalised, counted, and scored softly.

Source: the rules of the official evaluation (visualqa.org/evaluation); the vocabulary of answers
that are the commonest one of at least nine questions of train and val is everyone's since
"Bottom-Up and Top-Down Attention" (arXiv 1707.07998): 3,129 of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

MIN_QUESTIONS = 9
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = dict.fromkeys(("none", "zero"), "0") | {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip

# Words written without their apostrophe get it back, where that can mean one thing only.
_NEGATED = (
    "ai are ca could did does do had has have is might must need ought sha should was were wo would"
)
_CONTRACTED = (
    "could've might've must've not've should've they've we've what've where've who've would've "
    "you've he'd how'd it'd someone'd something'd there'd they'd where'd who'd you'd how'll it'll "
    "somebody'll someone'll something'll they'll what'll who'll why'll you'll y'all he's how's "
    "somebody's someone's that's there's what's when's where's who's why's there're "
    "they're what're why're you're ma'am o'clock 'twas"
)
_TWICE = (
    "couldn't've hadn't've mightn't've shouldn't've wouldn't've he'd've it'd've she'd've "
    "somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've you'd've "
    "y'all'll y'all'd've"
)


def _without_one_apostrophe(word: str) -> Iterable[str]:
    return (word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'")


_CONTRACTIONS = {
    short: word
    for word in (
        *(f"{verb}n't" for verb in _NEGATED.split()),
        *_CONTRACTED.split(),
        *_TWICE.split(),
    )
    for short in _without_one_apostrophe(word)
}


def normalise(answer: str) -> str:
    """Lower case, no articles, no marks, number words as digits, apostrophes where they belong.

    A mark next to a space, or any in a text with a number like 1,000, disappears; others become
    a space. A full stop stays before a digit only.
    """
    text = " ".join(answer.split())
    grouped = _GROUPED_DIGITS.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if grouped or beside_space else " ")
    words = (_NUMBERS.get(w, w) for w in _FULL_STOP.sub("", cleaned).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vocabulary(commonest: Iterable[str], min_questions: int = MIN_QUESTIONS) -> tuple[str, ...]:
    """The answers to choose among, sorted.

    Args:
        commonest: The commonest of the ten answers of each question, as annotated.
        min_questions: How many questions an answer needs.
    """
    counts = Counter(map(normalise, commonest))
    return tuple(sorted(answer for answer, count in counts.items() if count >= min_questions))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Each answer that some of the ten people gave, and its accuracy in the official evaluation.

    Who was said to agree with an answer are the nine others, and three of them make it right,
    averaged over the ten ways of leaving one out: min(1, 0.3 n) for an answer given n times.
    """
    counts = Counter(map(normalise, answers))
    return {answer: min(10, 3 * count) / 10 for answer, count in counts.items()}
