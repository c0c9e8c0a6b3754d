"""docs/scenario.md, from the pydantic models: types, ranges and defaults from their JSON schema, the words from the
comment beside each field and from the docstring of its table."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

from fl_sim.scenario.behaviours import BEHAVIOUR
from fl_sim.scenario.calibrate import Calibrate
from fl_sim.scenario.learn import Rehearsal, SafetyNet, Trained
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.scores import SCORE
from fl_sim.scenario.strategies import CALIBRATE, LEARN
from fl_sim.scenario.tables import Agreement, Clients, Data, ReferenceSets, Runtime, Tier

MADE = "<!-- made by `make docs` from {}; change it there -->"
NO_RULE = re.compile(r"# (fmt|type|noqa)")


@cache
def comments(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment beside it, or on the lines just above it; those of base classes too. A strategy's fields are
    the parameters of its constructor."""
    beside: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if isinstance(made_by := vars(base).get("strategy"), type):
            beside |= _beside(made_by.__init__)
        elif issubclass(base, BaseModel) and base is not BaseModel:
            beside |= _beside(base)
    return beside


@cache
def _beside(thing: Any) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(thing))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT and not NO_RULE.match(t.string)}
    comments_of = {}
    for name, first, last in _places(ast.parse(source).body[0]):
        while first - 1 in by_line and not by_line[first - 1].line[: by_line[first - 1].start[1]].strip():
            first -= 1  # a line of its own
        comments_of[name] = " ".join(by_line[n].string.lstrip("# ") for n in range(first, last + 1) if n in by_line)
    return comments_of


def _places(node: Any) -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of each field of a class, or of each parameter of a function."""
    if isinstance(node, ast.FunctionDef):
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            yield argument.arg, argument.lineno, (default or argument).end_lineno or argument.lineno
        return
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id, child.lineno, child.end_lineno or child.lineno


class Key(NamedTuple):
    """A row of a table."""

    name: str
    kind: str  # its type and range
    default: str
    words: str


def keys(model: type[BaseModel], leave_out: Iterable[str] = ("name",)) -> list[Key]:
    """The rows of a table, in the order of the file."""
    schema, words = model.model_json_schema(), comments(model)
    needed = schema.get("required", [])
    rows = []
    for name, property_schema in schema["properties"].items():
        if name not in set(leave_out):
            default = "needed" if name in needed else _default(model, name)
            rows.append(Key(name, kind(property_schema), default, words.get(name) or _description(property_schema)))
    return rows


def _description(schema: Mapping[str, Any]) -> str:
    """What the type of a field says of it."""
    return next((str(one["description"]) for one in (schema, *schema.get("anyOf", ())) if "description" in one), "")


def kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words: `whole number, 4 to 512`; what may be left out is said by its default."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"table [{name}](#{anchor(name)})"
    if "enum" in schema or "const" in schema:
        *before, last = [f"`{value(one)}`" for one in schema.get("enum", [schema.get("const")])]
        return f"{', '.join(before)} or {last}" if before else last
    if schema.get("type") == "array":
        return _list(schema)
    named = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    return named.get(schema.get("type", ""), "name or table") + _range(schema)


def _list(schema: Mapping[str, Any]) -> str:
    places = schema.get("prefixItems")
    each = kind(places[0] if places else schema["items"])
    return f"list of {len(places)}: {each} each" if places else f"list: {each} each"


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f", {low:,g} to {high:,g}" if isinstance(low, float) else f", {low:,} to {high:,}"
    parts = ((low, "at least"), (above, "above"), (high, "at most"), (below, "below"))
    limits = " and ".join(f"{words} {limit:,g}" for limit, words in parts if limit is not None)
    return f", {limits}" if limits else ""


def _default(model: type[BaseModel], name: str) -> str:
    default = model.model_fields[name].get_default(call_default_factory=True)
    if default is None:
        return "none"
    if isinstance(default, BaseModel):
        return "as below"
    return f"`{value(default)}`"


def value(python: Any) -> str:
    """As TOML has it."""
    return json.dumps(list(python) if isinstance(python, tuple) else python)


def table(rows: Iterable[Key]) -> Iterator[str]:
    """In Markdown."""
    yield "| key | what it takes | default | |"
    yield "|---|---|---|---|"
    for row in rows:
        cells = [f"`{row.name}`", row.kind, row.default, _marked_up(row.words)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _marked_up(words: str) -> str:
    """Words with a quoted value, a key path or a file in them, as code; and not as emphasis."""
    code = re.sub(r'("[\w-]+"|\b[a-z_]+/[\w/]+\.(?:py|md)\b)', r"`\1`", words)
    return re.sub(r"(?<!`)\*\*(?!`)", r"\\*\\*", code)


SCENARIO_HEAD = """# Everything a scenario can say

A scenario is a TOML file; `fl-sim new mine.toml` writes one to start from, `fl-sim validate mine.toml` checks one, and
every shipped one in `scenarios/` gives the reason of each value. A key that is not on this page is refused, and so are
a wrong type and a combination that cannot be run, before any work.

- **On the command line** a key is its path: `fl-sim run digits clients.count=100 clients.tier.weak.share=0.3`. A tier
  is addressed by its name, a behaviour by its kind. A value is TOML, and a bare word is text: `calibrate=local` chooses
  a strategy and keeps `alpha` and `score`.
- **A name or a table.** `learn`, `calibrate` and `calibrate.score` are a name (`score = "aps"`) or a table with a
  `name` and what else it can be told (`score = { name = "raps", k_reg = 2 }`).
- **`module:object`** in the place of a name is [your own](own.md).
- *needed*: there is no default. *none*: the key is left out unless you say something.

| table | |
|---|---|"""

SWEPT = """## `[sweep]`

Axes: the path of a key, and a list of values; every combination is a point, and the last axis changes fastest. Any key
can be one, `calibrate` and `learn` as whole strategies too, each a name or a table. A key that belongs to some of the
swept strategies matters to those alone. At most 100,000 points. On the command line `key=a,b,c` adds an axis, and
`key=a` fixes one.

    [sweep]
    "clients.concentration" = [0.1, 1.0, 10.0]
    calibrate = ["fedwq-cp", "local", { name = "fcp", sketch = "tdigest" }]
    seed = [0, 1, 2]

Among the values of `calibrate` a kind stands for all strategies of that kind that are for the data's task, so that a
new one takes part without being named: `{ kind = "one-round" }` those that take no `rounds`, `{ kind = "variants" }`
the same in the other settings in which they are compared, `{ kind = "many-rounds" }` those that take `rounds`. What
one of them is told in this world stands beside the kind:

    calibrate = [{ kind = "one-round", private = { range = [0, 40] } }, { kind = "variants" }]
"""


def scenario_page() -> str:
    """docs/scenario.md."""
    sections = list(_sections())
    lines = [MADE.format("the models in fl_sim/"), "", SCENARIO_HEAD]
    for title, about, _ in sections:
        lines.append(f"| [{title}](#{anchor(title)}) | {re.split('[;.]', about)[0]} |")
    lines.append("")
    for title, about, body in sections:
        lines += [f"## {title}", "", f"{about}{'' if about.endswith(('.', ':')) else '.'}", "", *body]
    return "\n".join([*lines, SWEPT])


def _sections() -> Iterator[tuple[str, str, list[str]]]:
    """(title, what it is, its tables)."""
    yield "seed", "What all randomness follows from", [*table(r for r in keys(Scenario) if r.name == "seed")]
    yield "`[data]`", head(Data), [*table(keys(Data, ()))]
    yield "`[clients]`", head(Clients), [*table(r for r in keys(Clients) if r.name not in ("tier", "behaviour"))]
    yield "`[[clients.tier]]`", head(Tier), [*table(keys(Tier, ()))]
    yield "`[[clients.behaviour]]`", "Who misbehaves; each kind may stand once", [*_behaviours()]
    yield "`[reference]`", head(ReferenceSets), [*table(keys(ReferenceSets))]
    yield "`[learn]`", "How clients come by their models", [*_learn()]
    yield "`[calibrate]`", "How the thresholds are agreed", [*_calibrate()]
    yield "`calibrate.score`", "What a calibration point is measured by", [*_scores()]
    yield "`[agreement]`", head(Agreement), [*table(keys(Agreement))]
    yield "`[runtime]`", head(Runtime), [*table(keys(Runtime, ()))]


def head(model: type[BaseModel]) -> str:
    """The first sentence of a table's docstring, or all of its first paragraph."""
    return " ".join((inspect.getdoc(model) or "").partition("\n\n")[0].split())


def _behaviours() -> Iterator[str]:
    common = {"kind", "share"}
    rows = [Key("kind", "one of those below", "needed", "")]
    yield from table([*rows, *(row for row in keys(BEHAVIOUR["noise"]) if row.name == "share")])
    yield "| `kind` | what it does | its keys |"
    yield "|---|---|---|"
    for name, model in BEHAVIOUR.items():
        options = [
            f"`{row.name}`: {row.kind}, {_default_words(row)}{'; ' + row.words if row.words else ''}"
            for row in keys(model, common)
        ]
        yield f"| `{name}` | {head(model)} | {'. '.join(options)} |"
    yield ""


def _default_words(row: Key) -> str:
    return "needed" if row.default == "needed" else f"default {row.default}"


def _learn() -> Iterator[str]:
    parts: dict[str, type[BaseModel]] = {"Trained": Trained, "SafetyNet": SafetyNet, "Rehearsal": Rehearsal}
    for name, model in LEARN.items():
        yield from _strategy(name, head(model), keys(model))
    named = {"Trained": "`teacher`, `rehearsal.student`", "SafetyNet": "`safety`", "Rehearsal": "`rehearsal`"}
    used = json.dumps(LEARN["plada"].model_json_schema()["$defs"])
    for name, part in parts.items():
        assert f'"{name}"' in used
        yield from _strategy(name, f"{head(part)} For {named[name]}.", keys(part, ()), code=False)


def _calibrate() -> Iterator[str]:
    common = ("alpha", "score", "calibrator", "calibrator_share")
    own = [row for row in keys(Calibrate) if row.name in common]
    yield "Every strategy but `none` is told"
    yield ""
    yield from table(own)
    for name, model in CALIBRATE.items():
        yield from _strategy(name, head(model), keys(model, ("name", *common)))


def _scores() -> Iterator[str]:
    for name, model in SCORE.items():
        what = f"{head(model).rstrip('.')}. For {model.task}." + " It needs `clients.tier.NAME.quantiles`." * (
            model.needs_quantiles
        )
        yield from _strategy(name, what, keys(model))


def _strategy(name: str, about: str, rows: list[Key], *, code: bool = True) -> Iterator[str]:
    yield f"### {f'`{name}`' if code else name}"
    yield ""
    yield about if rows else f"{about} It takes nothing else."
    yield ""
    if rows:
        yield from table(rows)


def anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
