"""The commands for payloads as a user meets them: pack without clients, info and unpack of a file or a run."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import call

from fl_sim.errors import FlSimError
from fl_sim.plada import codec, folders
from fl_sim.plada.folders import pack_folders, read_folders
from fl_sim.plada.payload import Payload
from fl_sim.randomness import stream

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fl_sim(tmp_path, monkeypatch, capsys) -> Command:
    """The command, in an empty launch folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(monkeypatch, capsys, *words)


@pytest.fixture
def scenario(tmp_path) -> tuple[str, ...]:
    """A small scenario over a reference set of eighty noisy images in two folders."""
    noise = stream(0, "test images")
    for k in range(80):
        folder = tmp_path / "images" / f"folder-{k // 50}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / f"{k:02d}.png")
    return (
        "plada-then-fedwqcp", f'reference.sets=["image-folder:{tmp_path}/images"]', "data.image_size=8",
        "data.server=200", "learn.budget_bytes=150", "learn.rule=random", "learn.safety={share=1,exponent=0}",
        "learn.teacher.architecture=linear", "learn.teacher.epochs=1",
        "clients.tier.weak.epochs=1", "clients.tier.strong.epochs=1", "runtime.name=inline",
    )  # fmt: skip


def packed(names: tuple[str, ...] = ("cat", "dog"), **more: Any) -> Payload:
    """A payload made by hand: every fifth of 200 references, three in four a cat."""
    indices = np.arange(40) * 5
    labels = np.where(np.arange(40) % 4 == 3, 1, 0)
    return Payload.pack(indices, labels, reference=bytes(range(16)), class_names=names, num_references=200, **more)


def numbers_of(text: str) -> dict[str, str]:
    """The last word of each line by those before it."""
    rows = [line.rsplit(maxsplit=1) for line in text.splitlines() if len(line.split()) > 1]
    return {name.strip(): number for name, number in rows}


# ---------------------------------------------------------------------------------------------------------------- pack


def test_pack_writes_a_payload_and_a_sheet_and_tells_how_to_read_them(tmp_path, fl_sim, scenario):
    code, out, _ = fl_sim("plada", "pack", *scenario, "--out", "new/my task.plada", "--sheet", "kept.png")
    assert code == 0, out
    file = tmp_path / "new/my task.plada"
    payload = Payload.from_bytes(file.read_bytes(), most_references=80, most_kept=80)
    assert f"{file.stat().st_size} bytes, the labels of {payload.num_kept} of 80 references" in out
    assert "random; a share of 1 by class, exponent 0" in out
    assert "the teacher's accuracy on the test rows is" in out
    assert file.stat().st_size <= 150
    assert payload.num_kept > 0
    assert codec.reading_of(payload.body) != "foldered"
    assert "its readers need no file but this: it is not packed by the reference set's folders" in out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["my task.plada"]
    none = set("0123456789") - {str(label) for label in payload.unpack()[1]}
    assert ("No reference is labelled" in out) == bool(none)
    assert "kept.png: some kept images of each class" in out
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")

    # The very commands that it told, the second from another folder than the payload's.
    assert "fl-sim plada info 'new/my task.plada'" in out
    assert "fl-sim plada unpack 'new/my task.plada' --out 'new/my task.csv'" in out
    assert fl_sim("plada", "info", "new/my task.plada")[0] == 0
    assert fl_sim("plada", "unpack", "new/my task.plada", "--out", "new/my task.csv")[0] == 0
    with (tmp_path / "new/my task.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    indices, labels = payload.unpack()
    assert [(int(row["index"]), int(row["label"])) for row in rows] == list(zip(indices, labels, strict=True))


def test_a_run_makes_the_same_payload_and_its_folder_can_be_read(tmp_path, fl_sim, scenario):
    assert fl_sim("plada", "pack", *scenario, "--out", "task.plada")[0] == 0
    assert fl_sim("run", *scenario, "--figures", "png", "--out", "here")[0] == 0
    assert (tmp_path / "here/payload.plada").read_bytes() == (tmp_path / "task.plada").read_bytes()
    assert not (tmp_path / "here/folders.npz").exists()
    assert (tmp_path / "here/payload.png").is_file()
    told = [fl_sim("plada", "info", name)[1].splitlines()[1:] for name in ("here", "here/payload.plada", "task.plada")]
    assert told[0] == told[1] == told[2]
    for name in ("here", "task.plada"):
        assert fl_sim("plada", "unpack", name, "--out", f"{name}.npz")[0] == 0
    one, two = np.load("here.npz"), np.load("task.plada.npz")
    assert one["indices"].tolist() == two["indices"].tolist()
    assert one["class_names"].tolist() == [str(c) for c in range(10)]


def test_pack_refuses_other_learning_and_overwrites_nothing(tmp_path, fl_sim, scenario):
    code, _, err = fl_sim("plada", "pack", "digits", "--out", "task.plada")
    assert (code, err) == (1, "error: learn = 'shared': only learn = 'plada' makes a payload; choose that\n")
    assert "must end in .plada" in fl_sim("plada", "pack", *scenario, "--out", "task.bin")[2]
    assert "must end in .png" in fl_sim("plada", "pack", *scenario, "--out", "task.plada", "--sheet", "kept.pdf")[2]
    for there in ("task.plada", "task.folders.npz", "kept.png"):
        (tmp_path / there).write_text("mine")
        _, _, err = fl_sim("plada", "pack", *scenario, "--out", "task.plada", "--sheet", "kept.png")
        assert err.startswith(f"error: {there}: is there already")
        assert (tmp_path / there).read_text() == "mine"
        (tmp_path / there).unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    (tmp_path / "flat").write_text("a file")
    assert "cannot be written" in fl_sim("plada", "pack", *scenario, "--out", "flat/task.plada")[2]


# ----------------------------------------------------------------------------------------------------- info and unpack


def test_info_tells_every_part_and_they_add_up(tmp_path, fl_sim):
    payload = packed(levels=np.arange(40) % 2, num_levels=2)
    (tmp_path / "task.plada").write_bytes(payload.to_bytes())
    code, out, _ = fl_sim("plada", "info", "task.plada")
    assert code == 0
    found = {name: int(number) for name, number in numbers_of(out).items() if number.isdigit()}
    assert found["header"] + found["class names"] + found["body"] + found["curriculum order"] == found["all"]
    assert found["all"] == len(payload.to_bytes())
    assert found["of it indices"] + found["of it labels"] == found["body"]
    assert (found["cat"], found["dog"]) == (30, 10)
    assert "40 of 200 references (20.000%), 2 classes" in out
    assert "reference set 000102030405060708090a0b0c0d0e0f" in out
    # log2 of a quarter and of three quarters
    assert "the entropy of the labels alone is 0.81" in out
    assert f"{8 * found['body'] / 40:.2f} bits a kept reference" in out
    assert "(indices)" in out
    assert "(bitmap)" in out
    assert "the entropy bound of a payload without clusters is" in out


def test_info_of_many_classes_tells_the_fewest_and_the_most(tmp_path, fl_sim):
    names = ("[red]", *(f"class {c}" for c in range(1, 30)))
    (tmp_path / "task.plada").write_bytes(packed(names).to_bytes())
    out = fl_sim("plada", "info", "task.plada")[1]
    assert "kept of each class: 0 (class 2) to 30 ([red]), median 0\n" in out
    told = ", ".join(f"class {c}" for c in range(2, 10))
    assert f"No reference is labelled {told}, and 20 more: students cannot learn these classes." in out


def test_info_of_an_empty_payload(tmp_path, fl_sim):
    none = np.zeros(0, np.int64)
    empty = Payload.pack(none, none, reference=bytes(16), class_names=("a",), num_references=5)
    (tmp_path / "task.plada").write_bytes(empty.to_bytes())
    code, out, _ = fl_sim("plada", "info", "task.plada")
    assert code == 0
    assert "0 of 5 references (0.000%), 1 class\n" in out
    assert "bits a kept reference" not in out


def test_unpack_names_the_classes_where_asked(tmp_path, fl_sim):
    (tmp_path / "task.plada").write_bytes(packed(("a, b", "dog"), confidences=np.full(40, 0.75)).to_bytes())
    assert (
        "40 references, by index, label, confidence, name, are in"
        in (fl_sim("plada", "unpack", "task.plada", "--names", "--out", "named.csv")[1])
    )
    with Path("named.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["name"] for row in rows[:4]] == ["a, b"] * 3 + ["dog"]
    assert float(rows[0]["confidence"]) == pytest.approx(0.75, abs=0.05)
    fl_sim("plada", "unpack", "task.plada", "--out", "plain.csv")
    assert Path("plain.csv").read_text().startswith("index,label,confidence\n0,0,0.7")
    code, _, err = fl_sim("plada", "unpack", "task.plada", "--names", "--out", "x.npz")
    assert code == 1
    assert "--names: is for a .csv" in err


def test_a_folder_without_a_payload_is_refused(tmp_path, fl_sim):
    (tmp_path / "empty").mkdir()
    assert fl_sim("plada", "info", "empty")[2].startswith("error: empty: holds no payload.plada; name a payload")


def test_the_help_begins_with_what_a_payload_is_and_the_first_command(fl_sim):
    said = " ".join(fl_sim("plada", "--help")[1].split())
    assert said.index("A payload is a task in kilobytes") < said.index("fl-sim plada pack plada-then-fedwqcp --out ")
    assert said.index("fl-sim plada pack plada-then-fedwqcp --out digits.plada") < said.index("Commands")


# ------------------------------------------------------------------------------------------------------------- folders

STARTS, REFERENCE = np.arange(40) * 25, bytes(range(16))


def by_folders() -> Payload:
    """Of 40 folders half are kept whole, each with a label of its own: nothing is smaller than to say just that."""
    rng = stream(0, "test folders")
    folder = np.sort(rng.choice(40, 20, replace=False))
    indices = (folder[:, None] * 25 + np.arange(25)).ravel()
    labels = np.repeat(rng.integers(10, size=20), 25)
    names = tuple("0123456789")
    return Payload.pack(
        indices, labels, reference=REFERENCE, class_names=names, num_references=1000, groups=STARTS
    )  # fmt: skip


def test_the_folders_file_says_starts_and_reference_and_is_the_same_each_time():
    data = pack_folders(STARTS, REFERENCE)
    assert data == pack_folders(STARTS.tolist(), REFERENCE)  # type: ignore[arg-type]
    assert read_folders(data, REFERENCE).tolist() == STARTS.tolist()
    with np.load(io.BytesIO(data), allow_pickle=False) as held:
        assert (held["starts"].dtype, held["reference"].tobytes()) == (np.int64, REFERENCE)
    most = np.arange(folders.MOST_FOLDERS)
    assert np.array_equal(read_folders(pack_folders(most, REFERENCE), REFERENCE), most)


def test_starts_of_another_reference_are_refused_with_both_digests():
    with pytest.raises(FlSimError) as error:
        read_folders(pack_folders(STARTS, bytes(16)), REFERENCE)
    assert bytes(16).hex() in str(error.value)
    assert REFERENCE.hex() in str(error.value)


@pytest.mark.parametrize(("starts", "reference"), [
    ([0, 5, 5], REFERENCE), ([-1, 5], REFERENCE), ([[0, 5]], REFERENCE), (range((1 << 18) + 1), REFERENCE),
    ([0, 5], b"short"),
])  # fmt: skip
def test_what_no_folders_file_is_made_of(starts, reference):
    with pytest.raises(FlSimError):
        pack_folders(np.array(starts), reference)


def test_what_is_no_folders_file_is_refused_in_one_line():
    told = np.frombuffer(REFERENCE, np.uint8)
    tall = np.array([2**63 - 1, -(2**63)])  # ascends if differences overflow
    objects = np.array([0, "x"], object)

    def saved(how: Any = np.savez, **arrays: Any) -> bytes:
        file = io.BytesIO()
        how(file, **arrays)
        return file.getvalue()

    plain = io.BytesIO()
    np.save(plain, STARTS)
    wrong = [
        b"", b"not a file", plain.getvalue(), bytes(folders.MOST_FILE + 1), saved(), saved(starts=STARTS),
        saved(starts=STARTS, reference=told, more=told), saved(starts=STARTS, reference=told[:8]),
        saved(starts=STARTS.astype(float), reference=told), saved(starts=STARTS[:, None], reference=told),
        saved(starts=tall, reference=told), saved(starts=STARTS[::-1], reference=told),
        saved(starts=objects, reference=told), pack_folders(STARTS, REFERENCE)[:-30],
        saved(np.savez_compressed, starts=np.zeros(1 << 24, np.int64), reference=told),  # a bomb: 128 MiB of zeros
    ]  # fmt: skip
    for data in wrong:
        with pytest.raises(FlSimError, match="no file of folder starts") as error:
            read_folders(data, REFERENCE)
        assert "\n" not in str(error.value)
    assert (
        read_folders(saved(np.savez_compressed, starts=STARTS, reference=told), REFERENCE).tolist() == STARTS.tolist()
    )


@pytest.mark.parametrize(("header", "told"), [
    (b"{'descr': '<i8', 'fortran_order': False, 'shape': (1125899906842624,)}", "declares int64 .* and holds 0 bytes"),
    (b"{[]: 1}", "no file of folder starts"), (b"(" * 5000, "no file of folder starts"),
])  # fmt: skip
def test_a_header_that_declares_more_than_is_there_or_nothing_is_refused(header: bytes, told: str):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as held:
        for name in ("starts.npy", "reference.npy"):
            held.writestr(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(FlSimError, match=told):
        read_folders(file.getvalue(), REFERENCE)


def test_no_changed_byte_of_a_folders_file_passes_as_other_starts():
    data, rng = pack_folders(STARTS, REFERENCE), stream(0, "test bytes")
    for _ in range(600):
        place = int(rng.integers(len(data)))
        changed = data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :]
        with contextlib.suppress(FlSimError):
            assert read_folders(changed, REFERENCE).tolist() == STARTS.tolist()


def test_a_payload_by_folders_is_read_with_them_alone(tmp_path, fl_sim):
    payload = by_folders()
    assert codec.reading_of(payload.body) == "foldered"
    (tmp_path / "task.plada").write_bytes(payload.to_bytes())
    (tmp_path / "run").mkdir()
    (tmp_path / "run/payload.plada").write_bytes(payload.to_bytes())
    for words in (("info", "task.plada"), ("unpack", "run", "--out", "x.csv")):
        code, _, err = fl_sim("plada", *words)
        assert (code, "--folders" in err, err.count("\n")) == (1, True, 1)
    assert not (tmp_path / "x.csv").exists()

    (tmp_path / "told.npz").write_bytes(pack_folders(STARTS, REFERENCE))
    (tmp_path / "other.npz").write_bytes(pack_folders(STARTS, bytes(16)))
    np.save(tmp_path / "old.npy", STARTS)
    assert fl_sim("plada", "info", "task.plada", "--folders", "told.npz")[0] == 0
    assert (
        f"other.npz: holds the folder starts of the reference set {bytes(16).hex()}"
        in (fl_sim("plada", "info", "task.plada", "--folders", "other.npz")[2])
    )
    assert "old.npy: is no file of folder starts" in fl_sim("plada", "info", "run", "--folders", "old.npy")[2]
    assert "gone.npz: cannot be read" in fl_sim("plada", "info", "run", "--folders", "gone.npz")[2]

    shutil.copy("told.npz", "task.folders.npz")
    shutil.copy("told.npz", "run/folders.npz")
    indices = payload.unpack(STARTS)[0].tolist()
    for name in ("task.plada", "run", "run/payload.plada"):
        to = f"{name.replace('/', '-')}.npz"
        assert fl_sim("plada", "unpack", name, "--out", to)[0] == 0
        assert np.load(to)["indices"].tolist() == indices


def test_a_payload_not_by_folders_does_not_look_at_what_lies_beside(tmp_path, fl_sim):
    (tmp_path / "task.plada").write_bytes(packed().to_bytes())
    plain = fl_sim("plada", "info", "task.plada")
    (tmp_path / "task.folders.npz").write_text("not starts")
    assert fl_sim("plada", "info", "task.plada") == plain
    assert fl_sim("plada", "info", "task.plada", "--folders", "task.folders.npz")[0] == 1
    (tmp_path / "right.npz").write_bytes(pack_folders(np.array([0, 100]), REFERENCE))
    assert fl_sim("plada", "info", "task.plada", "--folders", "right.npz") == plain


def test_pack_and_run_write_the_starts_of_a_payload_by_folders(tmp_path, fl_sim, scenario):
    noise = stream(0, "test folders of one image")
    for k in range(40):  # 20 copies of one image in each folder: one label, whatever the teacher says
        folder = tmp_path / "alike" / f"{k:02d}"
        folder.mkdir(parents=True)
        Image.fromarray(noise.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / "00.png")
        for copy in range(1, 20):
            shutil.copy(folder / "00.png", folder / f"{copy:02d}.png")
    words = [word for word in scenario if not word.startswith(("reference.sets", "learn.budget"))]
    words += [f'reference.sets=["image-folder:{tmp_path}/alike"]', "learn.keep_fraction=0.5"]
    words[words.index("learn.rule=random")] = "learn.rule=lowest"
    words = [word for word in words if not word.startswith("learn.safety")]
    code, out, err = fl_sim("plada", "pack", *words, "--out", "task.plada")
    assert code == 0, err
    payload = Payload.from_bytes((tmp_path / "task.plada").read_bytes(), most_references=800, most_kept=800)
    assert codec.reading_of(payload.body) == "foldered"
    data = (tmp_path / "task.folders.npz").read_bytes()
    assert read_folders(data, payload.reference).tolist() == list(range(0, 800, 20))
    assert "task.folders.npz: where these folders start; its readers need that too" in out
    assert fl_sim("run", *words, "--out", "here")[0] == 0
    assert (tmp_path / "here/folders.npz").read_bytes() == data
    assert fl_sim("plada", "info", "here")[0] == fl_sim("plada", "info", "task.plada")[0] == 0
    labels = payload.unpack(read_folders(data, payload.reference))[1]
    missing = [name for c, name in enumerate(payload.class_names) if c not in labels]
    assert missing  # half of 40 folders, and not all ten classes among them
    line = f"No reference is labelled {', '.join(missing[:8])}"
    assert line in out
    assert line in fl_sim("plada", "info", "here")[1]
