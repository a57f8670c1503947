"""Augmented views depend on the row and the view alone, and change as much as the recipe says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_tiny_model

from extractor import Augmentation, BackboneConfig, load_backbone
from extractor.backbones.word_views import WordViews, word_of_tokens
from extractor.media import WordChange, draw_tokens, draw_view, drop_words, view_of

TEXT = "the film was good and the plot was not very slow"


def test_view_zero_is_the_sample_as_it_is() -> None:
    assert draw_view(7, 0) is None
    assert view_of({"id": 7}) is None
    assert not drop_words(9, 7, 0).any()


def test_a_view_is_drawn_from_row_and_view_alone() -> None:
    """Neither the order of reading nor an earlier draw may change it; rows and views differ."""
    first = {(row, view): draw_view(row, view) for row in range(20) for view in (1, 2)}

    assert {key: draw_view(*key) for key in reversed(first)} == first
    assert len(set(first.values())) == 40
    assert view_of({"id": 3, "view": 2}) == first[3, 2]


def test_views_stay_what_they_were() -> None:
    """Pins the numbers: other ones under the same fingerprint would make a cache lie."""
    view = draw_view(5, 1)

    assert view is not None
    assert view.box == pytest.approx((0.0461, 0.0731, 0.958, 0.985), abs=1e-4)
    assert view.is_flipped is True
    assert drop_words(12, 5, 1).tolist() == [0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0]


@given(st.integers(0, 10**12), st.integers(1, 50), st.floats(0.05, 1))
def test_a_crop_lies_in_the_image_and_keeps_its_proportions(row, view, crop) -> None:
    drawn = draw_view(row, view, Augmentation(crop=crop))

    assert drawn is not None
    left, upper, right, lower = drawn.box
    assert 0 <= left < right <= 1
    assert 0 <= upper < lower <= 1
    assert right - left == pytest.approx(lower - upper)
    assert crop - 1e-9 <= right - left <= 1


def test_crops_and_flips_are_as_frequent_as_the_recipe_says() -> None:
    views = [draw_view(row, 1) for row in range(4000)]

    sides = np.array([view.box[2] - view.box[0] for view in views if view is not None])
    flips = np.array([view.is_flipped for view in views if view is not None])
    assert sides.min() >= 0.6
    assert sides.mean() == pytest.approx(0.8, abs=0.01)
    assert flips.mean() == pytest.approx(0.5, abs=0.03)
    assert not any(
        view.is_flipped for row in range(50) if (view := draw_view(row, 1, Augmentation(flip=0)))
    )


def test_words_change_as_often_as_the_recipe_says() -> None:
    changes = np.concatenate([drop_words(50, row, 1) for row in range(400)])

    shares = np.bincount(changes, minlength=4) / len(changes)
    assert shares == pytest.approx([0.8, 0.1, 0.02, 0.08], abs=0.01)


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_at_least_one_word_stays(num_words, row) -> None:
    changes = drop_words(num_words, row, 1, augmentation=Augmentation(words=1.0))

    assert (changes == WordChange.KEPT).sum() == 1


def test_texts_of_one_row_have_views_of_their_own() -> None:
    assert drop_words(40, 5, 1, part=0).tolist() != drop_words(40, 5, 1, part=1).tolist()


def test_random_tokens_are_any_of_the_choices() -> None:
    drawn = draw_tokens(2000, 7, 1, 1)

    assert set(drawn.tolist()) == set(range(7))


# Through a tokenizer


def tokens(backbone, *samples):
    prepared = backbone.prepare(list(samples))
    return [prepared.inputs["token_ids"][at].tolist() for at in range(len(samples))]


@pytest.fixture(scope="module")
def backbone(tiny_bert):
    return load_backbone(BackboneConfig(name=str(tiny_bert)), "cpu")


def test_a_view_of_a_text_has_the_words_that_were_kept(backbone, tiny_bert) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    words = TEXT.split()
    seen: set[int] = set()
    for row in range(60):
        (ids,) = tokens(backbone, {"id": row, "view": 1, "text": TEXT})
        changes = drop_words(len(words), row, 1)
        seen |= set(changes.tolist())
        kept = [(w, c) for w, c in zip(words, changes, strict=True) if c != WordChange.REMOVED]
        got = tokenizer.convert_ids_to_tokens(ids)
        assert got[0] == "[CLS]"
        assert got[-1] == "[SEP]"
        assert len(got) == len(kept) + 2
        for token, (word, change) in zip(got[1:-1], kept, strict=True):
            if change == WordChange.KEPT:
                assert token == word
            elif change == WordChange.MASKED:
                assert token == "[MASK]"
            else:
                assert token not in tokenizer.all_special_tokens

    assert seen == {0, 1, 2, 3}


def test_views_do_not_touch_other_samples_or_the_second_text(backbone) -> None:
    everything = {"augmentation": Augmentation(words=1.0)}
    plain = {"id": 3, "view": 0, "text": TEXT, "text_pair": "bad actor"}
    (as_it_is,) = tokens(backbone, plain)

    first, second, third = tokens(backbone, plain, {**plain, "view": 1, **everything}, plain)

    assert first == third == as_it_is
    assert second != as_it_is
    assert second[-4:] == as_it_is[-4:]


def test_measured_lengths_are_those_of_the_views(backbone) -> None:
    samples = [{"id": row, "view": row % 3, "text": TEXT} for row in range(30)]

    measured, prepared = backbone.measure(samples), backbone.prepare(samples)

    assert measured.rows.tolist() == prepared.rows.tolist()
    assert len(set(prepared.rows.tolist())) > 1


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "deberta-v2"])
def test_every_kind_of_tokenizer_tells_its_words(tmp_path, family) -> None:
    """Words of several tokens change as a whole, whatever marks where they begin."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path, family))
    text = "unbelievable bridges, repairable mornings."
    encoding = tokenizer.backend_tokenizer.encode(text, "a second text")

    words = word_of_tokens(encoding, text)

    ids = np.array(encoding.ids)
    found = [tokenizer.decode(ids[words == word]).strip() for word in range(words.max() + 1)]
    assert found == ["unbelievable", "bridges", ",", "repairable", "mornings", "."]
    assert (words[[s != 0 for s in encoding.sequence_ids]] == -1).all()
    assert len(words) > len(found) + 3


def test_a_text_of_one_word_stays_as_it_is(backbone) -> None:
    everything = {"augmentation": Augmentation(words=1.0)}

    views = [tokens(backbone, {"id": 1, "view": v, "text": "film", **everything}) for v in range(4)]

    assert views == [views[0]] * 4


def test_without_a_mask_token_words_are_removed_instead(tmp_path) -> None:
    """Decoders have no mask token: a made-up one would be noise they never saw."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path, "bert"))
    tokenizer.mask_token = None
    encoding = tokenizer.backend_tokenizer.encode("Please read the old forms again")
    views = WordViews(tokenizer, tokenizer.backend_tokenizer)

    for row in range(20):
        sample = {"id": row, "view": 1, "augmentation": Augmentation(words=1.0)}
        ids, _ = views.change(encoding, "Please read the old forms again", sample)
        changes = drop_words(6, row, 1, augmentation=Augmentation(words=1.0))
        stays = np.isin(changes, (WordChange.KEPT, WordChange.REPLACED))
        words = word_of_tokens(encoding, "Please read the old forms again")
        assert len(ids) == int(stays[words[words >= 0]].sum()) + 2
