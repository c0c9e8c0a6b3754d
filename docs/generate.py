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
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scenario_page import MADE, anchor, scenario_page

from fl_sim.scenario.strategies import CALIBRATE, LEARN, strategy

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


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
    match = re.search(rf"{start}[:,] (.*?)(?: Received:|$)", text, re.MULTILINE)
    return _sentence(match[1]) if match else ""


def _sentence(text: str, end: str = r"\. (?=[A-Z(])|: (?=[A-Z][a-z])") -> str:
    return re.split(end, text)[0].rstrip(". ")


def _link(match: re.Match[str]) -> str:
    url = match[0]
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
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
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
