"""Rendered characters: deterministic, balanced, different, inside their image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from fl_sim.data import fonts, glyphs
from fl_sim.errors import FlSimError
from fl_sim.randomness import stream


@lru_cache
def sample() -> tuple[np.ndarray, np.ndarray]:
    return glyphs.render(glyphs.CHUNK + 500, 28, 0)


@lru_cache
def pool() -> glyphs.GlyphPool:
    return glyphs.pool(28)


def test_a_row_depends_on_the_seed_and_not_on_how_many_there_are():
    images, labels = sample()
    for count in (0, 1, 61, 100, glyphs.CHUNK + 1):
        fewer_images, fewer_labels = glyphs.render(count, 28, 0)
        assert np.array_equal(fewer_images, images[:count])
        assert np.array_equal(fewer_labels, labels[:count])
    assert not np.array_equal(glyphs.render(100, 28, 1)[0], images[:100])


def test_images_and_labels_have_the_promised_form():
    images, labels = sample()
    assert images.shape == (glyphs.CHUNK + 500, 1, 28, 28)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert len(glyphs.CHARACTERS) == 62
    assert np.ptp(np.bincount(labels, minlength=62)) <= 1
    assert glyphs.render(3, 40, 0)[0].shape == (3, 1, 40, 40)


def test_no_two_images_are_equal_and_none_is_empty():
    images = sample()[0]
    assert len({image.tobytes() for image in images}) == len(images)
    assert images.max(axis=(1, 2, 3)).min() > 60


def test_the_ink_stands_in_the_middle_and_hardly_ever_leaves_the_image():
    ink = sample()[0][:, 0].astype(float)
    ink[ink < 90] = 0
    rows, columns = ink.sum(axis=(0, 2)), ink.sum(axis=(0, 1))
    centre = np.arange(28) - 13.5
    assert abs(rows @ centre / rows.sum()) < 2
    assert abs(columns @ centre / columns.sum()) < 1
    assert (rows[[0, -1]].sum() + columns[[0, -1]].sum()) / rows.sum() < 0.005


def test_capitals_are_taller_than_their_small_letters_on_the_same_baseline():
    font = fonts.open_font("DejaVuSans")
    for small, capital in ("oO", "vV", "sS"):
        heights = [np.flatnonzero(fonts.draw(font, ord(char), 56).any(axis=1)) for char in (small, capital)]
        assert len(heights[1]) > 1.2 * len(heights[0])
        assert abs(int(heights[0][-1]) - int(heights[1][-1])) <= 1


def test_every_text_font_draws_every_character():
    atlas = glyphs._atlas(56).numpy()
    assert atlas.shape == (len(fonts.TEXT_FONTS) * 62, 56, 56)
    assert (atlas.max(axis=(1, 2)) > 200).all()


def test_a_nearest_mean_classifier_learns_characters_but_not_all():
    images, labels = glyphs.render(4000, 28, 3)
    flat = images.reshape(len(images), -1) / 255.0
    means = np.stack([flat[:3000][labels[:3000] == c].mean(axis=0) for c in range(62)])
    scores = flat[3000:] @ means.T - 0.5 * (means**2).sum(axis=1)
    assert 0.15 < (scores.argmax(axis=1) == labels[3000:]).mean() < 0.95


def test_the_pool_holds_about_forty_thousand_distinct_images_in_a_fixed_order():
    found = pool()
    assert 38_000 < len(found.images) < 44_000
    assert found.images.shape[1:] == (1, 28, 28)
    assert len(found.images) == len(found.font) == len(found.code_point)
    assert len({image.tobytes() for image in found.images}) == len(found.images)
    assert found.images.any(axis=(1, 2, 3)).all()
    order = found.code_point.astype(np.int64) * 64 + found.font
    assert (np.diff(order) > 0).all()
    assert {found.fonts[i] for i in np.unique(found.font)} == set(fonts.POOL_FONTS)


def test_a_row_of_the_pool_is_the_glyph_it_says():
    found = pool()
    row = int(np.flatnonzero(found.code_point == ord("g"))[0])
    font = fonts.open_font(found.fonts[found.font[row]])
    assert np.array_equal(found.images[row, 0], fonts.draw(font, ord("g"), 28))


@pytest.mark.parametrize("name", ["cmex10", "DejaVuSans", "STIXGeneral", "STIXSizFiveSymReg"])
def test_nothing_is_cut_off(name, monkeypatch):
    font, drawn = fonts.open_font(name), []
    glyph_of = fonts._glyph
    monkeypatch.setattr(fonts, "_glyph", lambda *args: drawn.append(glyph_of(*args)) or drawn[-1])
    codes = [code for code in sorted(font.get_charmap()) if chr(code).isprintable()]
    for code in codes[::5]:
        image, room = fonts.draw(font, code, 28), np.zeros((84, 84), np.uint8)
        font.draw_glyph_to_bitmap(room, 40, 20, drawn[-1], antialiased=True)  # room for all of its ink
        assert image.sum(dtype=int) == room.sum(dtype=int), (name, hex(code))


# ------------------------------------------------------------------------------------------- one family kept back


def test_the_kept_back_family_is_whole_and_the_rest_is_everything_else():
    assert fonts.UNSEEN_FONTS == ("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic")
    families = [fonts.open_font(name).family_name for name in fonts.SEEN_FONTS]
    assert not any("STIX" in family.upper() for family in families)
    assert all("STIX" in name for name in set(fonts.POOL_FONTS) - set(fonts.SEEN_FONTS))


def test_the_seen_pool_is_the_pool_of_the_other_fonts():
    few = ("cmr10", "cmex10")
    found = glyphs.pool(28, few)
    assert (found.fonts, np.unique(found.font).tolist()) == (few, [0, 1])
    whole = {image.tobytes() for image in pool().images}
    assert {image.tobytes() for image in found.images} <= whole


def test_no_letter_of_a_kept_back_font_is_in_another_font():
    seen = {
        glyph.tobytes()
        for glyph, font in zip(pool().images, pool().font, strict=True)
        if pool().fonts[font] in fonts.SEEN_FONTS
    }
    assert len(seen) > 30_000
    letters = [
        fonts.draw(fonts.open_font(name), ord(char), 28) for name in fonts.UNSEEN_FONTS for char in glyphs.LETTERS
    ]
    assert not seen & {letter.tobytes() for letter in letters}


def test_unseen_letters_are_letters_of_these_fonts_alone():
    images, labels = glyphs.render(520, 16, 0, fonts.UNSEEN_FONTS, glyphs.LETTERS)
    assert np.bincount(labels).tolist() == [10] * 52
    assert np.array_equal(images[:7], glyphs.render(7, 16, 0, fonts.UNSEEN_FONTS, glyphs.LETTERS)[0])
    draws = stream(0, "glyphs", "distortion").random((520, 11), dtype=np.float32)
    style = np.minimum((draws[:, 0] * 4).astype(int), 3)
    for which, name in enumerate(fonts.UNSEEN_FONTS):  # drawn from an atlas of one font, of which nothing is chosen
        alone = glyphs._distort(labels, draws, stream(0, "glyphs", "noise"), 16, (name,), glyphs.LETTERS)
        assert np.array_equal(alone[style == which], images[style == which, 0])


def test_a_missing_font_is_named():
    with pytest.raises(FlSimError, match="font Comic is not in matplotlib"):
        fonts.open_font("Comic")
