"""Files in the folders of runs and sweeps: written through to disk, and read so that damage is one line.

A JSON file of ours is sealed: its key `sha256` holds a digest of the file itself, without that key, and of the files
beside it that belong to it. One that an older fl-sim wrote has no seal, and is believed where its form is right.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fl_sim.errors import FlSimError

SEAL = "sha256"
AGAIN = "delete its folder, and the same command makes it again"

Json = dict[str, Any]
Form = TypeVar("Form", bound=BaseModel)

# ------------------------------------------------------------------------------------------------------------ reading


def is_there(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        FlSimError: nobody can tell, for instance because a folder above it may not be entered.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise FlSimError(f"{path}: cannot be looked for: {error.strerror}") from None


def damaged(path: Path, why: object, then: str = AGAIN) -> FlSimError:
    """What is said of a file that is not as it was written."""
    reason = " ".join(str(why).split())  # a library's may have several lines
    return FlSimError(f"{path}: is not what fl-sim wrote: {reason}; {then}")


def content_of(path: Path, digest: str | None = None, then: str = AGAIN) -> bytes:
    """A file's content, held against its digest where there is one.

    Raises:
        FlSimError: it is missing, no file, may not be read, or is not what the digest was taken of.
    """
    if not is_there(path):
        raise damaged(path, "it is no file" if path.exists() else "it is missing", then)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FlSimError(f"{path}: cannot be read: {error.strerror}") from None
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise damaged(path, f"its {SEAL} is another", then)
    return content


def text_of(path: Path, digest: str | None = None, then: str = AGAIN) -> str:
    """The same as text, which is UTF-8.

    Raises:
        FlSimError: see `content_of`; or it is no text.
    """
    try:
        return content_of(path, digest, then).decode()
    except UnicodeDecodeError as error:
        raise damaged(path, error, then) from None


def unsealed(path: Path, form: int | None = None, then: str = AGAIN) -> tuple[Json, dict[str, str]]:
    """What a sealed file says, without its seal, and the digests of the files beside it.

    Raises:
        FlSimError: it cannot be read, is no JSON object, has another `format` than `form` where that is given, or is
            not what its seal was taken of.
    """
    text = text_of(path, None, then)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(path, error, then) from None
    if not isinstance(content, dict):
        raise damaged(path, f"it holds a {type(content).__name__} where an object should be", then)
    if form is not None and content.get("format") != form:
        raise FlSimError(f"{path}: has format {content.get('format')}, and this fl-sim reads format {form}; {then}")
    seal = content.pop(SEAL, {})
    if not isinstance(seal, dict) or not all(isinstance(digest, str) for digest in seal.values()):
        raise damaged(path, f"its {SEAL} is no table of digests", then)
    if seal.pop(path.name, None) not in (None, _digest(content)):
        raise damaged(path, f"its {SEAL} is another", then)
    return content, seal


def in_form(path: Path, form: type[Form], content: Json, then: str = AGAIN) -> Form:
    """What a file says, as the model of its form.

    Raises:
        FlSimError: it has another form; the first thing that is wrong is named.
    """
    try:
        return form.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", then) from None


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def at_home(given: str | Path | Callable[[], str | Path], what: str, how: str) -> Path:
    """A place as a user names it, where `~` is the home folder; or what platformdirs says, which asks for that too.

    Raises:
        FlSimError: no home folder is known; `how` says where else to name one.
    """
    try:
        return Path(given() if callable(given) else given).expanduser()
    except RuntimeError:
        named = "" if callable(given) else f" {given}"
        known = f"HOME is not set, and the list of users has none for user {os.getuid()}"
        raise FlSimError(f"{what}{named}: no home folder is known ({known}); say where {how}") from None


# ------------------------------------------------------------------------------------------------------------ writing


def sealed(name: str, values: Mapping[str, Any], beside: Mapping[str, bytes] | None = None) -> bytes:
    """What the file of that name is to hold, sealed together with the contents of the files `beside` it.

    Raises:
        ValueError: a number is not finite.
    """
    plain = json.loads(json.dumps(values, allow_nan=False))  # keys as they are read back
    seal = {file: hashlib.sha256(content).hexdigest() for file, content in (beside or {}).items()}
    return (json.dumps(plain | {SEAL: seal | {name: _digest(plain)}}, indent=2) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_through(path: Path, content: bytes) -> None:
    """Write a file so that a full disk, a quota or a lost server is noticed here, not after all was said to be well."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears, or takes the place of another, at once; with the permissions that the umask says."""
    work = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        write_through(work, content)
        work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


# ------------------------------------------------------------------------------------------------------- work folders

PREFIX = ".fl-sim-"  # of the name of each
_HELD = ".writing"  # in it: locked as long as its process lives; what it says is being moved to the folder above it
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # from a file system that has none


class WorkFolder:
    """A folder in which something is made before it is moved to its place, by a process that may be killed at it.

    It has the permissions that the umask says. `clear_dead` finds it when its process is gone; where a file system has
    no locks, nobody can know that, and it is left where it is.
    """

    def __init__(self, parent: Path) -> None:
        self.path, self._handle = parent / f"{PREFIX}{uuid.uuid4().hex[:12]}", -1
        self.path.mkdir()
        try:
            starting = self.path / f"{_HELD}-"
            self._handle = os.open(starting, os.O_RDWR | os.O_CREAT, 0o666)
            if locked(self._handle, wait=False):
                starting.rename(self.path / _HELD)  # others, who look for that name, find it locked already
            else:
                starting.unlink()
        except BaseException:
            self.remove()
            raise

    def release(self) -> None:
        """Let go of it: it is nobody's to clear away any more."""
        if self._handle >= 0:
            (self.path / _HELD).unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1

    def remove(self) -> None:
        """Leave nothing behind."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def move_up(self, names: list[str]) -> None:
        """Move files into the folder above, one after another; all of them, or, where one cannot be moved, none.

        Killed in between, `clear_dead` takes back what was moved unless the last was.

        Raises:
            OSError: one cannot be moved, or its name is taken there.
        """
        os.pwrite(self._handle, "\n".join(names).encode(), 0)
        moved: list[str] = []
        try:
            for name in names:
                if os.path.lexists(self.path.parent / name):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
                (self.path / name).rename(self.path.parent / name)
                moved.append(name)
        except BaseException:
            for name in moved:
                (self.path.parent / name).rename(self.path / name)
            raise


def clear_dead(parent: Path) -> None:
    """Delete the work folders in a folder whose processes are gone, and what one of them had half moved up."""
    for held in parent.glob(f"{PREFIX}*/{_HELD}"):
        with contextlib.suppress(OSError):  # another process clears it, or it is not ours to touch
            handle = os.open(held, os.O_RDWR)
            try:
                if locked(handle, wait=False) and _is_at(held, handle):
                    _take_back(held)
                    shutil.rmtree(held.parent)
            finally:
                os.close(handle)


def _take_back(held: Path) -> None:
    work, names = held.parent, held.read_text(encoding="utf-8").splitlines()
    if names and (work / names[-1]).exists():
        for name in names:
            if not (work / name).exists():
                (work.parent / name).unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait for other processes that are in such a block for the same folder; nothing is left in it."""
    path = folder / f"{PREFIX}lock"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked(handle, wait=True)
        if _is_at(path, handle):
            break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file still has that name: who held its lock before may have deleted it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def locked(handle: int, *, wait: bool) -> bool:
    """Take the lock of an open file; False where another process has it, or the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
