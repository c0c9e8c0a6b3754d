"""Whatever happens to a file of the artifact store, the next run finds what it would have, and says so in a line."""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import context
from fl_sim import Result, Scenario, simulate
from fl_sim.data import glyphs
from fl_sim.data.fonts import POOL_FONTS
from fl_sim.errors import FlSimError
from fl_sim.store import seals
from fl_sim.store.artifacts import KINDS, Artifact, Store
from fl_sim.telemetry import noted

NETWORK = {"architecture": "linear", "epochs": 2, "learning_rate": 0.01}
WORLD: dict[str, Any] = {
    "data": {"name": "digits", "train": 100, "calibration": 120, "test": 100},
    "clients": {"count": 4, "tier": [
        {"name": "weak", "share": 0.5, "cohort": 1} | NETWORK, {"name": "strong", "cohort": 2} | NETWORK,
    ]},
    "runtime": {"name": "inline", "device": "cpu"},
}  # fmt: skip
WORLDS = {
    "own": {"learn": {"name": "own"}},
    "fedavg": {"learn": {"name": "fedavg", "rounds": 2}, "clients": {"count": 3, "tier": [{"name": "t"} | NETWORK]}},
    "plada": {
        "data": WORLD["data"] | {"train": 0, "server": 100},
        "reference": {"sets": ["glyphs-pool"]},
        "learn": {"name": "plada", "teacher": NETWORK, "rule": "lowest", "keep_fraction": 0.2},
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _small():
    """A few hundred letters in the place of all glyphs, and rounds that are worth keeping."""

    def pool(image_size: int, fonts: tuple[str, ...] = POOL_FONTS) -> glyphs.GlyphPool:
        images, _ = glyphs.render(200, image_size, 7)
        return glyphs.GlyphPool(images, fonts, np.arange(200) % 5, np.arange(200) // 5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "pool", pool)
        patch.setattr(context, "WORTH_KEEPING", 0.0)
        yield


def run(world: str, store: Path, alpha: float) -> tuple[Result, list[str]]:
    """A run, and what was said of it on the way."""
    scenario = Scenario.model_validate(
        WORLD | WORLDS[world] | {"calibrate": {"name": "pooled", "alpha": alpha, "score": "lac"}}
    )
    with noted() as notes:
        result = simulate(scenario, store=store)
    return result, list(dict.fromkeys([*notes, *result.summary["notes"]]))  # what is said in this process is in both


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, tuple[Path, Result]]:
    """Of each world a store after a run, and what the next run with another alpha finds."""
    found = {}
    for world in WORLDS:
        place = tmp_path_factory.mktemp(world)
        run(world, place / "store", 0.2)
        shutil.copytree(place / "store", place / "again")
        result, notes = run(world, place / "again", 0.1)
        assert notes == []
        found[world] = place / "store", result
    return found


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def all_zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


def other_bytes(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def with_a_mark(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_number(path: Path) -> None:
    path.write_text("7", encoding="utf-8")


def nested(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


FILES: list[Callable[[Path], None]] = [
    halved, zeroed, all_zero, one_bit, other_bytes, longer, with_a_mark, a_folder, a_link_to_itself, a_number, nested,
    cut_to_nothing, Path.unlink,
]  # fmt: skip


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"7")


def a_broken_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def of_an_older_fl_sim(folder: Path) -> None:
    told = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    del told["seal"]
    (folder / "meta.json").write_text(json.dumps(told), encoding="utf-8")


def with_half_a_seal(folder: Path) -> None:
    told = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    told["seal"]["files"] = {name: size for name, (size, _) in told["seal"]["files"].items()}
    (folder / "meta.json").write_text(json.dumps(told), encoding="utf-8")


def anothers(folder: Path) -> None:
    """Whole, and under the wrong key."""
    shutil.rmtree(folder)
    with Store(folder.parent.parent)._temporary() as made:
        seals.write(made, f"{folder.parent.name}/{'0' * 32}", Artifact({"outputs": np.zeros(3)}, {"why": "wrong"}))
        made.rename(folder)


FOLDERS: list[Callable[[Path], None]] = [
    emptied, a_file, a_broken_link, of_an_older_fl_sim, with_half_a_seal, anothers,
]  # fmt: skip
WHERE = [
    ("own", "data"), ("own", "population"), ("own", "model"), ("own", "outputs"), ("fedavg", "update"),
    ("fedavg", "model"), ("plada", "reference"), ("plada", "model"), ("plada", "transfer"), ("plada", "payload"),
    ("own", "*"), ("fedavg", "*"), ("plada", "*"),
]  # fmt: skip


def same(one: Result, other: Result) -> bool:
    """But for the seconds, and what was said on the way."""
    summaries = [{k: v for k, v in each.summary.items() if k not in ("seconds", "notes")} for each in (one, other)]
    rows = [[row | {"seconds": 0} for row in each.clients] for each in (one, other)]
    return summaries[0] == summaries[1] and rows[0] == rows[1] and one.files == other.files


def named(notes: list[str], folder: Path) -> bool:
    found = [note for note in notes if note.startswith(f"{folder}: is not what fl-sim wrote: ")]
    return len(found) == 1 and "\n" not in found[0] and found[0].endswith("; it is deleted, to be made again")


HARMS = [*FILES, *FOLDERS]
CASES = [  # one in three at once, all of them with the slow tests
    pytest.param(
        world,
        kind,
        harm,
        id=f"{world}-{kind}-{harm.__name__}",
        marks=[pytest.mark.slow] * ((i + j) % 3 > 0 and harm is not zeroed),
    )
    for i, (world, kind) in enumerate(WHERE)
    for j, harm in enumerate(HARMS)
]


@pytest.mark.parametrize(("world", "kind", "harm"), CASES)
def test_what_is_damaged_is_made_again_and_named(whole, tmp_path, world, kind, harm):
    before, expected = whole[world]
    store = shutil.copytree(before, tmp_path / "store")
    harmed = [folder for each in KINDS for folder in store.glob(f"{each}/*") if kind in ("*", each)]
    assert harmed
    rng = random.Random(zlib.crc32(f"{world}{kind}{harm.__name__}".encode()))
    for folder in harmed:
        harm(folder if harm in FOLDERS else rng.choice(sorted(folder.iterdir())))
    found, notes = run(world, store, 0.1)
    assert same(found, expected)
    told = [named(notes, folder) for folder in harmed]
    if harm is of_an_older_fl_sim:
        assert set(notes) == {f"the artifact store {store}: what an older fl-sim made has no seal, and is made again"}
    else:  # the logits of a teacher whose payload is there are not looked at
        assert all(told) or (world == "plada" and kind == "*" and sum(told) >= 8), notes
    again, notes = run(world, store, 0.1)
    assert (same(again, expected), notes) == (True, [])


@pytest.mark.parametrize("world", WORLDS)
def test_what_no_look_but_a_reader_finds_ends_a_run_in_a_line_at_most(whole, tmp_path, world):
    before, expected = whole[world]
    store = shutil.copytree(before, tmp_path / "store")
    harmed = [
        path for folder in store.glob("*/*") if folder.is_dir() for path in folder.iterdir() if path.suffix != ".json"
    ]
    for path in harmed:
        at, content = path.stat(), path.read_bytes()
        path.write_bytes(bytes(8) + content[8:])
        os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    found, said = None, []
    while found is None and len(said) < len(harmed):
        with noted() as notes:
            try:
                found, _ = run(world, store, 0.1)
            except FlSimError as error:
                said.append("; ".join([*notes, str(error)]))
    assert found is not None
    assert same(found, expected)
    assert all(": is not what fl-sim wrote: " in line and "\n" not in line for line in said)


def test_what_came_from_elsewhere_without_its_times_is_compared_once(whole, tmp_path):
    before, expected = whole["own"]
    store = shutil.copytree(before, tmp_path / "store", copy_function=shutil.copyfile)
    (file, *_) = store.glob("outputs/*/outputs.npy")
    moved = file.stat().st_mtime_ns
    found, notes = run("own", store, 0.1)
    assert (same(found, expected), notes) == (True, [])
    assert file.stat().st_mtime_ns != moved
    assert file.stat().st_mtime_ns == (file.parent / "meta.json").stat().st_mtime_ns


def test_what_else_lies_in_a_folder_does_not_matter(whole, tmp_path):
    before, expected = whole["own"]
    store = shutil.copytree(before, tmp_path / "store")
    for folder in store.glob("*/*"):
        if folder.is_dir():
            (folder / "more.npy").write_bytes(b"garbage")
            (folder / "a folder.safetensors").mkdir()
    found, notes = run("own", store, 0.1)
    assert (same(found, expected), notes) == (True, [])


def test_only_a_thorough_look_finds_what_keeps_its_size_and_time(whole, tmp_path):
    store = shutil.copytree(whole["own"][0], tmp_path / "store")
    (harmed, other, *_) = sorted(store.glob("outputs/*/outputs.npy"))
    for path, spoil in ((harmed, zeroed), (other.parent / "meta.json", one_bit)):
        before = path.stat()
        spoil(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with noted() as notes:
        assert Store(store).check() == 2
    assert [named(notes, path.parent) for path in (harmed, other)] == [True, True]
    assert len(notes) == 2
    with noted() as notes:
        assert Store(store).check() == 0
    assert notes == []
