"""The pages that are made from the code: what a scenario may say, the methods, the programs in own.md, the figures in
report.md and the tree in ARCHITECTURE.md.

    make docs                                    # or: .venv/bin/python docs/generate.py
    .venv/bin/python docs/generate.py --check    # write nothing; say which page is not what the code says

scenario.md is made from the pydantic models: types, ranges and defaults from their JSON schema, the words from the
comment beside each field and from the docstring of its table. methods.md is made from the docstrings at the top of
the files in strategies/. In own.md each block under `<!-- file: PATH -->` is copied from PATH. In
ARCHITECTURE.md the tree is made from the first sentence of each file, and so are the figures in report.md.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from fl_sim.scenario.behaviours import BEHAVIOUR
from fl_sim.scenario.calibrate import Calibrate
from fl_sim.scenario.learn import Rehearsal, SafetyNet, Trained
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.scores import SCORE
from fl_sim.scenario.strategies import CALIBRATE, LEARN, strategy
from fl_sim.scenario.tables import Agreement, Clients, Data, ReferenceSets, Runtime, Tier

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
MADE = "<!-- made by `make docs` from {}; change it there -->"
NO_RULE = re.compile(r"# (fmt|type|noqa)")


# ------------------------------------------------------------------------------------------------- what a field says


@cache
def comments(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment beside it, or on the lines just above it; those of base classes too. A strategy's fields are
    the parameters of its constructor."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if isinstance(made_by := vars(base).get("strategy"), type):
            found |= _beside(made_by.__init__)
        elif issubclass(base, BaseModel) and base is not BaseModel:
            found |= _beside(base)
    return found


@cache
def _beside(thing: Any) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(thing))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT and not NO_RULE.match(t.string)}
    found = {}
    for name, first, last in _places(ast.parse(source).body[0]):
        while first - 1 in by_line and not by_line[first - 1].line[: by_line[first - 1].start[1]].strip():
            first -= 1  # a line of its own
        found[name] = " ".join(by_line[n].string.lstrip("# ") for n in range(first, last + 1) if n in by_line)
    return found


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
    schema, said = model.model_json_schema(), comments(model)
    needed = schema.get("required", [])
    rows = []
    for name, told in schema["properties"].items():
        if name not in set(leave_out):
            default = "needed" if name in needed else _default(model, name)
            rows.append(Key(name, kind(told), default, said.get(name) or _description(told)))
    return rows


def _description(told: Mapping[str, Any]) -> str:
    """What the type of a field says of it."""
    return next((str(one["description"]) for one in (told, *told.get("anyOf", ())) if "description" in one), "")


def kind(told: Mapping[str, Any]) -> str:
    """A JSON schema in words: `whole number, 4 to 512`; what may be left out is said by its default."""
    if "anyOf" in told:
        return " or ".join(kind(one) for one in told["anyOf"] if one.get("type") != "null")
    if "$ref" in told:
        name = told["$ref"].rpartition("/")[2]
        return f"table [{name}](#{anchor(name)})"
    if "enum" in told or "const" in told:
        *before, last = [f"`{value(one)}`" for one in told.get("enum", [told.get("const")])]
        return f"{', '.join(before)} or {last}" if before else last
    if told.get("type") == "array":
        return _list(told)
    named = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    return named.get(told.get("type", ""), "name or table") + _range(told)


def _list(told: Mapping[str, Any]) -> str:
    places = told.get("prefixItems")
    each = kind(places[0] if places else told["items"])
    return f"list of {len(places)}: {each} each" if places else f"list: {each} each"


def _range(told: Mapping[str, Any]) -> str:
    low, above = told.get("minimum"), told.get("exclusiveMinimum")
    high, below = told.get("maximum"), told.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f", {low:,g} to {high:,g}" if isinstance(low, float) else f", {low:,} to {high:,}"
    parts = ((low, "at least"), (above, "above"), (high, "at most"), (below, "below"))
    said = " and ".join(f"{words} {limit:,g}" for limit, words in parts if limit is not None)
    return f", {said}" if said else ""


def _default(model: type[BaseModel], name: str) -> str:
    default = model.model_fields[name].get_default(call_default_factory=True)
    if default is None:
        return "none"
    if isinstance(default, BaseModel):
        return "as below"
    return f"`{value(default)}`"


def value(told: Any) -> str:
    """As TOML has it."""
    return json.dumps(list(told) if isinstance(told, tuple) else told)


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


# ------------------------------------------------------------------------------------------------------- scenario.md

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
        told = [
            f"`{row.name}`: {row.kind}, {_said_default(row)}{'; ' + row.words if row.words else ''}"
            for row in keys(model, common)
        ]
        yield f"| `{name}` | {head(model)} | {'. '.join(told)} |"
    yield ""


def _said_default(row: Key) -> str:
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


# -------------------------------------------------------------------------------------------------------- methods.md

METHODS_HEAD = """# The methods

Each is one file in `strategies/`, which begins with the paper, the rule in formulas, what is sent, what is guaranteed
under which assumption, and what was chosen where the authors' text was silent; this page has the first of each. The
miscoverage is `alpha`, n_k the number of calibration points of client k, N their sum, K the number of clients, q a
threshold. Which of them keeps its promise, measured: [conformal.md](conformal.md) and [plada.md](plada.md); rounds and
bytes beside the worst client: [strategies.md](strategies.md).

`fl-sim compare digits NAME NAME ...` compares any of one table; [own.md](own.md) adds one of yours.
"""

OURS = re.compile(r"\b[Oo]urs\b|this project's own")
URL = re.compile(r"https?://[^\s,;()]+[\w/]")


def methods_page() -> str:
    """docs/methods.md."""
    lines = [MADE.format("the docstrings in strategies/"), "", METHODS_HEAD]
    lines += ["## How thresholds are agreed: `calibrate`", ""]
    lines += ["| name | what it does | source | the client sends | guaranteed |", "|---|---|---|---|---|"]
    lines += [_row(method, guaranteed=True) for method in map(read_method, CALIBRATE)]
    lines += ["", "## How clients come by their models: `learn`", ""]
    lines += ["| name | what it does | source | what is sent |", "|---|---|---|---|"]
    lines += [_row(method, guaranteed=False) for method in map(read_method, LEARN)]
    return "\n".join([*lines, ""])


class Written(NamedTuple):
    """What a strategy's file says at its top."""

    name: str
    file: str
    what: str
    source: str
    sent: str
    guaranteed: str


def read_method(name: str) -> Written:
    """The head of the file that the strategy of that name is in."""
    module = importlib.import_module(strategy(name).__module__)
    first, *rest = [" ".join(p.split()) for p in (inspect.getdoc(module) or "").split("\n\n")]
    text = "\n".join([first, *rest]).replace("**", "")
    what = _sentence(re.sub(rf"^{re.escape(name)}: ", "", first, flags=re.IGNORECASE))
    papers = [p for p in rest if p.startswith('"') or "https://" in p]
    source = URL.sub(_link, _sentence(papers[0])) if papers else "ours" * bool(OURS.search(text))
    file = Path(inspect.getfile(module)).resolve().relative_to(ROOT).as_posix()
    sent = _after(r"^Sent(?: and received)?(?: to every client)?", text)
    return Written(name, file, what, source, sent, _after("Guaranteed", text))


def _after(start: str, text: str) -> str:
    """The first sentence of the paragraph that begins so, up to what is received."""
    found = re.search(rf"{start}[:,] (.*?)(?: Received:|$)", text, re.MULTILINE)
    return _sentence(found[1]) if found else ""


def _sentence(text: str, end: str = r"\. (?=[A-Z(])|: (?=[A-Z][a-z])") -> str:
    return re.split(end, text)[0].rstrip(". ")


def _link(found: re.Match[str]) -> str:
    url = found[0]
    return f"[{url.replace('https://arxiv.org/abs/', 'arXiv ').removeprefix('https://')}]({url})"


def _row(method: Written, *, guaranteed: bool) -> str:
    name = f"[`{method.name}`](../{method.file})"
    options = len((CALIBRATE if method.name in CALIBRATE else LEARN)[method.name].model_fields) > 1
    name += f" ([keys](scenario.md#{anchor(method.name)}))" * options
    what = method.what if _measured(method.name) else f"{method.what} (*in no published table yet*)"
    cells = [name, what, method.source or "-", method.sent or "nothing"]
    cells += [method.guaranteed or "nothing"] * guaranteed
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


@cache
def _measured(name: str) -> bool:
    """Whether a table of the docs has a row, or a column, of what a strategy gave."""
    pages = ("conformal-tables.md", "plada.md", "contribution.md", "fedwq-cp.md")
    rows = [line for page in pages for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    return any(re.search(rf"(?<![\w-])`?{name}`?(?![\w-])", row) for row in rows)


def _plain(cell: str) -> str:
    """A cell whose bars and comparisons stay what they are."""
    return re.sub(r"\*(?![\w ]+\*)(?<![\w ]\*)", r"\\*", cell.replace("|", "\\|").replace(">=", "≥").replace("<=", "≤"))


# ------------------------------------------------------------------------------------------------------------ own.md

INCLUDED = re.compile(r"(<!-- file: (\S+) -->\n```\w*\n).*?(```\n)", re.DOTALL)


def with_files(text: str) -> str:
    """The page with each block under `<!-- file: PATH -->` as the file has it."""
    return INCLUDED.sub(lambda m: m[1] + (ROOT / m[2]).read_text().rstrip("\n") + "\n" + m[3], text)


# --------------------------------------------------------------------------------------------------- ARCHITECTURE.md

TREE = re.compile(r"(?<=<!-- tree -->\n).*(?=<!-- end of the tree -->)", re.DOTALL)
CLAUSE = re.compile(r"\. |; ")  # what ends a clause


def tree() -> str:
    """Every file of the packages with a clause: a table a folder."""
    folders: dict[Path, list[Path]] = {}
    for package in ("fl_sim", "strategies", "clients"):
        for path in sorted((ROOT / package).rglob("*.py")):
            folders.setdefault(path.parent, []).append(path)
    return "".join(_folder(folder, files) for folder, files in sorted(folders.items()))


def _folder(folder: Path, files: list[Path]) -> str:
    own = [path for path in files if path.name != "__init__.py"]
    lines = [f"`{path.name}` | {_clause(path)}" for path in own]
    head = f"\n**`{folder.relative_to(ROOT).as_posix()}/`** {_clause(folder / '__init__.py')}\n\n"
    return head + "".join(f"{line}\n" for line in ["file | what it holds", "---|---", *lines])


def _clause(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(said.split("\n\n")[0].split())
    name, _, rest = first.partition(": ")
    if name.replace("-", "_").lower() == path.stem or (path.parts[-2] == "fl_sim" and name == "fl-sim"):
        first = rest  # "grouped: a threshold for each client, ..."
    return _plain(CLAUSE.split(first)[0].rstrip("."))


# --------------------------------------------------------------------------------------------------------- report.md

FIGURES = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of the figures -->)", re.DOTALL)


def figures() -> str:
    """A row a figure of a run and of a sweep, in their order."""
    lines = ["| figure | of | what it shows |", "|---|---|---|"]
    for kind in ("run", "sweep"):
        for path in sorted((ROOT / f"fl_sim/report/figures/of_a_{kind}").glob("[!_]*.py"), key=_order):
            lines.append(f"| `{path.stem}` | a {kind} | {_clause(path)} |")
    return "".join(f"{line}\n" for line in lines)


def _order(path: Path) -> tuple[int, str]:
    return int(re.findall(r"^ORDER = (\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)[0]), path.stem


def pages() -> dict[Path, str]:
    """Every page that is made, and what it should be."""
    own, report, architecture = DOCS / "own.md", DOCS / "report.md", ROOT / "ARCHITECTURE.md"
    return {
        DOCS / "scenario.md": scenario_page(),
        DOCS / "methods.md": methods_page(),
        own: with_files(own.read_text()),
        report: FIGURES.sub(lambda _: figures(), report.read_text()),
        architecture: TREE.sub(lambda _: tree(), architecture.read_text()),
    }


def main(arguments: list[str]) -> None:
    """Write the pages, or with --check say which are not current."""
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    stale = [page for page, text in pages().items() if not page.is_file() or page.read_text() != text]
    if arguments and stale:
        sys.exit(f"{', '.join(page.name for page in stale)}: not what the code says; run: make docs")
    for page, text in [] if arguments else pages().items():
        page.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
