"""The rivals of a payload: payloads of images, of weights and of a probe, coresets, and the shared backbone."""

from __future__ import annotations

import contextlib
import io
import json
import math
import struct
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fl_sim.errors import FlSimError
from fl_sim.plada import backbone, container, images, probe, weights
from fl_sim.plada.backbone import fit_backbone
from fl_sim.plada.coresets import k_centre_subset, random_subset, within
from fl_sim.plada.images import FORMS, form_of, pack_images, unpack_images
from fl_sim.plada.probe import Probe, fit_probe, pack_probe, unpack_probe
from fl_sim.plada.weights import pack_weights, unpack_weights
from fl_sim.randomness import stream

FOUND = settings(derandomize=True, deadline=None, max_examples=60)


def pictures(n=30, channels=1, side=12, seed=0):
    """Smooth images (n, c, side, side)."""
    waves = np.arange(side)[:, None] + stream(seed, "test").integers(1, 9, (n, channels, 1, 1)) * np.arange(side)
    return (127 + 120 * np.sin(waves / side)).astype(np.uint8)


def noise(n, channels, height, width, seed=0):
    return stream(seed, "test").integers(0, 256, (n, channels, height, width)).astype(np.uint8)


def unpacked(data, most_images=1000, most_bytes=1 << 24):
    return unpack_images(data, most_images=most_images, most_bytes=most_bytes)


# ------------------------------------------------------------------------------------------------------ image payloads


def jpeg(image, quality=30):
    """What PIL makes of one image (c, h, w) as a JPEG file of its own."""
    plain = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    file = io.BytesIO()
    Image.fromarray(plain).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def decoded(file):
    found = np.asarray(Image.open(io.BytesIO(file)))
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 12, 28])
def test_a_sheet_gives_each_image_as_its_own_file_would(channels, side):
    """So no DCT block has two images: the pixels do not depend on the neighbours."""
    given_images, labels = noise(7, channels, side, side), np.array([1, 0, 2, 1, 0, 2, 2])
    order = np.argsort(labels, kind="stable")
    files, sorted_labels = unpacked(pack_images(given_images, labels, 4, forms=["jpeg files"]))
    np.testing.assert_array_equal(files, np.stack([decoded(jpeg(given_images[i])) for i in order]))
    np.testing.assert_array_equal(sorted_labels, labels[order])
    alone = [unpacked(pack_images(given_images[[i]], labels[[i]], 4, forms=["jpeg sheet"]))[0][0] for i in order]
    sheet, sheet_labels = unpacked(pack_images(given_images, labels, 4, forms=["jpeg sheet"]))
    np.testing.assert_array_equal(sheet_labels, labels[order])
    if channels == 1:
        np.testing.assert_array_equal(sheet, files)
    else:  # chroma is made larger again with its neighbours in view, luma is not
        assert np.abs(sheet.astype(int) - np.stack(alone)).mean() < 4
        assert np.abs(sheet.astype(int).mean(axis=1) - np.stack(alone).mean(axis=1)).mean() < 2


@st.composite
def labelled(draw):
    n, classes = draw(st.integers(1, 12)), draw(st.sampled_from([1, 3, 300]))
    shape = n, draw(st.sampled_from([1, 3])), draw(st.integers(1, 19)), draw(st.integers(1, 19))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    return noise(*shape, seed=draw(st.integers(0, 99))), labels, classes


@FOUND
@given(labelled(), st.sampled_from(FORMS), st.sampled_from([1, 30, 95]))
def test_every_form_gives_back_what_went_in(given_images, form, quality):
    """Noise at quality 95 is the worst that can be met for the bound on a payload's content."""
    pixels, labels, classes = given_images
    data = pack_images(pixels, labels, classes, quality, forms=[form])
    assert form_of(data) == form
    found, found_labels = unpacked(data)
    assert (found.shape, found.dtype, found_labels.dtype) == (pixels.shape, np.uint8, np.int64)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(found_labels, labels[order])
    if not form.startswith("jpeg"):
        np.testing.assert_array_equal(found, pixels[order])


def test_the_smallest_form_is_kept_and_the_papers_is_among_them():
    given_images, labels = pictures(60), np.arange(60) % 3
    sizes = {form: len(pack_images(given_images, labels, 3, forms=[form])) for form in FORMS}
    smallest = pack_images(given_images, labels, 3)
    assert len(smallest) == min(sizes.values())
    assert sizes[form_of(smallest)] == len(smallest)
    by_class = np.argsort(labels, kind="stable")
    paper = zstandard.ZstdCompressor(level=19).compress(b"".join(jpeg(given_images[i]) for i in by_class))
    assert abs(sizes["jpeg files"] - len(paper)) < 40  # header, and counts in place of labels


def test_labels_cost_one_count_a_class():
    given_images, labels = pictures(200), np.repeat([0, 9], 100)
    one = len(pack_images(given_images, labels * 0, 10, forms=["pixels"]))
    assert abs(len(pack_images(given_images, labels, 10, forms=["pixels"])) - one) <= 10


def test_files_are_told_apart_at_every_quality():
    given_images = noise(3, 1, 9, 9)
    for quality in range(1, 96):
        assert unpacked(pack_images(given_images, np.arange(3), 3, quality, forms=["jpeg files"]))[0].shape == (
            3,
            1,
            9,
            9,
        )


def test_images_that_need_several_sheets_come_back(monkeypatch):
    monkeypatch.setattr(images, "SHEET_SIDE", 40)
    given_images = pictures(11, side=12)
    for form in ("png sheet", "jpeg sheet"):
        found = unpacked(pack_images(given_images, np.arange(11), 11, forms=[form]))[0]
        assert np.abs(found.astype(int) - given_images).mean() < 12 * (form == "jpeg sheet") + 1e-9


def test_large_images_need_a_sheet_each():
    given_images = np.zeros((2, 1, 40_00, 9000), np.uint8)
    with pytest.raises(FlSimError, match="an image 16777216"):
        pack_images(given_images, np.zeros(2, int), 1)
    with pytest.raises(FlSimError, match="a side has at most 16384"):
        pack_images(np.zeros((1, 1, 1, 16_385), np.uint8), np.zeros(1, int), 1)
    found = unpacked(pack_images(given_images[:, :, :1, :], np.zeros(2, int), 1))[0]
    assert found.shape == (2, 1, 1, 9000)


@pytest.mark.parametrize("form", FORMS)
def test_every_changed_byte_and_every_cut_is_refused(form):
    data = pack_images(pictures(4, side=6), np.arange(4), 4, forms=[form])
    for place in range(len(data)):
        with pytest.raises(FlSimError):
            unpacked(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        with pytest.raises(FlSimError):
            unpacked(data[:place])
    with pytest.raises(FlSimError):
        unpacked(data + b"\0")


def forged(form, head, content):
    return container.sealed(images.MAGIC, form, images.HEAD.pack(*head), content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with PLDI"),
        (forged(9, (1, 1, 2, 2, 0), b"\x01" + bytes(4)), "form 9"),
        (forged(3, (0, 1, 2, 2, 0), b"\x00"), "0 images"),
        (forged(3, (1, 2, 2, 2, 0), b"\x01" + bytes(8)), r"shape \(2, 2, 2\)"),
        (forged(3, (1, 1, 2, 2, 0), b"\x02" + bytes(4)), "classes have 2 images, not 1"),
        (forged(3, (1, 1, 2, 2, 9), b"\x01" + bytes(4)), "no counts of 10 classes"),
        (forged(3, (1, 1, 2, 2, 0), b"\x01" + bytes(5)), "5 bytes of pixels"),
        (forged(3, (1001, 1, 1, 1, 0), b""), "declares 1001 images, and at most 1000"),
        (forged(3, (1000, 1, 9000, 9000, 0), b""), "declares 81000000000 bytes of pixels"),
        (forged(0, (1, 1, 2, 2, 0), b"\x01abc"), "a JPEG of shape .* UnidentifiedImageError"),
        (forged(0, (2, 1, 2, 2, 0), b"\x02abc"), "not 2 JPEG files"),
        (forged(0, (1, 1, 2, 2, 0), b"\x01" + jpeg(noise(1, 1, 3, 3)[0])), r"there is L of \(3, 3\)"),
        (forged(0, (1, 1, 2, 2, 0), b"\x01" + jpeg(noise(1, 3, 2, 2)[0])), r"there is RGB of \(2, 2\)"),
        (forged(0, (1, 1, 9, 9, 0), b"\x01" + jpeg(noise(1, 1, 9, 9)[0])[:300]), "there is OSError|UnidentifiedImage"),
        (forged(2, (1, 1, 2, 2, 0), b"\x01\xff"), "a PNG of shape"),
        (forged(3, (1, 1, 2, 2, 0), bytes(1 << 20)), "declares 1048576 bytes of content"),
    ],
)  # fmt: skip
def test_a_forged_payload_is_refused_in_one_line(data, message):
    with pytest.raises(FlSimError, match=message) as refused:
        unpacked(data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 1, 3, 3))}, r"images float64 \(2, 1, 3, 3\)"),
        ({"images": np.zeros((2, 2, 3, 3), np.uint8)}, "takes uint8"),
        ({"images": np.zeros((0, 1, 3, 3), np.uint8), "labels": np.zeros(0, int)}, "n at least 1"),
        ({"labels": np.zeros(3, int)}, "one label an image"),
        ({"labels": np.array([0, 2])}, "labels 0 to 2: classes are 0 to 1"),
        ({"num_classes": 0}, "0 classes"),
    ],
)
def test_what_is_no_payload_of_images_is_not_packed(change, message):
    given_images = {"images": np.zeros((2, 1, 3, 3), np.uint8), "labels": np.array([0, 1]), "num_classes": 2}
    with pytest.raises(FlSimError, match=message):
        pack_images(**(given_images | change))


def test_a_payload_that_declares_less_than_it_holds_is_stopped():
    good = container.sealed(b"TEST", 0, b"", bytes(1 << 22))
    squeezed = good[container.FIXED.size + 4 :]
    start = container.FIXED.pack(b"TEST", container.VERSION, 0, 100)
    bomb = start + zlib.crc32(squeezed, zlib.crc32(start)).to_bytes(4, "little") + squeezed
    with pytest.raises(FlSimError, match="holds not 100 bytes"):
        container.opened(bomb, b"TEST", 0).content(1000)
    with pytest.raises(FlSimError, match="has version 2"):
        container.opened(good[:4] + b"\x02" + good[5:], b"TEST", 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_forger_who_mends_the_checksum_gets_images_or_a_refusal(form):
    good = container.opened(
        pack_images(pictures(3, side=9), np.arange(3), 3, forms=[form]), images.MAGIC, images.HEAD.size
    )
    content, rng = bytearray(good.content(1 << 20)), stream(0, "test")
    for _ in range(300):
        forgery = content.copy()
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            forgery[place] = rng.integers(256)
        data = container.sealed(images.MAGIC, good.form, good.head, bytes(forgery[: rng.integers(1, 2 * len(content))]))
        with contextlib.suppress(FlSimError):
            assert unpacked(data)[0].shape == (3, 1, 9, 9)


# ----------------------------------------------------------------------------------------------------------- coresets


def turns_by_hand(labels, count):
    """How many of each class when classes take turns."""
    left, taken = {c: labels.count(c) for c in sorted(set(labels))}, dict.fromkeys(labels, 0)
    while count:
        for c in left:
            if count and left[c]:
                left[c], taken[c], count = left[c] - 1, taken[c] + 1, count - 1
    return taken


@FOUND
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_coresets_are_balanced_ascending_and_nested(labels, data):
    count = data.draw(st.integers(1, len(labels)))
    given_labels, points = np.array(labels), stream(3, "test").standard_normal((len(labels), 3))
    for subset in (
        lambda k: random_subset(given_labels, k, stream(1, "test")),
        lambda k: k_centre_subset(given_labels, points, k),
    ):
        found = subset(count)
        assert found.dtype == np.int64
        assert (np.diff(found) > 0).all()
        assert {c: int((given_labels[found] == c).sum()) for c in set(labels)} == turns_by_hand(labels, count)
        if count > 1:
            assert set(subset(count - 1).tolist()) < set(found.tolist())


def test_a_class_gets_no_second_extra_before_another_has_one():
    labels = np.repeat([0, 1, 2], [10, 1, 10])
    assert np.bincount(labels[random_subset(labels, 5, stream(0, "test"))]).tolist() == [2, 1, 2]


def test_random_takes_every_image_as_often():
    times = np.zeros(12)
    for seed in range(3000):
        times[random_subset(np.repeat([0, 1], 6), 4, stream(seed, "test"))] += 1
    assert np.abs(times - 1000).max() < 4.5 * math.sqrt(3000 * 2 / 9)


def test_k_centre_starts_nearest_the_mean_and_goes_farthest():
    points = np.array([[0.0], [10], [4], [6], [100], [101]])
    labels = np.array([0, 0, 0, 0, 1, 1])  # mean of class 0 is 5: 4 is nearest (first of two), then 10, then 0
    assert k_centre_subset(labels, points, 1).tolist() == [2]
    assert k_centre_subset(labels, points, 3).tolist() == [1, 2, 4]
    assert k_centre_subset(labels, points, 5).tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("budget", [5, 6, 29, 30, 31, 299, 300, 301, 10_000])
def test_within_finds_the_largest_that_fits(budget):
    asked = []

    def pack(count):
        asked.append(count)
        return bytes(3 * count)

    if budget < 6:
        with pytest.raises(FlSimError, match=r"^a budget of 5 bytes: .* 2 images, .* has 6 bytes; raise the budget$"):
            within(budget, pack, least=2, most=100)
    else:
        assert within(budget, pack, least=2, most=100) == min(budget // 3, 100)
        assert max(asked) <= 2 * min(budget // 3, 100)


def test_within_real_payloads():
    given_images, labels = noise(120, 1, 8, 8), np.arange(120) % 4

    def pack(count):
        rows = random_subset(labels, count, stream(0, "test"))
        return pack_images(given_images[rows], labels[rows], 4)

    count = within(1500, pack, least=4, most=120)
    assert len(pack(count)) <= 1500 < len(pack(count + 1))
    assert 4 < count < 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_subset(np.zeros(3, int), 4, stream(0, "test")), r"count = 4: must lie in 1\.\.3"),
    ],
)
def test_a_coreset_that_cannot_be_is_refused(call, message):
    with pytest.raises(FlSimError, match=message):
        call()


# ------------------------------------------------------------------------------------------------------------ weights


def state():
    rng = stream(0, "test")
    sizes = np.logspace(-9, 9, 8).astype(np.float32)[:, None, None, None]
    return {
        "conv.weight": rng.standard_normal((8, 3, 5, 5)).astype(np.float32) * sizes,
        "conv.bias": rng.standard_normal(8).astype(np.float32),
        "bn.num_batches_tracked": np.array(1234567890123),
        "größe": np.zeros((2, 0), np.float32),
        "mask": np.array([True, False]),
        "big-endian": np.arange(3, dtype=">i4"),
    }


def test_float32_comes_back_bit_for_bit():
    given_state = state()
    given_state["conv.bias"][:3] = [np.nan, np.inf, -0.0]
    found = unpack_weights(pack_weights(given_state, "float32"), most_bytes=1 << 20)
    assert list(found) == list(given_state)
    for name, tensor in given_state.items():
        assert found[name].shape == tensor.shape
        assert found[name].dtype == tensor.dtype.newbyteorder("=")
        assert found[name].tobytes() == tensor.astype(tensor.dtype.newbyteorder("=")).tobytes()
        assert found[name].flags.writeable


def test_int8_is_off_by_at_most_half_a_step_of_its_channel():
    given_state = state()
    given_state["conv.weight"][2] = 0
    found = unpack_weights(pack_weights(given_state, "int8"), most_bytes=1 << 20)
    rows, back = (s["conv.weight"].reshape(8, -1).astype(np.float64) for s in (given_state, found))
    steps = np.abs(rows).max(axis=1) / 127
    assert (np.abs(rows - back) <= steps[:, None] * (0.5 + 1e-4)).all()  # float32 rounds the scale and the product
    assert (np.abs(rows - back).max(axis=1) > 0.4 * steps)[steps > 0].all()  # the bound is met: these are 8 bits
    assert (back[2] == 0).all()
    for name in set(given_state) - {"conv.weight"}:
        np.testing.assert_array_equal(found[name], given_state[name])


@FOUND
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_the_bound_holds_for_any_channel(numbers):
    row = np.array([numbers], np.float32)
    found = unpack_weights(pack_weights({"w": row}, "int8"), most_bytes=1 << 16)["w"]
    step = np.abs(row.astype(np.float64)).max() / 127
    assert (np.abs(found.astype(np.float64) - row) <= step * (0.5 + 1e-4) + 2.0**-141).all()  # subnormal scales


def test_the_largest_numbers_stay_finite():
    rows = np.full((60, 2), np.finfo(np.float32).max) * np.linspace(0.5, 1, 60, dtype=np.float32)[:, None]
    assert np.isfinite(unpack_weights(pack_weights({"w": rows}, "int8"), most_bytes=1 << 16)["w"]).all()


def test_int8_is_a_quarter():
    tensor = {"w": stream(0, "test").standard_normal((100, 1000)).astype(np.float32)}
    sizes = {precision: len(pack_weights(tensor, precision)) for precision in weights.PRECISIONS}
    assert 100_000 * 0.8 < sizes["int8"] < 100_400
    assert 100_000 * 3.5 < sizes["float32"] < 401_000


def test_weights_too_large_are_refused_before_memory_is_taken():
    data = pack_weights({"w": np.zeros((1000, 1000), np.float32)}, "int8")
    assert len(data) < 1000
    with pytest.raises(FlSimError, match=r"declares 10040\d\d bytes of content, and at most 1000"):
        unpack_weights(data, most_bytes=1000)
    with pytest.raises(FlSimError, match="declares tensors of 4000000 bytes, and at most 2000000"):
        unpack_weights(data, most_bytes=2_000_000)
    assert unpack_weights(data, most_bytes=4_000_000)["w"].shape == (1000, 1000)


def with_table(table, content=b"", form=0):
    told = table if isinstance(table, bytes) else json.dumps(table).encode()
    return container.sealed(weights.MAGIC, form, b"", struct.pack("<I", len(told)) + told + content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PLDI", "does not begin with PLDW"),
        (with_table([], form=2), "form 2"),
        (container.sealed(weights.MAGIC, 0, b"", b"\xff\xff"), "a table of 2 bytes in 2"),
        (container.sealed(weights.MAGIC, 0, b"", b"\xff\xff\xff\xff"), "a table of 4294967295 bytes"),
        (with_table(b"["), "not JSON"),
        (with_table(b"\xff"), "not JSON"),
        (with_table(b"[" * 50_000), "not JSON"),
        (with_table({"w": 1}), "its table is not of names"),
        (with_table([["w", "f8", []]], bytes(8)), "its table is not of names"),
        (with_table([["w", "O", []]], bytes(8)), "its table is not of names"),
        (with_table([["w", "f4", [-1]]]), "its table is not of names"),
        (with_table([["w", "f4", [True]]], bytes(4)), "its table is not of names"),
        (with_table([["w", "q", [2]]], bytes(10)), "its table is not of names"),
        (with_table([["w", "f4", [0, 1 << 40]]]), "its table is not of names"),
        (with_table([["w", "f4", []]] * 2, bytes(8)), "its table is not of names, each once"),
        (with_table([["w", "f4", [1 << 19, 1 << 19]]]), "tells 1099511627776 bytes, and 0 follow"),
        (with_table([["w", "f4", [2]]], bytes(9)), "tells 8 bytes, and 9 follow"),
        (with_table([["w", "q", [1, 1]]], struct.pack("<fb", math.inf, 1)), "scales must be finite"),
        (with_table([["w", "q", [1, 1]]], struct.pack("<fb", -1, 1)), "scales must be finite"),
    ],
)
def test_forged_weights_are_refused_in_one_line(data, message):
    with pytest.raises(FlSimError, match=message) as refused:
        unpack_weights(data, most_bytes=1 << 20)
    assert "\n" not in str(refused.value)


def test_weights_that_cannot_be_packed_are_named():
    with pytest.raises(FlSimError, match="the tensor 'w' is float64"):
        pack_weights({"w": np.zeros(2)}, "float32")
    with pytest.raises(FlSimError, match="the tensor 'w' holds NaN"):
        pack_weights({"w": np.array([[np.nan]], np.float32)}, "int8")
    with pytest.raises(FlSimError, match="precision = 'int4'"):
        pack_weights({}, "int4")


# ----------------------------------------------------------------------------------------------------------- backbone


def strokes(n, side=12, seed=0):
    """(images with one bright line, whether it lies down or across)."""
    rng = stream(seed, "test")
    labels, found = rng.integers(0, 2, n), rng.integers(0, 30, (n, 1, side, side)).astype(np.uint8)
    for image, label, at in zip(found, labels, rng.integers(2, side - 2, n), strict=True):
        (image[0] if label else image[0].T)[at] = 230
    return found, labels


def features_by_hand(image, fitted):
    """The four steps of the module's text, a patch at a time in float64."""
    side = fitted.patch
    tops = range(0, image.shape[1] - side + 1, fitted.stride)
    lefts = range(0, image.shape[2] - side + 1, fitted.stride)
    quadrants = np.zeros((4, len(fitted.centroids)))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            p = image[:, top : top + side, left : left + side].astype(np.float64).ravel()
            p = (p - p.mean()) / math.sqrt(p.var() + 10)
            x = (p - fitted.mean) @ fitted.whitening.astype(np.float64)
            z = np.linalg.norm(x - fitted.centroids, axis=1)
            below, right = i >= -(-len(tops) // 2), j >= -(-len(lefts) // 2)
            quadrants[2 * below + right] += np.maximum(0, z.mean() - z)
    return (quadrants.ravel() - fitted.centre) / fitted.spread


@pytest.mark.parametrize(("channels", "stride", "patch"), [(1, 1, 5), (1, 2, 6), (3, 3, 4)])
def test_features_are_the_papers_four_steps(channels, stride, patch):
    given_images = noise(20, channels, 13, 15)
    fitted = fit_backbone(given_images, num_centroids=9, patch=patch, stride=stride)
    found = fitted.features(given_images)
    assert (found.shape, found.dtype) == ((20, fitted.width), np.float32)
    for image, row in zip(given_images[:3], found, strict=False):
        np.testing.assert_allclose(row, features_by_hand(image, fitted), atol=2e-3)


def test_whitened_patches_have_no_correlation():
    import torch

    patches = backbone._patches(noise(60, 1, 14, 14), 3, 1)
    mean, whitening = backbone._zca(patches)
    np.testing.assert_allclose(whitening, whitening.T, atol=1e-5)
    white = backbone._whitened(patches, mean, whitening).double()
    covariance = (white.T @ white / len(white)).numpy()
    values = np.linalg.eigvalsh(torch.cov(patches.double().T, correction=0).numpy())
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), values / (values + 0.1), atol=1e-4)


def test_lloyd_finds_clusters_that_lie_apart_and_fills_empty_centroids():
    import torch

    middles = 50 * np.eye(6)
    points = np.repeat(middles, 40, axis=0) + stream(0, "test").standard_normal((240, 6))
    found = backbone._lloyd(torch.from_numpy(points.astype(np.float32)), 6, stream(2, "test"))
    within_cluster = np.linalg.norm(points[:, None] - found, axis=2).min(axis=1)
    assert np.isfinite(found).all()
    assert np.median(within_cluster) < 5
    doubled = torch.zeros(10, 2)
    doubled[0] = 7  # two different points and five centroids
    found = backbone._lloyd(doubled, 5, stream(0, "test"))
    assert {tuple(row) for row in found.tolist()} == {(0.0, 0.0), (7.0, 7.0)}


def test_the_same_images_give_the_same_bits():
    given_images, _ = strokes(200)
    first, again = (fit_backbone(given_images, num_centroids=16, seed=3) for _ in range(2))
    for name in ("mean", "whitening", "centroids"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.features(given_images).tobytes() == again.features(given_images.copy()).tobytes()
    other = fit_backbone(given_images, num_centroids=16, seed=4)
    assert (other.centroids != first.centroids).any()


def test_a_probe_on_the_backbone_learns_and_survives_int8():
    sample, _ = strokes(300, seed=1)
    (train, labels), (test, truth) = strokes(120, seed=2), strokes(200, seed=3)
    fitted = fit_backbone(sample, num_centroids=12)
    told = fit_probe(fitted.features(train), labels, 2)
    data = pack_probe(told)
    back = unpack_probe(data, most_bytes=1 << 16)
    for one in (told, back):
        assert (one.logits(fitted.features(test)).argmax(axis=1) == truth).mean() > 0.95
    assert len(data) < fitted.width * 2 + 120
    steps = np.abs(told.weights).max(axis=0) / 127
    assert (np.abs(back.weights - told.weights) <= steps * (0.5 + 1e-4)).all()
    np.testing.assert_array_equal(back.bias, told.bias)


def test_features_of_the_sample_are_standardised():
    given_images, _ = strokes(150)
    found = fit_backbone(given_images, num_centroids=10).features(given_images).astype(np.float64)
    assert np.abs(found.mean(axis=0)).max() < 1e-4
    assert found.std(axis=0).max() < 1 + 1e-4
    assert np.median(found.std(axis=0)) > 1 - 1e-4


def test_a_probe_is_the_penalised_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = stream(5, "test")
    features = rng.normal([0, 5, 0, 3], size=(300, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 300) * (features[:, 1] > 5)
    fitted = fit_probe(features, labels, 3)
    logits = fitted.logits(features) - fitted.logits(features).mean(axis=1, keepdims=True)
    off = []
    for penalty in probe.PENALTIES:
        other = LogisticRegression(C=1 / (300 * penalty), tol=1e-6, max_iter=1000).fit(features, labels)
        off.append(np.abs(other.decision_function(features) - logits).max())
    assert min(off) < 0.005
    again = fit_probe(features, labels, 3)
    assert again.weights.tobytes() == fitted.weights.tobytes()


def test_labels_without_pattern_get_the_strongest_penalty():
    rng = stream(6, "test")
    fitted = fit_probe(rng.standard_normal((400, 30)).astype(np.float32), rng.integers(0, 2, 400), 2)
    assert np.abs(fitted.weights).max() < 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_backbone(np.zeros((5, 1, 9, 9), np.uint8)), "have 0 patches of more than one colour"),
        (lambda: fit_backbone(noise(5, 1, 4, 9)), "a patch of 2 pixels or more that fits"),
        (lambda: fit_backbone(np.zeros((5, 9, 9), np.uint8)), "a backbone is fitted to uint8"),
        (
            lambda: fit_backbone(noise(9, 1, 9, 9), num_centroids=4).features(noise(1, 3, 9, 9)),
            r"takes uint8 \(n, 1",
        ),
        (lambda: fit_backbone(noise(9, 1, 9, 9), num_centroids=4).features(noise(1, 1, 6, 9)), "7 x 7 pixels or more"),
        (lambda: fit_probe(np.zeros((4, 2), np.float32), np.zeros(4, int), 2), "n at least 5"),
        (lambda: unpack_probe(pack_weights({"w": np.zeros((2, 3), np.float32)}, "int8"), most_bytes=99), "no probe's"),
        (lambda: pack_probe(Probe(np.full((2, 2), np.inf, np.float32), np.zeros(2, np.float32))), "holds NaN or inf"),
    ],
)
def test_what_a_backbone_cannot_take_is_refused(call, message):
    with pytest.raises(FlSimError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
