"""Names that a user may give: `module:object`, the digest of its text, and the nearest of the valid ones."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

OWN = re.compile(r"^(?!medmnist:|predictions:|table:)[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")  # module:object


def own_object(name: str) -> Any:
    """The user's object that `module:object` names.

    Raises:
        ImportError, AttributeError: there is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def own_digest(name: str) -> str | None:
    """A digest of the text of the module that `module:object` names, to be part of the key of what comes of it; of what
    that module imports in turn nothing is known. None for a name of ours, and for a module without a file."""
    return _text_digest(name.partition(":")[0]) if OWN.match(name) else None


@cache  # a process goes on with the code that it has imported, whatever becomes of the file
def _text_digest(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # `own_object` says what is wrong with it
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    text = Path(spec.origin).read_bytes()
    with contextlib.suppress(Exception):  # `own_object` says what is wrong with it
        import_module(module)  # now, so that the code is that of the text
    return hashlib.sha256(text).hexdigest()


def nearest(name: str, names: Any) -> str:
    """A hint to end an error with: the nearest valid name, or all of them."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(sorted(names))}"
