"""Whatever happens to a file of a finished run or sweep, whoever reads it says so in a line, and harms nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from test_cli import SMALL, call, call_quietly
from test_damage import FILES, with_a_mark

from fl_sim import Result
from fl_sim.errors import FlSimError
from fl_sim.results import tables
from fl_sim.scenario.toml import locate
from fl_sim.store import folders

NAMED = "schwäch"  # a tier whose name other encodings write otherwise
WORLD = ("world.toml", *(word.replace("weak", NAMED) for word in SMALL), "agreement.rows=20")
SWEPT = ("sweep", *WORLD, "seed=0,1", "--out")
COMPARED = ("compare", *WORLD, "local", "pooled", "--out")
RUN = ("run", *WORLD, "--out")
DRAWN = {".png", ".svg"}


def cut_between_rows(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))


def in_utf_16(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))


def in_utf_16_without_a_mark(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode().encode("utf-16-le"))


def in_utf_32(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode().encode("utf-32"))


def in_latin_1(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode().encode("latin-1"))


def with_other_ends_of_lines(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def indented_otherwise(path: Path) -> None:
    """As editors and `jq` save JSON, with letters in the place of their numbers."""
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


SAVED = [in_utf_16, in_utf_16_without_a_mark, in_utf_32, in_latin_1, with_other_ends_of_lines]  # by an editor


def unseal(folder: Path) -> None:
    """Make of it what an older fl-sim wrote."""
    for path in folder.rglob("*.json"):
        told = json.loads(path.read_bytes())
        told.pop("sha256")
        path.write_text(json.dumps(told), encoding="utf-8")


def world(folder: Path) -> None:
    text = locate("digits").read_text(encoding="utf-8").replace('"weak"', f'"{NAMED}"')
    (folder / "world.toml").write_text(text, encoding="utf-8")


class Made(NamedTuple):
    command: tuple[str, ...]
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Made]:
    """A finished run, a finished sweep and a finished comparison, all of the same store."""
    place = tmp_path_factory.mktemp("made")
    world(place)
    commands = {"run": RUN, "sweep": SWEPT, "compare": COMPARED}
    found = {name: Made(command, place / name) for name, command in commands.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("FL_SIM_STORE", str(place / "store"))
        for command, folder in found.values():
            assert call_quietly(patch, *command, str(folder)) == 0
    return found


@pytest.fixture
def fl_sim(monkeypatch, capsys, made, tmp_path):
    """The command, with the store of what was made."""
    world(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FL_SIM_STORE", str(made["run"].folder.parent / "store"))
    return lambda *words: call(monkeypatch, capsys, *map(str, words))


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of every file but what each call draws or says anew, and locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in DRAWN
        and path.name not in ("points.csv", "failed.json")
        and ".lock" not in path.name
    }


def one_line(said: str, folder: Path) -> None:
    """Nothing but the error, which names a place in the folder; a sweep has said how many points are finished."""
    lines = [line for line in said.strip().splitlines() if not re.match(r"failed |(error: )?\d+ of \d+ runs ", line)]
    assert len(lines) == 1, said
    assert str(folder) in lines[0]
    assert "this should not have happened" not in lines[0]


CASES = [
    *(("run", file, harm) for i, file in enumerate(("result.json", "clients.csv", "scenario.toml", "disagreement.csv"))
      for harm in (*FILES, cut_between_rows)[i % 2 :: 2]),
    *(("sweep", file, harm) for i, file in enumerate(("sweep.json", "points/*/result.json", "points/*/clients.csv"))
      for harm in (*FILES, cut_between_rows)[i::3]),
    *(("compare", file, harm) for i, file in enumerate(("sweep.json", "points/*/scenario.toml"))
      for harm in (*FILES, cut_between_rows)[1 - i :: 4]),
]  # fmt: skip

SAVED_OTHERWISE = [
    *(("run", file, save) for file in ("result.json", "clients.csv", "scenario.toml", "disagreement.csv")
      for save in (*SAVED, with_a_mark)),
    *((what, file, save) for what in ("sweep", "compare") for file in ("sweep.json", "points/*/clients.csv")
      for save in (*SAVED, with_a_mark)),
    ("run", "result.json", indented_otherwise), ("sweep", "sweep.json", indented_otherwise),
]  # fmt: skip


def readers(folder: Path, place: Path) -> tuple[tuple[str | Path, ...], ...]:
    """Every command that reads a folder, without the one that made it."""
    return (
        ("results", folder), ("results", folder, "--what", "clients", "--format", "json"), ("certify", folder),
        ("report", folder, "--out", place / "page.html"),
    )  # fmt: skip


@pytest.mark.parametrize(("what", "file", "harm"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_every_reader_names_what_is_damaged_and_leaves_the_rest(made, tmp_path, fl_sim, what, file, harm):
    command, whole = made[what]
    folder = shutil.copytree(whole, tmp_path / what)
    harmed = min(folder.glob(file))
    harm(harmed)
    before = snapshot(folder)
    for reader in (*readers(folder, tmp_path), (*command, folder)):
        code, _, said = fl_sim(*reader)
        if code:
            assert code == 1
            one_line(said, folder)
        else:  # a point without its result is not finished, and a sweep's own file is made again from the scenario
            assert what != "run"
            assert not harmed.is_file() or reader[0] == what
        assert snapshot(folder) in (before, snapshot(whole))  # the second where what was lost could be made again
    for load in (Result.load, tables.load):
        refused = said_by(load, folder)
        assert refused or what != "run"
        if refused:
            one_line(refused, folder)


@pytest.mark.parametrize(("what", "file", "save", "sealed"), [
    *((*case, True) for case in SAVED_OTHERWISE[::3]), *((*case, False) for case in SAVED_OTHERWISE[1::12]),
], ids=lambda part: getattr(part, "__name__", part))  # fmt: skip
def test_what_an_editor_saved_is_read_as_it_was_or_named(made, tmp_path, fl_sim, what, file, save, sealed):
    command, whole = made[what]
    folder = shutil.copytree(whole, tmp_path / what)
    if not sealed:
        unseal(folder)
    told = (("certify", folder), ("results", folder, "--what", "clients"), (*command, folder))
    everybody = told[:1] if sealed else (*readers(folder, tmp_path), *told)
    read = [fl_sim(*reader) for reader in everybody]
    assert [code for code, _, _ in read] == [0] * len(read), read
    saved = min(folder.glob(file))
    save(saved)
    content = saved.read_bytes()
    for reader, before in zip(everybody, read, strict=True):
        code, printed, said = fl_sim(*reader)
        if code:
            assert code == 1
            one_line(said, folder)
            assert saved.name in said
        else:
            assert (printed, said) == before[1:]
        assert saved.read_bytes() == content
    for load in (Result.load, tables.load):
        refused = said_by(load, folder)
        if refused:
            one_line(refused, folder)


def test_a_run_that_lost_its_result_is_named_and_not_taken_for_something_else(made, tmp_path, fl_sim):
    folder = shutil.copytree(made["run"].folder, tmp_path / "run")
    (folder / "result.json").unlink()
    code, _, said = fl_sim(*RUN, folder)
    told = "is not what fl-sim wrote: it is missing; delete its folder, and the same command makes it again"
    assert (code, said) == (1, f"error: {folder}/result.json: {told}\n")


def said_by(load: Callable[[Path], object], folder: Path) -> str:
    try:
        load(folder)
    except FlSimError as error:
        return str(error)
    return ""


# ------------------------------------------------------------------------------------------------------- disk full


@pytest.mark.parametrize("when", ["clients.csv", "scenario.toml", "result.json"])
def test_a_run_whose_disk_is_full_is_kept_and_named(fl_sim, tmp_path, monkeypatch, when):
    through = folders.write_through

    def full(path: Path, content: bytes) -> None:
        if path.name == when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        through(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("fl_sim.results.run.write_through", full)
        code, _, said = fl_sim(*RUN, "out")
    assert code == 1
    found = re.fullmatch(
        r"error: out: cannot be written: No space left on device; what was found is kept in (\S+), and the same "
        r"command tries again\n", said,
    )  # fmt: skip
    assert found is not None, said
    assert (tmp_path / found[1]).is_dir()
    assert not (tmp_path / "out").exists()
    assert fl_sim(*RUN, "out")[0] == 0
    assert Result.load(tmp_path / "out").clients


def test_a_sweep_whose_disk_is_full_keeps_what_was_finished(fl_sim, made, tmp_path, monkeypatch):
    folder = shutil.copytree(made["sweep"].folder, tmp_path / "sweep")
    first, _ = sorted(path for path in folder.glob("points/*") if path.is_dir())
    shutil.rmtree(first)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("fl_sim.results.run.write_through", full)
        code, _, said = fl_sim(*SWEPT, folder)
    assert code == 1
    assert "1 of 2 runs failed; the same command tries them again" in said
    assert "No space left on device; what was found is kept in " in said
    assert "Traceback" not in said
    assert fl_sim(*SWEPT, folder)[0] == 0
    assert len(tables.load(folder).points) == 2


# ----------------------------------------------------------------------------------------------- the same run, twice


@pytest.mark.parametrize("filled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["new", "empty"])
def test_the_same_run_twice_at_once_ends_well_for_both(made, tmp_path, filled):
    if filled:
        (tmp_path / "out").mkdir()
    environment = os.environ | {"FL_SIM_STORE": str(tmp_path / "store")}
    words = [sys.executable, "-c", "from fl_sim.cli.main import main; main()", *RUN, str(tmp_path / "out")]
    place = made["run"].folder.parent
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=place)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [(process.returncode, error) for process, (_, error) in zip(both, said, strict=True)] == [(0, "")] * 2
    assert [row | {"seconds": 0} for row in Result.load(tmp_path / "out").clients] == [
        row | {"seconds": 0} for row in Result.load(made["run"].folder).clients
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "store"}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
