"""The payload's codec and its file: what comes out is what went in, and nothing else is ever taken for it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.cli.main import app
from fl_sim.errors import FlSimError
from fl_sim.plada import baselines, codec, density, gaps, payload
from fl_sim.plada.coder import Coder, frequencies, uniform
from fl_sim.plada.payload import HEADER, LAYOUT, VERSION, Payload

REFERENCE = bytes(range(16))
FOUND = settings(derandomize=True, deadline=None, max_examples=60)


@st.composite
def payloads(draw):
    """(indices, labels, N, C, folder starts or None), clustered or not."""
    size = draw(st.one_of(st.integers(1, 40), st.integers(1, 1500)))
    classes = draw(st.sampled_from([1, 2, 3, 10, 365, 1500, 65_536]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    folders = np.sort(rng.choice(size, draw(st.integers(1, min(size, 30))), replace=False))
    share = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])) * rng.gamma(0.3, 3, len(folders) + 1)
    if draw(st.booleans()):
        share[:] = draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    folder = np.searchsorted(folders, np.arange(size), side="right")
    indices = np.flatnonzero(rng.random(size) < share[folder])
    main = rng.integers(0, classes, len(folders) + 1)
    noise = rng.integers(0, classes, len(indices))
    labels = np.where(rng.random(len(indices)) < draw(st.sampled_from([0.0, 0.8, 1.0])), main[folder[indices]], noise)
    return indices, labels, size, classes, draw(st.sampled_from([None, folders]))


def same(found, indices, labels):
    assert found[0].dtype == found[1].dtype == np.int64
    np.testing.assert_array_equal(found[0], indices)
    np.testing.assert_array_equal(found[1], labels)


def clustered(seed=0, size=60_000, classes=12):
    """Folders of unequal density, each with a class of its own: (indices, labels, folder starts)."""
    rng = np.random.default_rng(seed)
    starts = np.arange(0, size, 200)
    density = np.minimum(rng.gamma(0.1, 0.3, len(starts)), 1)
    indices = np.flatnonzero(rng.random(size) < np.repeat(density, 200))
    main = rng.integers(0, classes, len(starts))
    noise = rng.integers(0, classes, len(indices))
    return indices, np.where(rng.random(len(indices)) < 0.9, main[indices // 200], noise), starts


# -------------------------------------------------------------------------------------------------------------- codec


@given(payloads())
@FOUND
def test_what_is_encoded_is_decoded(payload):
    indices, labels, size, classes, folders = payload
    body = codec.encode(indices, labels, size, classes, folders)
    same(codec.decode(body, size, len(indices), classes, folders), indices, labels)
    if len(indices):
        assert len(body) <= min(baselines.zstd_sizes(indices, labels, size, classes).values())


@given(payloads())
@FOUND
def test_every_reading_decodes_to_what_was_encoded(payload):
    """Whichever is smallest: those that were not chosen must be right too."""
    indices, labels, size, classes, folders = payload
    if not len(indices):
        return
    starts = codec._starts(folders, size)
    heads = [codec.PLAIN | prior << 2 for prior in range(len(codec.PRIORS))]
    heads += [codec.CLUSTERED | hazard << 2 for hazard in (0, 6, 15)]
    for head in heads + [codec.FOLDERED] * (starts is not None):
        body = codec._written(head, indices, labels, size, classes, starts if head == codec.FOLDERED else None)
        same(codec.decode(body, size, len(indices), classes, folders), indices, labels)
    variant, content = codec.paper.smallest(indices, labels, size, classes, 10**9)
    same(codec.decode(bytes([codec.PAPER | variant << 2]) + content, size, len(indices), classes), indices, labels)


@pytest.mark.parametrize(("size", "classes", "kept"), [
    *itertools.product([0, 1, 2, 7, 100_000], [1, 2, 65_536], ["none", "the last"]),
    *itertools.product([0, 1, 2, 7], [1, 2, 65_536], ["all"]),
    (100_000, 2, "all"), (5000, 65_536, "all"),  # more of many classes take seconds
])  # fmt: skip
def test_the_corners(size, classes, kept):
    indices = {"none": np.arange(0), "all": np.arange(size), "the last": np.arange(size)[-1:]}[kept]
    labels = np.full(len(indices), classes - 1)
    body = codec.encode(indices, labels, size, classes)
    same(codec.decode(body, size, len(indices), classes), indices, labels)
    assert len(body) <= 200


def test_gaps_beyond_24_bits():
    indices, size = np.array([0, 5, 40_000_000, 90_000_000, 99_999_999]), 100_000_000
    for head in (codec.PLAIN, codec.CLUSTERED):
        body = codec._written(head, indices, np.arange(5), size, 5)
        same(codec.decode(body, size, 5, 5), indices, np.arange(5))
    starts = np.array([0, 1000, size])  # a folder too wide for one uniform symbol
    body = codec._written(codec.FOLDERED, indices[[1, 3]], np.arange(2), size, 5, starts)
    same(codec.decode(body, size, 2, 5, starts[:2]), indices[[1, 3]], np.arange(2))


def test_the_buckets_of_gaps_tile_the_numbers():
    numbers = np.concatenate([np.arange(5000), 2 ** np.arange(2, 31), 2 ** np.arange(2, 31) - 1])
    found = [gaps.bucket_of(int(number)) for number in numbers]
    assert [bucket for bucket, _, _ in found] == gaps.buckets_of(numbers).tolist()
    for number, (bucket, low, bits) in zip(numbers, found, strict=True):
        assert low == gaps.bucket_lows()[bucket] <= number < low + (1 << bits)
        assert bits == gaps.bucket_widths()[bucket]
    ends = gaps.bucket_lows() + (1 << gaps.bucket_widths())
    np.testing.assert_array_equal(ends[:-1], gaps.bucket_lows()[1:])


def test_the_laws_of_gaps():
    weights = gaps.geometric(1000, 100)
    low, high = gaps.bucket_lows()[10], gaps.bucket_lows()[11]
    assert weights[10] / (1 << 20) == pytest.approx(0.9**low - 0.9**high, abs=2e-6)
    assert gaps.without_return(50, 3, 50)[0] / (1 << 20) == pytest.approx(1 - (49 / 50) ** 3, abs=2e-6)


def test_the_beliefs_of_the_density_are_those_of_a_forward_pass():
    """Reference by reference, in floats: the density stays or is drawn anew, and the reference is kept or not."""
    size, kept, hazard = 3000, 60, 3
    ours = density.Density(size, kept, hazard)
    densities = density._densities(size, kept) / 2**density.UNIT
    prior = density._prior(densities=density._densities(size, kept)) / 2**density.UNIT
    assert densities[[0, -1]] == pytest.approx([kept / size / 1024, 0.98], rel=1e-3)
    assert prior.sum() == pytest.approx(1, abs=1e-6)
    anew = 2.0 ** -(hazard + 2)
    belief = prior.copy()
    for gap in (0, 0, 1, 5, 0, 72, 7, 2, 208, 3, 0):  # middles of their buckets
        chances, miss = np.zeros(gaps.NUM_BUCKETS), belief.copy()
        for step in range(size):
            miss = (1 - anew) * miss + anew * miss.sum() * prior
            chances[gaps.bucket_of(step)[0]] += (miss * densities).sum()
            miss = miss * (1 - densities)
        chances[gaps.bucket_of(size - 1)[0]] += miss.sum()
        law = ours.law()
        np.testing.assert_allclose(law / law.sum(), chances, atol=2e-4)
        same = belief * (1 - anew) ** (gap + 1) * (1 - densities) ** gap * densities
        for _ in range(gap):
            belief = ((1 - anew) * belief + anew * belief.sum() * prior) * (1 - densities)
        belief = ((1 - anew) * belief + anew * belief.sum() * prior) * densities
        assert ours.met(gaps.bucket_of(gap)[0]) / 256 == pytest.approx(same.sum() / belief.sum(), abs=0.006)
        belief /= belief.sum()


def test_a_body_ends_in_the_fewest_bytes():
    """The decoder finds every symbol, also where the last number carries over, and no shorter beginning would do."""
    rng, shorter = np.random.default_rng(2), 0
    skewed = frequencies(np.array([1, 4_000_000]))
    for _ in range(600):
        symbols, coder = (rng.random(rng.integers(1, 40)) < rng.choice([0.5, 0.99])).astype(int).tolist(), Coder()
        models = [skewed if rng.random() < 0.5 else uniform(2) for _ in symbols]
        for symbol, using in zip(symbols, models, strict=True):
            coder.code(symbol, using)
        body = coder.body()
        reader = Coder(body)
        assert [reader.code(0, using) for using in models] == symbols
        assert len(body) <= len(np.asarray(coder._written.get_compressed()).tobytes())
        shorter += 4 * len(coder._written.get_compressed()) - len(body)
    assert shorter > 600


def test_a_large_payload_without_clusters_is_not_tried_as_one():
    rng = np.random.default_rng(7)
    indices = np.sort(rng.choice(1_000_000, 40_000, replace=False))
    assert codec._clustered_head(indices, rng.integers(0, 10, 40_000), 10) is None
    assert codec._clustered_head(indices[:4000], rng.integers(0, 10, 4000), 10) is not None


def test_a_shuffled_payload_comes_within_2_percent_of_the_bound():
    rng = np.random.default_rng(5)
    indices, labels = np.sort(rng.choice(100_000, 4000, replace=False)), rng.integers(0, 10, 4000)
    body = codec.encode(indices, labels, 100_000, 10)
    assert len(body) < 1.02 * baselines.bound(labels, 100_000)


def test_a_clustered_payload_is_22_percent_under_zstd():
    indices, labels, starts = clustered()
    zstd = min(baselines.zstd_sizes(indices, labels, 60_000, 12).values())
    assert zstd > 1024
    body = codec.encode(indices, labels, 60_000, 12, starts)
    assert codec.reading_of(body) == "foldered"
    assert len(body) < 0.78 * zstd
    alone = codec.encode(indices, labels, 60_000, 12)
    assert codec.reading_of(alone) == "clustered"
    assert len(alone) < 0.78 * zstd


def test_a_pattern_that_only_zstd_sees_is_left_to_zstd():
    size = 30_000
    indices = np.arange(0, size, 3)
    labels = np.tile(np.arange(7), len(indices))[: len(indices)]
    body = codec.encode(indices, labels, size, 7)
    assert codec.reading_of(body) == "paper"
    assert len(body) <= min(baselines.zstd_sizes(indices, labels, size, 7).values())
    same(codec.decode(body, size, len(indices), 7), indices, labels)


def test_the_bytes_are_the_same_on_every_machine():
    indices, labels, starts = clustered(3, 20_000)
    bodies = b"".join([
        codec.encode(indices, labels, 20_000, 12),
        codec.encode(indices, labels, 20_000, 12, starts),
        codec._written(codec.PLAIN, indices, labels, 20_000, 12),
    ])  # fmt: skip
    assert hashlib.sha256(bodies).hexdigest() == "78d2d7f39f781a9595492a5f5eeb3071f80cc4435895546300eb71371848aac2"


@given(st.binary(min_size=1, max_size=60), st.integers(0, 400), st.sampled_from([1, 2, 10, 1500]))
@FOUND
def test_any_bytes_decode_to_a_payload_or_are_refused(body, kept, classes):
    try:
        indices, labels = codec.decode(body, 400, kept, classes, np.array([0, 10, 200]))
    except FlSimError:
        return
    assert len(indices) == len(labels) == kept
    assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize(("indices", "labels", "size", "classes", "told"), [
    ([3, 2], [0, 0], 5, 2, "must ascend within 0 to 4"),
    ([2, 2], [0, 0], 5, 2, "must ascend"),
    ([-1], [0], 5, 2, "must ascend"),
    ([5], [0], 5, 2, "must ascend"),
    ([1], [2], 5, 2, "labels 2 to 2: classes are 0 to 1"),
    ([1], [0], 5, 70_000, "70000 classes: a payload has 1 to 65536"),
    ([1], [0, 1], 5, 2, "one label an index"),
])  # fmt: skip
def test_what_is_no_payload_is_refused(indices, labels, size, classes, told):
    with pytest.raises(FlSimError, match=told):
        codec.encode(np.array(indices), np.array(labels), size, classes)


def test_a_body_by_folders_needs_the_folders():
    indices, labels, starts = clustered()
    body = codec.encode(indices, labels, 60_000, 12, starts)
    with pytest.raises(FlSimError, match="by the reference set's folders: give their starts"):
        codec.decode(body, 60_000, len(indices), 12)


def test_a_bomb_of_zstd_stops_at_the_declared_size():
    import zstandard

    magicless = zstandard.ZstdCompressionParameters.from_level(19, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    bomb = zstandard.ZstdCompressor(compression_params=magicless).compress(bytes(200_000_000))
    tracemalloc.start()
    with pytest.raises(FlSimError, match="damaged"):
        codec.decode(bytes([codec.PAPER]) + bomb, 1000, 10, 2)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


# ---------------------------------------------------------------------------------------------------------- baselines


def test_the_papers_encodings():
    indices, labels = np.array([2, 5, 300]), np.array([1, 0, 2])
    assert baselines.indexed(indices, labels, 3) == (struct.pack("<3H", 2, 3, 295), bytes([1, 0, 2]))
    mask, told = baselines.bitmap(np.array([0, 9]), np.array([1, 0]), 12, 300)
    assert (mask, told) == (bytes([0b10000000, 0b01000000]), struct.pack("<2H", 1, 0))


def test_the_bound():
    assert baselines.bound(np.array([0, 1, 0, 1]), 10) == pytest.approx((np.log2(210) + 4) / 8)
    assert baselines.bound(np.array([], int), 10) == pytest.approx(0)


# --------------------------------------------------------------------------------------------------------------- file


def packed(**more):
    indices, labels = np.array([3, 4, 5, 40, 77]), np.array([1, 1, 1, 0, 2])
    payload = Payload.pack(
        indices, labels, reference=REFERENCE, class_names=("a", "b é", "c"), num_references=100
    )  # fmt: skip
    return Payload(**{**payload.__dict__, **more})


@FOUND
@given(
    references=st.integers(0, 10**8), kept=st.integers(0, 2**31), classes=st.integers(0, 10),
    body=st.binary(max_size=8), more=st.binary(max_size=4),
)  # fmt: skip
def test_a_forged_header_is_not_believed_before_its_body(references, kept, classes, body, more):
    """52 bytes once took 17 s and 1.6 GB: of a header no more is believed than its body may hold."""
    names = "\n".join(f"c{c}" for c in range(classes + 1)).encode()
    told = (payload.MAGIC, payload.VERSION, 0, bytes(16), references, kept, classes, len(names), len(body), len(more))
    head = payload.LAYOUT.pack(*told)
    data = head + payload.checksum(head, names + body + more) + names + body + more
    tracemalloc.start()
    try:
        with contextlib.suppress(FlSimError):
            Payload.from_bytes(data, most_references=10**8, most_kept=None).unpack()
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_who_trusts_a_payload_may_allow_more():
    data = Payload.pack(
        np.arange(70_000), np.zeros(70_000, np.int64), reference=REFERENCE, class_names=("a",), num_references=70_000
    ).to_bytes()
    with pytest.raises(FlSimError, match=r"70000 kept in a body of \d+ bytes, where at most \d+ are believed"):
        Payload.from_bytes(data, most_references=10**6, most_kept=None)
    assert Payload.from_bytes(data, most_references=10**6, most_kept=10**6).num_kept == 70_000


def read(data, most_references=100, most_kept=5):
    return Payload.from_bytes(data, most_references=most_references, most_kept=most_kept)


@pytest.mark.parametrize("more", [{}, {"order": b"xyz"}, {"soft_labels": b""}, {"order": b"", "soft_labels": b"12"}])
def test_a_file_is_read_as_it_was_written(more):
    payload = packed(**more)
    data = payload.to_bytes()
    assert read(data) == payload
    assert sum(payload.parts().values()) == len(data)
    same(read(data).unpack(), [3, 4, 5, 40, 77], [1, 1, 1, 0, 2])


def test_the_header_has_48_bytes():
    assert HEADER == packed().parts()["header"] == 48
    assert len(packed().to_bytes()) == 48 + len("a\nb é\nc".encode()) + len(packed().body)


@pytest.mark.parametrize("names", [("",), ("one\nline",), ("", ""), tuple(map(str, range(65_536)))])
def test_odd_class_names(names):
    payload = Payload.pack(np.arange(1), np.zeros(1), reference=REFERENCE, class_names=names, num_references=1)
    assert read(payload.to_bytes()).class_names == names


def test_every_flipped_bit_is_refused():
    data = packed(order=b"xyz").to_bytes()
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(FlSimError):
            read(bytes(damaged), 2**32, 2**32)


def test_every_cut_tail_is_refused():
    data = packed(order=b"xyz").to_bytes()
    for length in range(len(data)):
        with pytest.raises(FlSimError, match=r"is cut|not a payload"):
            read(data[:length])
    with pytest.raises(FlSimError, match="bytes after its end"):
        read(data + b"\0")


def forged(place, kind, value):
    """A file whose header says something else, with the checksum of its maker."""
    data = bytearray(packed().to_bytes())
    struct.pack_into(kind, data, place, value)
    head, rest = bytes(data[: LAYOUT.size]), bytes(data[HEADER:])
    return head + zlib.crc32(head + rest).to_bytes(4, "little") + rest


@pytest.mark.parametrize(("data", "told"), [
    (b"", "not a payload"),
    (b"PNG" + bytes(60), "not a payload: it does not begin with PLDA"),
    (forged(4, "<B", VERSION + 1), f"version {VERSION + 1}; this program reads version {VERSION}"),
    (forged(5, "<B", 4), "flags 0x04 ask for sections that this program does not know"),
    (forged(22, "<I", 101), "declares 101 references, and at most 100 are allowed here"),
    (forged(26, "<I", 6), "declares 6 kept, and at most 5 are allowed here"),
    (forged(30, "<H", 7), "declares 8 classes and names 3"),
    (forged(22, "<I", 4), "5 kept of 4 references"),
])  # fmt: skip
def test_a_file_that_is_not_ours_is_refused(data, told):
    with pytest.raises(FlSimError, match=told):
        read(data)


def test_what_declares_too_much_is_refused_before_memory_is_taken():
    data = forged(22, "<I", 2**31 - 1)
    tracemalloc.start()
    with pytest.raises(FlSimError, match="declares 2147483647 references, and at most 100 are allowed here"):
        read(data)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_another_reference_set_is_refused_with_both_digests():
    packed().for_reference(REFERENCE)
    with pytest.raises(FlSimError, match=f"{REFERENCE.hex()}.*{bytes(16).hex()}"):
        packed().for_reference(bytes(16))


# ------------------------------------------------------------------------------------------------------------ command


def command(*words):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, ["plada", *map(str, words)])


def test_info_and_unpack(tmp_path):
    file = tmp_path / "task.plada"
    file.write_bytes(packed().to_bytes())
    shown = command("info", file).output
    for told in ("header", "48", "class names", "5 of 100 references", "3 classes", REFERENCE.hex(), "Zstd-19"):
        assert told in shown
    assert command("unpack", file, "--out", tmp_path / "task.csv").exit_code == 0
    assert (tmp_path / "task.csv").read_text().split() == ["index,label", "3,1", "4,1", "5,1", "40,0", "77,2"]
    assert command("unpack", file, "--out", tmp_path / "task.npz").exit_code == 0
    with np.load(tmp_path / "task.npz") as held:
        same((held["indices"], held["labels"]), [3, 4, 5, 40, 77], [1, 1, 1, 0, 2])
        assert held["class_names"].tolist() == ["a", "b é", "c"]


@pytest.mark.parametrize(("words", "told"), [
    (["unpack", "task.plada", "--out", "x.txt"], "must end in .csv or .npz"),
    (["unpack", "task.plada", "--out", "task.npz"], "is there already"),
    (["unpack", "task.plada", "--out", "x.csv", "--most-kept", "4"], "declares 5 kept, and at most 4"),
    (["info", "nothing.plada"], "cannot be read"),
])  # fmt: skip
def test_what_the_commands_refuse(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.plada").write_bytes(packed().to_bytes())
    (tmp_path / "task.npz").write_bytes(b"")
    assert told in str(command(*words).exception)
