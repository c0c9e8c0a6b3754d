"""The commands for PLADA's payload files. Nothing here but parsing, calling and printing."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fl_sim.cli.arguments import FileArgument as ScenarioArgument
from fl_sim.cli.arguments import Overrides, StoreOption, err, out
from fl_sim.data.user_files import content_of
from fl_sim.errors import FlSimError

plada_app = typer.Typer(
    short_help="PLADA's payload files: a task in kilobytes.", no_args_is_help=True,
    help=(
        "A payload is a task in kilobytes: labels for some of the reference images that every client already holds, "
        "and trains its own network on.\n\nTry first: fl-sim plada pack plada-then-fedwqcp --out digits.plada"
    ),
)  # fmt: skip

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A payload, or the folder of a run that made one.")]
FoldersOption = Annotated[
    Path | None,
    typer.Option("--folders", help="A .npz of where the reference set's folders start (default: what lies beside)."),
]
MostReferences = Annotated[int, typer.Option(min=0, help="Refuse a payload over more references.")]
MostKept = Annotated[
    int | None, typer.Option(min=0, help="Refuse a payload that keeps more of them; else by the length of its body.")
]

MOST_CLASSES = 20  # of which `info` tells one by one what is kept
IN_RUN, FOLDERS_IN_RUN = "payload.plada", "folders.npz"  # what a run's folder holds
BESIDE = ".folders.npz"  # in place of .plada, beside a payload that `pack` made


@plada_app.command()
def pack(
    file: ScenarioArgument,
    to: Annotated[Path, typer.Option("--out", help="A .plada file; must not exist.")],
    overrides: Overrides = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="A .png file for some kept images of each class; must not exist.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Make a scenario's payload here, without any client: teacher, rehearsal, selection, packing."""
    from fl_sim.cli.progress import Bars
    from fl_sim.scenario.scenario import Scenario
    from fl_sim.store.artifacts import users_store

    scenario = Scenario.load(file, *(overrides or []))
    if scenario.learn.name != "plada":
        raise FlSimError(f"learn = {scenario.learn.name!r}: only learn = 'plada' makes a payload; choose that")
    beside = to.with_suffix(BESIDE)
    for path, suffix in ((to, ".plada"), (beside, ".npz"), (sheet, ".png")):
        _refuse(path, suffix)
    with Bars(err) as bars:
        learn = _learning(scenario, users_store(store), bars)
        contents, metrics = learn.files(), learn.metrics()
        if FOLDERS_IN_RUN in contents:
            _write(beside, contents[FOLDERS_IN_RUN])
        _write(to, contents[IN_RUN])
        if sheet is not None:
            bars.phase("drawing", None)
            _draw(learn, metrics, sheet)
    _say_made(to, beside if FOLDERS_IN_RUN in contents else None, sheet, metrics, learn.detail()["kept_by_class"])


def _learning(scenario: Any, store: Any, bars: Any) -> Any:
    """The scenario's learn strategy, as a run would have it."""
    from fl_sim.preflight import check
    from fl_sim.simulation import federation_of, made_ready
    from strategies import learning

    check(scenario)
    bars.phase("data", None)
    return learning(scenario.learn, federation_of(made_ready(scenario, store), scenario, store, bars))


def _refuse(path: Path | None, suffix: str) -> None:
    if path is None:
        return
    if path.suffix != suffix:
        raise FlSimError(f"{path}: its name must end in {suffix}")
    if path.exists():
        raise FlSimError(f"{path}: is there already; choose another name, or delete it first")


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as handle:
            handle.write(content)
    except OSError as error:
        raise FlSimError(f"{path}: cannot be written: {error.strerror or error}") from None


def _draw(learn: Any, metrics: dict[str, Any], sheet: Path) -> None:
    from fl_sim.report.figures.kept import draw_kept

    references, payload = learn.server.references, learn.payload
    indices, labels = payload.unpack(references.groups)
    about = f"{metrics['rule']}; of {payload.num_references:,} references ({', '.join(references.sets)})"
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        draw_kept(references.images, indices, labels, payload.class_names, sheet, about)
    except OSError as error:
        raise FlSimError(f"{sheet}: cannot be written: {error.strerror or error}") from None


def _say_made(
    to: Path, beside: Path | None, sheet: Path | None, metrics: dict[str, Any], by_class: dict[str, int]
) -> None:
    from fl_sim.report.numbers import percent, size_of
    from fl_sim.report.payload import kept, unlabelled

    packed_by = "packed by the reference set's folders"
    needed = f"its readers need no file but this: it is not {packed_by}"
    if beside is not None:
        needed = f"{beside}: where these folders start; its readers need that too, because it is {packed_by}"
    for line in (
        f"{to}: {size_of(metrics['payload_bytes'])}, the labels of {kept(metrics)}; {metrics['rule']}",
        f"the teacher's accuracy on the test rows is {percent(metrics['teacher_accuracy'])}",
        *unlabelled([name for name, many in by_class.items() if not many]),
        needed,
        *[f"{sheet}: some kept images of each class"] * (sheet is not None),
        f"    fl-sim plada info {shlex.quote(str(to))}",
        f"    fl-sim plada unpack {shlex.quote(str(to))} --out {shlex.quote(str(to.with_suffix('.csv')))}",
    ):
        out.print(escape(line), soft_wrap=True, highlight=False)


@plada_app.command()
def info(
    file: FileArgument,
    folders: FoldersOption = None,
    most_references: MostReferences = 100_000_000,
    most_kept: MostKept = None,
) -> None:
    """A payload's sizes, part by part, what it keeps of each class, the entropy bound and Zstd's best."""
    import numpy as np

    from fl_sim.plada import codec
    from fl_sim.report.numbers import count
    from fl_sim.report.payload import unlabelled

    payload = _read(file, most_references, most_kept)
    starts = _folders(folders, file, payload)
    indices, labels = payload.unpack(starts)
    mask = len(codec.encode(indices, labels * 0, payload.num_references, 1, starts))
    out.print(f"[bold]{escape(str(_place(file)))}[/]", soft_wrap=True, highlight=False)
    out.print(_parts(payload, mask))
    share = f" ({payload.num_kept / payload.num_references:.3%})" if payload.num_references else ""
    classes = count(len(payload.class_names), "class", "classes")
    for line in (
        f"{payload.num_kept:,} of {payload.num_references:,} references{share}, {classes}",
        f"reference set {payload.reference.hex()}",
        *_rates(payload, indices, labels, mask),
    ):
        out.print(line, soft_wrap=True, highlight=False)
    counts = np.bincount(labels, minlength=len(payload.class_names))
    out.print(_by_class(payload.class_names, counts), soft_wrap=True, highlight=False)
    for line in unlabelled([name for name, many in zip(payload.class_names, counts, strict=True) if not many]):
        out.print(escape(line), soft_wrap=True, highlight=False)


def _parts(payload: Any, mask: int) -> Table:
    """Bytes of each part; the body's indices are what they take alone, its labels are the rest."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("bytes", justify="right")
    for part, size in payload.parts().items():
        table.add_row(part, f"{size:,}")
        if part == "body":
            table.add_row("  of it indices", f"{mask:,}", style="dim")
            table.add_row("  of it labels", f"{size - mask:,}", style="dim")
    table.add_row("all", f"{sum(payload.parts().values()):,}", style="bold")
    return table


def _rates(payload: Any, indices: Any, labels: Any, mask: int) -> list[str]:
    """Bits a kept reference, of which there may be none, and what the body would take otherwise."""
    from fl_sim.plada import baselines, codec

    sizes = baselines.zstd_sizes(indices, labels, payload.num_references, len(payload.class_names))
    bound, body, bits = baselines.bound(labels, payload.num_references), len(payload.body), 8 / max(payload.num_kept, 1)
    lines = [
        f"{bits * body:.2f} bits a kept reference: {bits * mask:.2f} for which it is, {bits * (body - mask):.2f} for "
        f"its label (the entropy of the labels alone is {baselines.entropy(labels):.2f})",
        f"the body takes {body:,} bytes, read as {codec.reading_of(payload.body)}; the paper's encodings with Zstd-19 "
        f"would take {sizes['indices']:,} (indices) and {sizes['bitmap']:,} (bitmap), the entropy bound of a payload "
        f"without clusters is {bound:,.0f}",
    ]
    return lines if payload.num_kept else lines[1:]


def _by_class(names: tuple[str, ...], counts: Any) -> Any:
    """What is kept of each class (C,); of many classes the fewest, the median and the most."""
    import numpy as np

    if len(names) > MOST_CLASSES:
        fewest, most = (names[int(place)] for place in (counts.argmin(), counts.argmax()))
        ends = f"kept of each class: {counts.min():,} ({fewest}) to {counts.max():,} ({most}), "
        return escape(f"{ends}median {np.median(counts):,.0f}")
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("kept", justify="right")
    for name, many in zip(names, counts.tolist(), strict=True):
        table.add_row(escape(name), f"{many:,}")
    return table


@plada_app.command()
def unpack(
    file: FileArgument,
    to: Annotated[Path, typer.Option("--out", help="A .csv or .npz file; must not exist.")],
    folders: FoldersOption = None,
    names: Annotated[bool, typer.Option("--names", help="A column with the class's name too (.csv).")] = False,
    most_references: MostReferences = 100_000_000,
    most_kept: MostKept = None,
) -> None:
    """A payload's indices and labels as a file, with what it tells of curriculum levels and confidences.

    A .npz always holds the class names, in `class_names`; a .csv has numbers alone unless --names is given.
    """
    import numpy as np

    if to.suffix not in (".csv", ".npz"):
        raise FlSimError(f"--out {to}: its name must end in .csv or .npz")
    if names and to.suffix == ".npz":
        raise FlSimError(f"--names: is for a .csv; {to} will hold the class names anyway, in class_names")
    if to.exists():
        raise FlSimError(f"{to}: is there already; choose another --out")
    payload = _read(file, most_references, most_kept)
    indices, labels = payload.unpack(_folders(folders, file, payload))
    columns = {"index": indices, "label": labels}
    levels, confidences = payload.levels(labels), payload.confidences(labels)
    if levels is not None:
        columns["level"] = levels[0]
    if confidences is not None:
        columns["confidence"] = confidences
    try:
        if to.suffix == ".npz":
            named = {"index": "indices", "label": "labels", "level": "levels", "confidence": "confidences"}
            arrays = {named[name]: column for name, column in columns.items()}
            np.savez_compressed(to, **arrays, class_names=np.array(payload.class_names))
        else:
            written = {name: column.tolist() for name, column in columns.items()}
            if confidences is not None:
                written["confidence"] = [f"{value:.6g}" for value in written["confidence"]]
            if names:
                written["name"] = [payload.class_names[label] for label in written["label"]]
            with to.open("w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(written)
                writer.writerows(zip(*written.values(), strict=True))
    except OSError as error:
        raise FlSimError(f"{to}: cannot be written: {error.strerror or error}") from None
    by = ", ".join([*columns, *["name"] * names])
    out.print(f"{len(indices):,} references, by {by}, are in {escape(str(to))}", soft_wrap=True, highlight=False)


def _place(file: Path) -> Path:
    """The payload's file; a run's folder stands for the one in it.

    Raises:
        FlSimError: a folder without one.
    """
    if not file.is_dir():
        return file
    if not (file / IN_RUN).is_file():
        raise FlSimError(f"{file}: holds no {IN_RUN}; name a payload, or the folder of a run with learn = 'plada'")
    return file / IN_RUN


def _read(file: Path, most_references: int, most_kept: int | None) -> Any:
    from fl_sim.plada.payload import Payload

    file = _place(file)
    data = content_of(file)
    try:
        return Payload.from_bytes(data, most_references=most_references, most_kept=most_kept)
    except FlSimError as error:
        raise FlSimError(f"{file}: {error}") from None


def _folders(named: Path | None, file: Path, payload: Any) -> Any:
    """Where folders start, for a payload that was packed by them: as told, or as lies beside it; else None.

    Raises:
        FlSimError: they are needed and not there, or the file is none, or of another reference set.
    """
    from fl_sim.plada.codec import reading_of
    from fl_sim.plada.folders import read_folders

    place, needed = _place(file), reading_of(payload.body) == "foldered"
    beside = [place.with_suffix(BESIDE), *[place.with_name(FOLDERS_IN_RUN)] * (place.name == IN_RUN)]
    source = named or next((path for path in beside if needed and path.is_file()), None)
    if source is None:
        if needed:
            raise FlSimError(
                f"{place}: was packed by the reference set's folders, and {beside[-1]} is not there: name the file of "
                "where they start with --folders"
            )
        return None
    data = content_of(source)
    try:
        starts = read_folders(data, payload.reference)
    except FlSimError as error:
        raise FlSimError(f"{source}: {error}") from None
    return starts if needed else None
