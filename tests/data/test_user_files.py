"""What users give as files: encodings, what is no plain file, damaged data; and that the locale does not matter."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl_sim.data import named, vision
from fl_sim.data.sets import mnist
from fl_sim.data.sets.fashion_mnist import read_idx
from fl_sim.data.user_files import content_of, text_of
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError
from fl_sim.scenario.toml import locate, read

NOBODY = 65534
FL_SIM = str(Path(sys.executable).with_name("fl-sim"))
TOML = '[[clients.tier]]\nname = "schwächer-強い"\n'


# ----------------------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_scenario_is_read_as_editors_write_it(encoding, newline, tmp_path):
    file = tmp_path / "mine.toml"
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    file.write_bytes((mark + TOML.replace("\n", newline)).encode(encoding))
    assert read(file) == tomllib.loads(TOML)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-32"])
def test_another_encoding_is_refused_in_one_line(encoding, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes('name = "schwächer"'.encode(encoding))
    with pytest.raises(
        ScenarioError, match=r"mine\.toml: cannot be read: is not in UTF-8 .*; save it in UTF-8$"
    ) as said:
        read(file)
    assert "\n" not in str(said.value)


# ----------------------------------------------------------------------------------------------- what is no plain file


def test_a_pipe_is_not_opened_and_a_folder_is_called_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(FlSimError, match=r"pipe\.toml: cannot be read: is a pipe or a device; save"):
        content_of(tmp_path / "pipe.toml")
    with pytest.raises(FlSimError, match=r"folder\.toml: cannot be read: is a folder; name a file"):
        text_of(tmp_path / "folder.toml")
    for name in ("pipe.toml", "folder.toml"):
        with pytest.raises(ScenarioError, match=f"{name}: is no plain file; name a TOML file"):
            locate(tmp_path / name)


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 1")
    file.chmod(0)
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(NOBODY)
        with pytest.raises(FlSimError, match=r"mine\.toml: cannot be read: Permission denied$"):
            content_of(file)
    finally:
        os.seteuid(before)


def test_a_payload_is_a_plain_file(tmp_path):
    place = tmp_path / "x.plada"
    os.mkfifo(place)
    told = [FL_SIM, "plada", "info", str(place)]
    done = subprocess.run(told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {place}: ")
    assert done.stderr.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- damaged data

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"cut {share}": lambda content, share=share: content[: int(share * len(content))] for share in (0.02, 0.4, 0.97)
    },
    "empty": lambda _: b"",
    "zeroed": lambda content: bytes(len(content)),
    "magic": lambda content: b"\xff\xfe\xfd\xfc" + content[4:],
    "stream": lambda content: content[:10] + b"\xff" * 20 + content[30:],
    "middle": lambda content: content[: len(content) // 2] + b"\xff" * 40 + content[len(content) // 2 + 40 :],
}


def write_idx(folder: Path, ending: str = "", train: int = 3) -> None:
    """So many training and two test images of 4 x 5 pixels as their publisher's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in zip(vision.IDX_NAMES, [(train, 4, 5), (train,), (2, 4, 5), (2,)], strict=True):
        pixels = np.random.default_rng(0).integers(0, 10, shape).astype(np.uint8)
        content = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + pixels.tobytes()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if ending else content)


def named_in_one_line(read: Callable[[], object], place: Path, command: str) -> None:
    with pytest.raises(DataNotAtHandError) as said:
        read()
    text = str(said.value)
    assert "\n" not in text
    assert f"delete {place} and get it again: {command}" in text


@pytest.mark.parametrize("file", range(4))
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("stream", "middle")])  # of pixels
def test_a_damaged_download_is_named_in_one_line(damage, file, tmp_path, monkeypatch):
    monkeypatch.setenv("FL_SIM_DATA", str(tmp_path))
    write_idx(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / vision.IDX_NAMES[file]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    named_in_one_line(mnist.images.read, tmp_path / "MNIST", "fl-sim data get mnist")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_idx_archive_is_named(damage, tmp_path):
    write_idx(tmp_path, ".gz", train=400)
    path = tmp_path / f"{vision.IDX_NAMES[0]}.gz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(FlSimError, match=r"ubyte\.gz cannot be read as a gzipped idx file: .*; install it again$"):
        read_idx(path)


@pytest.mark.parametrize("damage", [*DAMAGES, "folder", "lacks"])
def test_a_damaged_medmnist_archive_is_named_in_one_line(damage, tmp_path):
    path, rng = tmp_path / "somemnist.npz", np.random.default_rng(0)
    parts = ("train", "val", "test")
    arrays = {f"{part}_images": rng.integers(0, 256, (40, 28, 28), np.uint8) for part in parts}
    arrays |= {f"{part}_labels": np.zeros((40, 1), np.uint8) for part in parts if damage != "lacks"}
    np.savez_compressed(path, **arrays)
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    info = {"label": {"0": "a", "1": "b"}}
    command = "fl-sim data get medmnist:somemnist"
    named_in_one_line(lambda: named._read_medmnist(path, info, 0, None, 0), path, command)


# -------------------------------------------------------------------------------------------------------------- locale

OWN = """
import numpy as np
from fl_sim.data import Dataset

def rows(count, image_size, seed):
    y = np.arange(count) % 2
    return Dataset(np.random.default_rng(seed).normal(size=(count, 4)) + y[:, None], y, ("Äpfel", "林檎"))
"""
WORLD = """
[data]
name = "obst:rows"
train = 60
calibration = 60
test = 40
[clients]
count = 4
partition = "iid"
[[clients.tier]]
name = "schwächer-強い"
architecture = "linear"
epochs = 1
[learn]
name = "shared"
[calibrate]
name = "pooled"
alpha = 0.1
score = "lac"
[runtime]
name = "inline"
"""


def test_the_locale_c_changes_neither_names_nor_folders(tmp_path):
    (tmp_path / "obst.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "welt.toml").write_text(WORLD, encoding="utf-8")
    told = [FL_SIM, "run", "welt.toml", "--out", "läufe/一", "--store", "store"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "LANG")}
    done = subprocess.run(told, cwd=tmp_path, env=kept | plain, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert "schwächer-強い" in done.stdout.decode()
    with (tmp_path / "läufe" / "一" / "clients.csv").open(encoding="utf-8", newline="") as file:
        assert {row["tier"] for row in csv.DictReader(file)} == {"schwächer-強い"}
