"""Scenario files: found, read, overridden, written; and the words in which a wrong one is refused.

The model that a file has to fit is an argument, so that this module lies below `Scenario`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fl_sim.data.user_files import text_of
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.names import nearest
from fl_sim.scenario.behaviours import BEHAVIOUR
from fl_sim.scenario.learn import Rehearsal, SafetyNet, Trained
from fl_sim.scenario.options import Options
from fl_sim.scenario.scores import SCORE
from fl_sim.scenario.strategies import CALIBRATE, LEARN, as_declared, own_table
from fl_sim.scenario.tables import Agreement, Clients, Data, ReferenceSets, Runtime, Tier

Model = TypeVar("Model", bound=BaseModel)

# The table that stands at each path, to tell which keys it has.
_TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    ("data",): Data,
    ("clients",): Clients,
    ("clients", "tier"): Tier,
    ("reference",): ReferenceSets,
    ("agreement",): Agreement,
    ("learn", "teacher"): Trained,
    ("learn", "rehearsal", "student"): Trained,
    ("learn", "rehearsal"): Rehearsal,
    ("learn", "safety"): SafetyNet,
    ("runtime",): Runtime,
}
TABLES = (".csv", ".parquet", ".npz", ".arrow", ".feather")  # what is no scenario, and meant for another door
_SIZES = {"keep_fraction", "budget_bytes", "images_per_class"}  # of what is handed out: one of them is said
_COMMON = {
    "learn": {"teacher", "rehearsal", "per_client"},
    "calibrate": {"alpha", "score", "calibrator", "calibrator_share"},
}  # kept when a strategy's name is replaced


def shipped() -> dict[str, Path]:
    """The scenario files that come with fl-sim, by name."""
    package = Path(str(files("fl_sim")))
    for folder in (package / "scenarios", package.parent / "scenarios"):  # in a wheel, in a checkout
        if folder.is_dir():
            paths = sorted(folder.rglob("*.toml"), key=lambda path: (len(path.parts), path))
            return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    return {}


def locate(name: str | Path) -> Path:
    """The file of that path, or the shipped scenario of that name.

    Raises:
        ScenarioError: there is neither.
    """
    path = Path(name)
    if path.suffix in TABLES:
        raise ScenarioError(
            f"{name}: is a table, and no scenario. Predictions: fl-sim calibrate {name}; rows to learn from: "
            f"data.name = 'table:{name}'"
        )
    if path.is_file():
        return path
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    if path.exists():
        raise ScenarioError(f"{name}: is no plain file; name a TOML file, or a shipped scenario")
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise ScenarioError(f"{name}: there is no such file")
    raise ScenarioError(f"{name}: neither a file nor a shipped scenario{nearest(str(name), known)}")


def load(name: str | Path, overrides: Iterable[str], model: type[Model]) -> Model:
    """Read, override and validate; see `Scenario.load`. Of a file with `[sweep]` the one run that is left where the
    overrides give each axis one value."""
    tables, assignments = read(locate(name)), list(overrides)
    left = still_swept(tables, assignments)
    if left:
        say = " ".join(f"{axis}=..." for axis in left)
        raise ScenarioError(f"sweep: this file describes many runs; use fl-sim sweep, or give one value each: {say}")
    try:
        return build(override({key: table for key, table in tables.items() if key != "sweep"}, assignments), model)
    except ScenarioError as error:
        many = next((one for one in assignments if len(values_of(one)[1]) > 1), None)
        if many is None:
            raise
        raise ScenarioError(
            f"{error}\n{many}: a run takes one value; for several: fl-sim sweep {name} {many}"
        ) from None


def still_swept(tables: dict[str, Any], assignments: Iterable[str]) -> list[str]:
    """The axes of a file's `[sweep]` that no assignment gives a value."""
    keys = {_key_and_text(assignment)[0] for assignment in assignments}
    swept = tables.get("sweep")
    return [axis for axis in swept if axis not in keys] if isinstance(swept, dict) else []


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ScenarioError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(text_of(path))
    except FlSimError as error:
        raise ScenarioError(str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not TOML: {error}") from error


def build(tables: dict[str, Any], model: type[Model]) -> Model:
    """A validated scenario from nested dicts.

    Raises:
        ScenarioError: one line for each thing that is wrong.
    """
    if "sweep" in tables:
        raise ScenarioError("sweep: this file describes many runs; use fl-sim sweep")
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        lines = [f"{_path(one['loc'], tables)}{_rule(one, tables, model)}" for one in error.errors()]
        raise ScenarioError("\n".join(dict.fromkeys(lines))) from None


def own_options(key: str, options: Options) -> Options:
    """The options of a user's own strategy at `key` of a scenario, as its constructor declares them.

    Raises:
        ScenarioError: one line for each that is wrong.
    """
    try:
        return as_declared(options)
    except ValidationError as error:
        raise ScenarioError("\n".join(dict.fromkeys(_own_refusals(error, key, options)))) from None


def _own_refusals(error: ValidationError, key: str, settings: Options) -> Iterable[str]:
    options = sorted(own_table(settings).model_fields.keys() - {"name"})
    for one in error.errors():
        where = ".".join(map(str, (key, *one["loc"])))
        if one["type"] == "extra_forbidden" and len(one["loc"]) == 1:
            hint = nearest(str(one["loc"][0]), options) if options else ""
            yield f"{where}: {settings.name} has no such option{hint}"
        else:
            yield f"{where}{_rule(one, {}, type(settings))}"


# --------------------------------------------------------------------------------------------------------- overrides


def override(tables: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `key.path=value` in order; values are TOML, and a bare word is a string.

    A tier is addressed by its name, a behaviour by its kind. A name given where a strategy's table stands replaces the
    strategy and keeps the keys that both know.

    Raises:
        ScenarioError: an assignment without `=`, or a path through something that is not a table.
    """
    for assignment in assignments:
        key, text = _key_and_text(assignment)
        tables = assign(tables, key, _value(text))
    return tables


def assign(tables: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The tables with the value at `key.path`; see `override`."""
    return _set(tables, key.split("."), value, key)


def values_of(assignment: str) -> tuple[str, list[Any]]:
    """The key of `key=a,b,c` and its values; commas inside brackets, braces and quotes belong to a value.

    >>> values_of("calibrate=fedwq-cp,{name='pooled', alpha=0.2}")
    ('calibrate', ['fedwq-cp', {'name': 'pooled', 'alpha': 0.2}])
    """
    key, text = _key_and_text(assignment)
    return key, [_value(part.strip()) for part in _split(text)]


def _key_and_text(assignment: str) -> tuple[str, str]:
    key, sign, text = assignment.partition("=")
    if not sign or not key.strip():
        raise ScenarioError(f"{assignment!r}: an override is written key=value, for instance clients.count=100")
    return key.strip(), text.strip()


def _split(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> Any:
    if text in ("inf", "nan"):
        return text  # TOML's floats, but in a scenario "inf" is a word (small_n) and no number may be infinite
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(node: Any, keys: Sequence[str], value: Any, path: str) -> Any:
    if isinstance(node, list | tuple):
        return _set_named(list(node), keys, value, path)
    if not isinstance(node, dict):
        # calibrate = "pooled" in the file, calibrate.alpha=0.1 on the command line
        node = {"name": node} if isinstance(node, str) else node
        if not isinstance(node, dict):
            raise ScenarioError(f"{path}: {keys[0]!r} is looked for inside {node!r}, which is not a table")
    key, rest = keys[0], keys[1:]
    if path == f"learn.{key}" and key in _SIZES:
        node = {k: v for k, v in node.items() if k not in _SIZES}  # one size takes the place of another
    if path == "calibrate.calibrator" and key == "calibrator" and value == "none":
        node = {k: v for k, v in node.items() if k != "calibrator_share"}  # of which it has none
    if rest:
        return node | {key: _set(node.get(key, {}), rest, value, path)}
    if key in _COMMON and isinstance(value, str):
        value = _renamed(key, node.get(key), value)
    elif key in _COMMON and isinstance(value, dict):
        common = _common(key, node.get(key), value.get("name"))
        if value.get("calibrator") == "none":
            common.pop("calibrator_share", None)  # of which it has none
        value = common | value
    if key == "name" and path in ("learn.name", "calibrate.name") and isinstance(value, str):
        return _renamed(path.split(".")[0], node, value)
    return node | {key: value}


def _set_named(items: list[Any], keys: Sequence[str], value: Any, path: str) -> list[Any]:
    names = [_name(item) for item in items]
    if keys[0] not in names:
        raise ScenarioError(f"{path}: nothing there is called {keys[0]!r}{nearest(keys[0], [n for n in names if n])}")
    if len(keys) == 1:
        raise ScenarioError(f"{path}: is a table; name a key of it, for instance {path}.share")
    at = names.index(keys[0])
    return [_set(item, keys[1:], value, path) if i == at else item for i, item in enumerate(items)]


def _name(item: Any) -> Any:
    """By what a table in a list is addressed."""
    return item.get("name", item.get("kind")) if isinstance(item, dict) else None


def _common(section: str, table: Any, name: Any) -> dict[str, Any]:
    """What a whole table need not repeat: the keys that all strategies of its kind have."""
    model = {"learn": LEARN, "calibrate": CALIBRATE}[section].get(name)
    keys = _COMMON[section] if model is None else _COMMON[section] & set(model.model_fields)
    return {k: v for k, v in table.items() if k in keys} if isinstance(table, dict) else {}


def _renamed(section: str, table: Any, name: str) -> dict[str, Any]:
    table = table if isinstance(table, dict) else {}
    model = {"learn": LEARN, "calibrate": CALIBRATE}[section].get(name)
    keeps = _COMMON[section] if model is None else set(model.model_fields)
    return {k: v for k, v in table.items() if k in keeps and k != "name"} | {"name": name}


# ---------------------------------------------------------------------------------------------------------- refusals


def _path(where: tuple[Any, ...], tables: Any) -> str:
    words, node = [], tables
    for key in where:
        node = _child(node, key)
        name = _name(node) if isinstance(key, int) else None
        words.append(str(key if name is None else name))
    return ".".join(words)


def _child(node: Any, key: Any) -> Any:
    try:
        return node[key]
    except (KeyError, IndexError, TypeError):
        return None


def _rule(one: Any, tables: Any, model: type[BaseModel]) -> str:
    where = one["loc"]
    if one["type"] == "extra_forbidden" and len(where) == 1 and (paths := _paths_of(str(where[0]))):
        return f": there is no such key; did you mean {' or '.join(paths)}?"
    if one["type"] in ("model_type", "dict_type") and where in _TABLES and not isinstance(one["input"], dict):
        at, fields = ".".join(where), _TABLES[where].model_fields
        key = next((key for key, field in fields.items() if field.annotation is type(one["input"])), next(iter(fields)))
        return f" = {one['input']!r}: is a table; name a key of it, for instance {at}.{key}={one['input']}"
    if one["type"] == "extra_forbidden":
        return f": there is no such key{nearest(str(where[-1]), _keys(where[:-1], tables, model))}"
    if one["type"] == "missing":
        return ": this key is needed and is missing"
    text = one["msg"].removeprefix("Value error, ")
    if one["type"] == "value_error" and isinstance(one["input"], dict | BaseModel):
        return f": {text}" if where else text  # the sentence itself names the keys and their values
    shown = repr(one["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f" = {shown}: {text[0].lower()}{text[1:]}"


def _paths_of(key: str) -> list[str]:
    """Where a key stands that was looked for at the top: `calibrate.alpha`, `clients.tier.NAME.epochs`."""
    paths = [
        ".".join([*("tier.NAME" if part == "tier" else part for part in path), key])
        for path, table in _TABLES.items()
        if key in table.model_fields and key != "name"
    ]
    return paths[:3] or [f"{section}.{key}" for section, keys in _COMMON.items() if key in keys]


def _keys(where: tuple[Any, ...], tables: Any, model: type[BaseModel]) -> list[str]:
    """The keys of the table at that path."""
    words = tuple(key for key in where if isinstance(key, str))
    chosen_by_name: dict[tuple[str, ...], Any] = {
        ("learn",): LEARN,
        ("calibrate",): CALIBRATE,
        ("calibrate", "score"): SCORE,
        ("clients", "behaviour"): BEHAVIOUR,
    }
    if words not in chosen_by_name:
        return list((_TABLES | {(): model})[words].model_fields)
    table: Any = tables
    for key in where:
        table = _child(table, key)
    return list(chosen_by_name[words][_name(table)].model_fields)
