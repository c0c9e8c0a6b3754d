"""Reference sets: which index is which image, the same everywhere; what may stand in one, and beside which data."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fl_sim.data import fonts, glyphs, named, reference, vision
from fl_sim.data.folders import fingerprint
from fl_sim.data.images import as_shape, grey, resized
from fl_sim.data.reference import check_sets, missing, open_reference, overlaps, refer
from fl_sim.data.sets import fashion_mnist
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError
from fl_sim.randomness import stream
from fl_sim.store.artifacts import Store

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def published(tmp_path, monkeypatch) -> np.ndarray:
    """Thirteen training and five test images of 4 x 5 pixels in the place of Fashion-MNIST's and of MNIST's."""
    monkeypatch.setenv("FL_SIM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    images = stream(0, "fake").integers(0, 256, (18, 4, 5)).astype(np.uint8)
    labels = (np.arange(18) % 10).astype(np.uint8)
    for folder in ("FashionMNIST", "MNIST"):
        raw = tmp_path / "data" / folder / "raw"
        raw.mkdir(parents=True)
        arrays = (images[:13], labels[:13], images[13:], labels[13:])
        for name, array in zip(vision.IDX_NAMES, arrays, strict=True):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (raw / name).write_bytes(head + array.tobytes())
    return images[:, None]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five images in three folders, and what is none."""
    root = tmp_path / "images"
    rng = stream(0, "pictures")
    for name, size in [("b/2.png", 9), ("b/10.png", 8), ("b.c/x.jpg", 16), ("b/deep/a.PNG", 7), ("b/z.png", 8)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, 12, 3)).astype(np.uint8)).save(root / name)
    (root / "b" / "notes.txt").write_text("no image")
    (root / "b" / "._2.png").write_text("of another system")
    (root / "empty.png").mkdir()
    return root


ORDER = ["b/10.png", "b/2.png", "b/z.png", "b.c/x.jpg", "b/deep/a.PNG"]  # folders b < b.c < b/deep, by their bytes


# ------------------------------------------------------------------------------------------------- content and order


def test_sets_stand_one_after_the_other_in_the_publishers_order(published, store):
    found = refer(["fashion-mnist:unlabelled", "digits"], GREY, store)
    assert found.starts.tolist() == [0, 11, 11 + 1797]  # a sixth of 13 is 2
    assert found.groups.tolist() == [0, 11]
    assert (len(found), found.shape, found.sets) == (1808, GREY, ("fashion-mnist:unlabelled", "digits"))
    assert np.array_equal(found.images(range(11)), resized(published[2:13], 8))
    assert found.images([11])[0, 0, 0].tolist() == [round(v * 255 / 16) for v in (0, 0, 5, 13, 9, 1, 0, 0)]
    whole = refer(["fashion-mnist"], GREY, store)
    assert np.array_equal(whole.images(range(18)), resized(published, 8))


def test_images_are_copies_in_the_order_asked_for(published, store):
    found = refer(["digits", "fashion-mnist"], GREY, store)
    everything = found.images(np.arange(len(found)))

    @settings(derandomize=True, deadline=None, max_examples=30)
    @given(st.lists(st.integers(0, len(found) - 1), max_size=20))
    def agrees(indices):
        assert np.array_equal(found.images(indices), everything[np.array(indices, int)])

    agrees()
    copy = found.images([3, 3])
    copy[0] = 7
    assert np.array_equal(found.images([3]), copy[1:])


@pytest.mark.parametrize("indices", [[-1], [1797], [0, 5000]])
def test_indices_that_name_no_image_are_refused(indices, store):
    with pytest.raises(FlSimError, match="reference indices"):
        refer(["digits"], GREY, store).images(indices)


def test_blocks_are_everything_in_order_and_never_span_two_sets(published, folder, store):
    found = refer(["fashion-mnist", f"image-folder:{folder}", "digits"], COLOUR, store)
    blocks = list(found.blocks(7))
    assert [span.stop - span.start for span, _ in blocks[:5]] == [7, 7, 4, 5, 7]
    assert [span.start for span, _ in blocks[1:]] == [span.stop for span, _ in blocks[:-1]]
    assert np.array_equal(np.concatenate([images for _, images in blocks]), found.images(range(len(found))))
    first = blocks[0][1]
    assert not first.flags.writeable
    assert not first.flags.owndata  # a view of the file
    with pytest.raises(ValueError, match="size = 0"):
        next(found.blocks(0))


def test_a_reader_may_stop_half_way(folder, store):
    blocks = refer([f"image-folder:{folder}"], GREY, store).blocks(2)
    assert next(blocks)[0] == slice(0, 2)
    blocks.close()


def test_it_is_made_once_and_opened_by_its_key(published, store, monkeypatch):
    made = refer(["mnist"], COLOUR, store)
    monkeypatch.setattr(reference, "_make", lambda *_: pytest.fail("made again"))
    for again in (refer(["mnist"], COLOUR, store), open_reference(store, made.key)):
        assert (again.key, again.digest, again.sets, again.shape) == (made.key, made.digest, made.sets, made.shape)
        assert np.array_equal(again.images([4, 0]), made.images([4, 0]))
    assert list((store.root / "tmp").iterdir()) == []
    with pytest.raises(FlSimError, match="no reference 00"):
        open_reference(store, "00")


def test_grey_becomes_colour_by_repetition_and_colour_grey_as_pillow_does(published, store):
    colour, plain = refer(["mnist"], COLOUR, store), refer(["mnist"], GREY, store)
    assert np.array_equal(colour.images(range(18)), np.repeat(plain.images(range(18)), 3, axis=1))
    pixels = stream(1, "colours").integers(0, 256, (50, 40, 3)).astype(np.uint8)
    assert np.array_equal(grey(pixels.transpose(2, 0, 1)[None])[0, 0], np.asarray(Image.fromarray(pixels).convert("L")))
    assert as_shape(np.full((1, 3, 4, 4), 9, np.uint8), GREY).tolist() == np.full((1, *GREY), 9).tolist()


def test_the_glyph_pools_have_a_group_a_code_point(store, monkeypatch):
    asked, drawn = [], glyphs.pool(8, ("cmr10", "DejaVuSans-Bold", "cmex10"))  # three of the fonts
    monkeypatch.setattr(glyphs, "pool", lambda *told: asked.append(told) or drawn)
    found, pool = refer(["glyphs-pool:seen"], (1, 8, 8), store), drawn
    assert asked == [(8, fonts.SEEN_FONTS)]
    assert len(fonts.SEEN_FONTS) == 22
    assert len(found) == len(pool.images) > 4000
    assert len(found.groups) == len(np.unique(pool.code_point))
    assert found.groups[0] == 0
    assert (np.diff(found.groups) > 0).all()
    letter_a = fonts.draw(fonts.open_font("DejaVuSans-Bold"), ord("A"), 8)
    group = int(np.searchsorted(np.unique(pool.code_point), ord("A")))
    drawn = found.images(range(int(found.groups[group]), int(found.groups[group + 1])))
    assert (drawn[:, 0] == letter_a).all(axis=(1, 2)).sum() == 1


def test_medmnist_is_read_without_its_labels(tmp_path, monkeypatch, store):
    source = named.named_source("image-folder:x")
    dataset = vision.Dataset(np.full((4, 3, 8, 8), 5, np.uint8), np.zeros(4, np.int64), ("a",))
    told = replace(source, name="medmnist:b", at_hand=lambda: True, read=lambda *_: dataset, marks=tuple)
    monkeypatch.setattr(named, "_medmnist", lambda *_: told)
    assert refer(["medmnist:b"], COLOUR, store).images([3]).tolist() == np.full((1, *COLOUR), 5).tolist()


# --------------------------------------------------------------------------------------------------------- the digest


def by_rule(shape: tuple[int, ...], *sets: tuple[bytes, int, bytes, list[int]]) -> bytes:
    def whole(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(8, "little") for number in numbers)

    text = b"fl-sim reference 1" + whole(*shape)
    for kind, count, content, groups in sets:
        text += kind + whole(count) + content + hashlib.sha256(whole(*groups)).digest()
    return hashlib.sha256(text).digest()[:16]


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_the_digest_follows_the_published_rule(published, folder, store):
    fashion = sha(np.array([1, 4, 5], "<i8").tobytes(), published[2:13].tobytes())  # as published, not as resized
    found = refer(["fashion-mnist:unlabelled"], GREY, store)
    assert found.digest == by_rule(GREY, (b"A", 11, fashion, [0]))
    sizes = b"".join((folder / name).stat().st_size.to_bytes(8, "little") for name in ORDER)
    ends = np.cumsum([0, *map(len, ORDER)]).astype("<i8").tobytes()
    listing = sha(sha(ends), sha("".join(ORDER).encode()), sha(sizes))
    both = refer(["fashion-mnist:unlabelled", f"image-folder:{folder}"], GREY, store)
    assert both.digest == by_rule(GREY, (b"A", 11, fashion, [0]), (b"F", 5, listing, [0, 3, 4]))
    assert both.groups.tolist() == [0, 11, 14, 15]


def test_the_digest_is_of_content_and_order_and_not_of_names_and_places(published, folder, tmp_path, store):
    mnist, fashion = refer(["mnist"], GREY, store), refer(["fashion-mnist"], GREY, store)
    assert mnist.digest == fashion.digest
    assert mnist.key != fashion.key
    digests = {refer(sets, GREY, store).digest for sets in (["mnist", "digits"], ["digits", "mnist"], ["digits"])}
    assert len(digests | {mnist.digest, refer(["mnist"], COLOUR, store).digest}) == 5
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    here, there = (refer([f"image-folder:{place}"], GREY, store) for place in (folder, moved))
    assert here.digest == there.digest
    assert here.key != there.key
    (moved / "b" / "3.png").write_bytes((moved / "b" / "2.png").read_bytes())
    assert refer([f"image-folder:{moved}"], GREY, store).digest != here.digest


# -------------------------------------------------------------------------------------------------------- image folders


def as_pillow_does(path: Path, mode: str) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert(mode).resize((8, 8), Image.Resampling.BILINEAR))
    return pixels.reshape(8, 8, -1).transpose(2, 0, 1)


@pytest.mark.parametrize(("shape", "mode"), [(GREY, "L"), (COLOUR, "RGB")])
def test_folders_are_listed_in_the_published_order_and_decoded_when_asked_for(folder, store, shape, mode):
    found = refer([f"image-folder:{folder}"], shape, store)
    assert found.groups.tolist() == [0, 3, 4]
    wanted = [4, 0, 3, 0]
    assert np.array_equal(found.images(wanted), [as_pillow_does(folder / ORDER[i], mode) for i in wanted])
    stored = {path.stem for path in (store.root / "reference" / found.key).glob("*.npy")}
    assert stored == {"paths-0", "offsets-0", "sizes-0", "groups", "starts"}


def test_every_kind_of_8_bit_picture_is_decoded_and_a_deeper_one_refused(tmp_path, store):
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    palette = red.quantize(4)
    palette.info["transparency"] = bytes([7])
    kinds = {"a.png": red.convert("RGBA"), "b.png": palette, "c.jpg": red.convert("CMYK"), "d.png": red.convert("1")}
    for name, image in kinds.items():
        image.save(tmp_path / name)
    found = refer([f"image-folder:{tmp_path}"], COLOUR, store).images(range(4))
    assert found[:2, :, 4, 4].tolist() == [[255, 0, 0]] * 2
    assert abs(found[2, :, 4, 4].astype(int) - [255, 0, 0]).max() < 8
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "e.png")
    with pytest.raises(FlSimError, match=r"e\.png cannot be decoded .*8 bits a channel"):
        refer([f"image-folder:{tmp_path}"], COLOUR, store).images([4])


def test_a_file_that_is_gone_changed_or_damaged_is_named(folder, store):
    victim = folder / "b" / "2.png"
    content = victim.read_bytes()
    found = refer([f"image-folder:{folder}"], GREY, store)
    victim.write_bytes(content[:-40])
    with pytest.raises(FlSimError, match=r"2\.png has \d+ bytes, and had \d+; its folder has changed"):
        found.images([1])
    os.utime(folder / "b", ns=(1, 1))
    cut = refer([f"image-folder:{folder}"], GREY, store)
    assert cut.digest != found.digest
    with pytest.raises(FlSimError, match=r"2\.png cannot be decoded"):
        list(cut.blocks(2))
    victim.unlink()
    with pytest.raises(FlSimError, match=r"2\.png cannot be read \(No such file.*touch the folder"):
        found.images([0, 1])


def test_the_fingerprint_looks_at_folders_alone(folder):
    before = fingerprint(folder)
    (folder / "b" / "2.png").write_bytes(b"overwritten in place")
    assert fingerprint(folder) == before
    (folder / "b" / "new.txt").write_text("")
    assert fingerprint(folder) != before


def test_folders_without_images_and_circles_of_links_are_refused(folder, tmp_path, store):
    (tmp_path / "bare" / "below").mkdir(parents=True)
    with pytest.raises(FlSimError, match="holds no images"):
        refer([f"image-folder:{tmp_path / 'bare'}"], GREY, store)
    (folder / "b" / "up").symlink_to(folder)
    with pytest.raises(FlSimError, match="holds the folder b/up twice, by a link"):
        refer([f"image-folder:{folder}"], GREY, store)


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("sets", "words"), [
    ([], "names none"),
    (["glyphs"], "in no fixed order"),
    (["unseen-letters"], "in no fixed order"),
    (["diabetes"], "has features"),
    (["friedman"], "has features"),
    (["my_data:make"], "a dataset of your own"),
    (["glyph-pool"], "no dataset 'glyph-pool'; nearest: glyphs-pool"),
    (["fashion-mnist:unlabeled"], "nearest: fashion-mnist:unlabelled"),
    (["image-folder:"], "names no folder"),
    (["digits", "glyphs-pool", "digits"], "digits stands there twice"),
    (["glyphs-pool", "glyphs-pool:seen"], "glyphs-pool:seen holds images of glyphs-pool,"),
    (["mnist:unlabelled", "mnist"], "mnist holds images of mnist:unlabelled,"),
    (["image-folder:/x/y", "image-folder:/x/y/../y"], "holds images of"),
    (["image-folder:/x", "image-folder:/x/train"], "holds images of"),
])  # fmt: skip
def test_lists_that_are_no_reference_set_are_refused(sets, words):
    with pytest.raises(ScenarioError, match=rf"^reference\.sets: .*{re.escape(words)}"):
        check_sets(sets)


def test_lists_that_may_stand_are_taken_without_loading():
    check_sets(["glyphs-pool"])
    check_sets(["fashion-mnist:unlabelled", "glyphs-pool:seen", "mnist", "emnist", "image-folder:/nowhere", "digits"])
    check_sets(["svhn:unlabelled", "svhn:labelled", "image-folder:/x/y", "image-folder:/x/yz"])


@pytest.mark.parametrize(("data", "sets", "holder"), [
    ("fashion-mnist", ["digits", "fashion-mnist"], "fashion-mnist"),
    ("fashion-mnist", ["fashion-mnist:unlabelled"], "fashion-mnist:unlabelled"),
    ("fashion-mnist:labelled", ["fashion-mnist"], "fashion-mnist"),
    ("fashion-mnist:labelled", ["fashion-mnist:labelled"], "fashion-mnist:labelled"),
    ("fashion-mnist:labelled", ["fashion-mnist:unlabelled", "glyphs-pool", "mnist"], None),
    ("digits", ["glyphs-pool", "digits"], "digits"),
    ("digits", ["mnist", "glyphs-pool"], None),
    ("unseen-letters", ["glyphs-pool"], "glyphs-pool"),
    ("unseen-letters", ["glyphs-pool:seen"], None),
    ("glyphs", ["glyphs-pool:seen"], "glyphs-pool:seen"),
    ("mnist:labelled", ["emnist"], "emnist"),
    ("cifar10", ["cifar100"], None),
    ("image-folder:/x/train", ["image-folder:/y", "image-folder:/x"], "image-folder:/x"),
    ("image-folder:/x", ["image-folder:/y"], None),
    ("my_data:make", ["digits"], None),
])  # fmt: skip
def test_a_reference_set_must_not_hold_what_the_labelled_data_is_drawn_from(data, sets, holder):
    told = overlaps(data, sets)
    assert (told is None) == (holder is None)
    if holder is not None:
        assert told is not None
        assert told.startswith(f"reference.sets holds {holder!r}, and rows of data.name = {data!r}")


def test_what_is_not_at_hand_is_told_with_the_commands(tmp_path, monkeypatch, store):
    monkeypatch.setenv("FL_SIM_DATA", str(tmp_path / "data"))
    sets = ["glyphs-pool", "svhn:unlabelled", f"image-folder:{tmp_path}/none", "digits"]
    assert missing(sets) == [
        ("svhn:unlabelled", ("fl-sim data get svhn",)),
        (f"image-folder:{tmp_path}/none", (f"mkdir -p {tmp_path}/none   # and put the images there, in folders",)),
    ]
    with pytest.raises(DataNotAtHandError, match=r"svhn:unlabelled is not on this machine; get it with\n    fl-sim"):
        refer(sets, GREY, store)


@pytest.mark.parametrize("shape", [(1, 8, 9), (2, 8, 8), (3, 0, 0)])
def test_shapes_that_are_no_square_of_grey_or_colour_are_refused(shape, store):
    with pytest.raises(ScenarioError, match="squares of 1 or 3 channels"):
        refer(["digits"], shape, store)
