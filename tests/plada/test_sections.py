"""A payload's optional sections: what is told comes back, within its step, for the bytes that it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.errors import FlSimError
from fl_sim.plada import sections
from fl_sim.plada.payload import Payload

FOUND = settings(derandomize=True, deadline=None, max_examples=120)
CLASSES = st.sampled_from([1, 2, 3, 10, 365, 65_536])


@st.composite
def told(draw, most=256):
    """(values (k,) below L, L, labels (k,), C), by class or not."""
    kept, count = draw(st.one_of(st.integers(0, 8), st.integers(0, 600))), draw(st.integers(2, most))
    classes = draw(CLASSES)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = rng.integers(0, draw(st.integers(1, classes)), kept)
    spread = draw(st.sampled_from([0, 1, 5, count]))
    values = (labels * draw(st.integers(0, 3)) + rng.integers(0, spread + 1, kept)) % count
    return values.astype(np.uint8), count, labels, classes


def kl(p, q):
    """KL(p || q) of two coins, in nats; p may be 1."""
    rest = np.where(p < 1, (1 - p) * np.log(np.maximum(1 - p, 1e-300) / (1 - q)), 0)
    return p * np.log(p / q) + rest


# --------------------------------------------------------------------------------------------------- curriculum order


@given(told())
@FOUND
def test_levels_come_back(drawn):
    levels, count, labels, _ = drawn
    for classes in (None, labels):
        section = sections.pack_levels(levels, count, classes)
        found, of = sections.unpack_levels(section, len(levels), classes)
        assert (found.dtype, of) == (np.uint8, count)
        np.testing.assert_array_equal(found, levels)
        assert len(section) <= 8 + (len(levels) * (count - 1).bit_length() + 7) // 8


@given(told())
@FOUND
def test_every_way_decodes_to_what_was_encoded(drawn):
    levels, count, labels, _ = drawn
    for way in range(3):
        section = sections._written(way, levels, count, labels)
        np.testing.assert_array_equal(sections._read(section, "section", len(levels), labels)[0], levels)


def test_levels_that_follow_the_class_cost_next_to_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 4000)
    alone, given_labels = (len(sections.pack_levels(labels % 4, 4, known)) for known in (None, labels))
    assert given_labels < 100 < 900 < alone <= 1000


def test_uneven_levels_cost_their_entropy():
    rng = np.random.default_rng(1)
    levels = rng.choice(4, 20_000, p=[0.7, 0.2, 0.05, 0.05])
    entropy = -np.dot([0.7, 0.2, 0.05, 0.05], np.log2([0.7, 0.2, 0.05, 0.05]))
    size = len(sections.pack_levels(levels, 4, np.zeros(20_000, int)))
    assert 20_000 * entropy / 8 * 0.97 < size < 20_000 * entropy / 8 * 1.03


# -------------------------------------------------------------------------------------------------------- soft labels


@given(told(most=2), st.integers(1, 8), st.integers(0, 10**6))
@FOUND
def test_confidences_come_back_within_half_a_step(drawn, bits, seed):
    _, _, labels, classes = drawn
    rng = np.random.default_rng(seed)
    confidences = np.clip(rng.beta(8, 0.5, len(labels)), 1 / classes, 1)
    section = sections.pack_confidences(confidences, bits, labels, classes)
    found = sections.unpack_confidences(section, len(labels), classes, labels)
    assert found.dtype == np.float32
    width = (np.pi / 2 - np.arcsin(classes**-0.5)) / 2**bits
    apart = np.abs(np.arcsin(np.sqrt(found.astype(float))) - np.arcsin(np.sqrt(confidences)))
    assert (apart <= width / 2 + 1e-3).all()
    assert ((found >= 1 / classes - 1e-6) & (found <= 1)).all()
    assert len(section) <= 8 + (len(labels) * bits + 7) // 8
    again = sections.pack_confidences(found, bits, labels, classes)  # a second time, nothing more is lost
    np.testing.assert_array_equal(sections.unpack_confidences(again, len(labels), classes, labels), found)


def test_one_bit_over_two_classes_by_hand():
    """The angles of 1/2 and 1 are 45 and 90 degrees; the middles of the two steps are sin^2 of 56.25 and 78.75."""
    labels = np.zeros(3, int)
    section = sections.pack_confidences(np.array([0.5, 0.8, 1.0]), 1, labels, 2)
    edge = np.sin(np.radians(67.5)) ** 2
    assert 0.85 < edge < 0.86
    found = sections.unpack_confidences(section, 3, 2, labels)
    np.testing.assert_allclose(found, np.sin(np.radians([56.25, 56.25, 78.75])) ** 2, rtol=1e-6)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_equal_angles_lose_the_same_everywhere_and_less_than_equal_steps_of_p(bits):
    """The worst loss of a step in the student's eyes (KL): 2 (half a width)^2, that at p = 1 the half of it, nearly."""
    p, classes = np.linspace(0.1, 1, 20_001), 10
    labels = np.zeros(len(p), int)
    ours = sections.unpack_confidences(sections.pack_confidences(p, bits, labels, classes), len(p), classes, labels)
    even = 0.1 + 0.9 * (np.minimum((p - 0.1) / 0.9 * 2**bits, 2**bits - 1) // 1 + 0.5) / 2**bits
    half = (np.pi / 2 - np.arcsin(0.1**0.5)) / 2**bits / 2
    lost = kl(p, ours.astype(float))
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 0.97)):
        assert lost[(p > low) & (p < high)].max() == pytest.approx(2 * half**2, rel=0.25)
    assert lost.max() < 0.5 * kl(p, even).max()


def test_soft_targets():
    found = sections.soft_targets(np.array([2, 0]), np.array([0.7, 1.0]), 4)
    np.testing.assert_allclose(found, [[0.1, 0.1, 0.7, 0.1], [1, 0, 0, 0]], atol=1e-7)
    assert sections.soft_targets(np.zeros(2, int), np.ones(2), 1).tolist() == [[1], [1]]


@given(st.integers(2, 3000), st.floats(0, 1))
@FOUND
def test_soft_targets_sum_to_1(classes, share):
    confidence = 1 / classes + share * (1 - 1 / classes)
    found = sections.soft_targets(np.array([classes - 1]), np.array([confidence], np.float32), classes)
    assert (found.dtype, found.shape) == (np.float32, (1, classes))
    assert found.astype(float).sum() == pytest.approx(1, abs=1e-6)
    assert (found >= 0).all()


# ------------------------------------------------------------------------------------------------ what is not taken


@pytest.mark.parametrize(("levels", "count", "labels", "says"), [
    ([0, 4], 4, None, "levels 0 to 4: must lie within 0 to 3"),
    ([-1, 0], 4, None, "levels -1 to 0"),
    ([0], 1, None, "1 curriculum levels: a payload has 2 to 256"),
    ([0], 257, None, "257 curriculum levels"),
    ([0, 1], 4, [0], "one for each of 2 kept references"),
])  # fmt: skip
def test_levels_that_are_refused(levels, count, labels, says):
    with pytest.raises(FlSimError, match=says):
        sections.pack_levels(np.array(levels), count, None if labels is None else np.array(labels))


@pytest.mark.parametrize(("confidences", "bits", "says"), [
    ([0.2, 1.0], 4, "confidences 0.2 to 1: the largest of 4 probabilities lies within 0.25 to 1"),
    ([0.5, 1.1], 4, "confidences 0.5 to 1.1"),
    ([np.nan, 0.5], 4, "confidences nan to nan"),
    ([0.5, 0.5], 9, "9 bits: a payload has 1 to 8"),
    ([0.5, 0.5], 0, "0 bits"),
])  # fmt: skip
def test_confidences_that_are_refused(confidences, bits, says):
    with pytest.raises(FlSimError, match=says):
        sections.pack_confidences(np.array(confidences), bits, np.zeros(2, int), 4)


@given(st.binary(max_size=40), st.integers(0, 60))
@FOUND
def test_any_bytes_are_refused_or_are_what_is_written_for_their_values(section, kept):
    labels = np.arange(kept) % 3
    try:
        values, count = sections.unpack_levels(section, kept, labels)
    except FlSimError:
        return
    assert len(values) == kept
    assert values.max(initial=0) < count
    assert sections._written(section[0], values, count, labels) == section


def test_sections_that_are_damaged():
    labels = np.arange(50) % 3
    levels = sections.pack_levels(labels, 3, labels)
    assert levels[0] == sections.BY_CLASS
    with pytest.raises(FlSimError, match="was packed by the labels"):
        sections.unpack_levels(levels, 50)
    with pytest.raises(FlSimError, match="one for each of 49"):
        sections.unpack_levels(levels, 49, labels)
    for damaged in (
        b"",
        levels[:1],
        b"\3" + levels[1:],
        levels[:1] + b"\0" + levels[2:],
        levels + b"\0",
        levels + b"1",
    ):
        with pytest.raises(FlSimError, match="curriculum order is damaged"):
            sections.unpack_levels(damaged, 50, labels)
    with pytest.raises(FlSimError, match="soft labels are damaged: 3 steps"):
        sections.unpack_confidences(levels, 50, 3, labels)


# --------------------------------------------------------------------------------------------------------------- file


def packed(**more):
    indices, labels = np.array([3, 4, 5, 40, 77]), np.array([1, 1, 1, 0, 2])
    return Payload.pack(
        indices, labels, reference=bytes(16), class_names=("a", "b", "c"), num_references=100, **more
    )  # fmt: skip


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_a_payload_carries_them(order, soft):
    levels, confidences = np.array([0, 1, 2, 0, 1]), np.array([0.99, 0.5, 0.7, 1.0, 0.4])
    more = {"levels": levels, "num_levels": 3} if order else {}
    more |= {"confidences": confidences, "bits": 8} if soft else {}
    payload = packed(**more)
    data = payload.to_bytes()
    read = Payload.from_bytes(data, most_references=100, most_kept=5)
    labels = read.unpack()[1]
    found, sure = read.levels(labels), read.confidences(labels)
    assert (found is not None, sure is not None) == (order, soft)
    if found is not None:
        assert (found[0].tolist(), found[1]) == ([0, 1, 2, 0, 1], 3)
    if sure is not None:
        np.testing.assert_allclose(sure, confidences, atol=3e-3)
    assert set(read.parts()) - {"header", "class names", "body"} == (
        {"curriculum order"} if order else set()
    ) | ({"soft labels"} if soft else set())  # fmt: skip
    assert sum(read.parts().values()) == len(data)


@pytest.mark.parametrize(("more", "says"), [
    ({"levels": np.zeros(4, int), "num_levels": 2}, "4 curriculum levels: there is one for each of 5 kept"),
    ({"confidences": np.ones(6)}, "6 confidences: there is one for each of 5 kept"),
])  # fmt: skip
def test_a_payload_refuses_what_does_not_fit(more, says):
    with pytest.raises(FlSimError, match=says):
        packed(**more)


def test_unpack_writes_them_too(tmp_path):
    from typer.testing import CliRunner

    from fl_sim.cli.main import app

    payload = packed(levels=np.array([0, 1, 1, 0, 1]), num_levels=2, confidences=np.full(5, 0.98), bits=2)
    (tmp_path / "task.plada").write_bytes(payload.to_bytes())
    run = CliRunner().invoke(app, ["plada", "info", str(tmp_path / "task.plada")])
    assert "curriculum order" in run.output
    assert "soft labels" in run.output
    for name in ("task.csv", "task.npz"):
        words = ["plada", "unpack", str(tmp_path / "task.plada"), "--out", str(tmp_path / name)]
        assert CliRunner().invoke(app, words).exit_code == 0
    sure = float(payload.confidences(np.array([1, 1, 1, 0, 2]))[0])
    assert (tmp_path / "task.csv").read_text().split()[:2] == ["index,label,level,confidence", f"3,1,0,{sure:.6g}"]
    with np.load(tmp_path / "task.npz") as held:
        assert held["levels"].tolist() == [0, 1, 1, 0, 1]
        np.testing.assert_allclose(held["confidences"], sure)
