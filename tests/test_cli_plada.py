"""The commands for payloads as a user meets them: pack without clients, info and unpack of a file or a run."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import call

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


def test_pack_writes_a_payload_its_folders_and_a_sheet_and_tells_how_to_read_them(tmp_path, fl_sim, scenario):
    code, out, _ = fl_sim("plada", "pack", *scenario, "--out", "new/my task.plada", "--sheet", "kept.png")
    assert code == 0, out
    file = tmp_path / "new/my task.plada"
    payload = Payload.from_bytes(file.read_bytes(), most_references=80, most_kept=80)
    assert f"{file.stat().st_size} bytes, the labels of {payload.num_kept} of 80 references" in out
    assert "random; a share of 1 by class, exponent 0" in out
    assert "the teacher's accuracy on the test rows is" in out
    assert file.stat().st_size <= 150
    assert np.load(tmp_path / "new/my task.folders.npy").tolist() == [0, 50]
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")

    # The very commands that it told, the second from another folder than the payload's.
    assert "fl-sim plada info 'new/my task.plada'" in out
    assert "fl-sim plada unpack 'new/my task.plada' --out 'new/my task.csv'" in out
    assert fl_sim("plada", "info", "new/my task.plada")[0] == 0
    assert fl_sim("plada", "unpack", "new/my task.plada", "--out", "new/my task.csv")[0] == 0
    with (tmp_path / "new/my task.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    indices, labels = payload.unpack(np.array([0, 50]))
    assert [(int(row["index"]), int(row["label"])) for row in rows] == list(zip(indices, labels, strict=True))


def test_a_run_makes_the_same_payload_and_its_folder_can_be_read(tmp_path, fl_sim, scenario):
    assert fl_sim("plada", "pack", *scenario, "--out", "task.plada")[0] == 0
    assert fl_sim("run", *scenario, "--out", "here")[0] == 0
    assert (tmp_path / "here/payload.plada").read_bytes() == (tmp_path / "task.plada").read_bytes()
    assert (tmp_path / "here/folders.npy").read_bytes() == (tmp_path / "task.folders.npy").read_bytes()
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
    for there in ("task.plada", "task.folders.npy", "kept.png"):
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
    assert "kept of each class: 0 (class 2) to 30 ([red]), median 0; 28 classes have none" in out


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


def test_a_folder_without_a_payload_and_folders_that_are_none_are_refused(tmp_path, fl_sim):
    (tmp_path / "empty").mkdir()
    assert fl_sim("plada", "info", "empty")[2].startswith("error: empty: holds no payload.plada; name a payload")
    (tmp_path / "task.plada").write_bytes(packed().to_bytes())
    (tmp_path / "task.folders.npy").write_text("not an array")
    assert "task.folders.npy: is not an array of folder starts" in fl_sim("plada", "info", "task.plada")[2]
    np.save(tmp_path / "right.npy", np.zeros(1, np.int64))
    assert fl_sim("plada", "info", "task.plada", "--folders", "right.npy")[0] == 0
    shutil.rmtree(tmp_path / "empty")
