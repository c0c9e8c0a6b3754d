"""What the table, the figures and the sweep tables say of hand-outs: results and points made by hand."""

from __future__ import annotations

import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console, RenderableType

from fl_sim import Result, Scenario
from fl_sim.report import payload
from fl_sim.report import sweep_points as over
from fl_sim.report.figures import kept as figure_kept
from fl_sim.report.figures import sweep_lines
from fl_sim.report.figures.catalogue import draw_run as draw
from fl_sim.report.figures.catalogue import draw_sweep
from fl_sim.report.figures.of_a_run import payload as payload_figure
from fl_sim.report.figures.of_a_sweep import bytes as figure_bytes
from fl_sim.report.figures.style import save, styled
from fl_sim.report.numbers import small_percent
from fl_sim.report.sweep_labels import line_of, of_models, shortened
from fl_sim.report.sweep_results import SweepResults
from fl_sim.report.sweep_table import summary
from fl_sim.report.table import notes
from fl_sim.results.run import Row
from fl_sim.results.sweep_folder import label

CODEC = {
    "header": 48, "class_names": 19, "body": 1931, "indices": 1231, "labels": 700, "reading": "clustered",
    "zstd": 2288, "entropy_bound": 2059.6,
}  # fmt: skip
TRIALS = [
    {"rule": "diverse, 1 by class ** 0", "accuracy": 0.84, "rounds": [0.81, 0.87]},
    {"rule": "random", "accuracy": 0.80, "rounds": [0.75, 0.85]},
    {"rule": "lowest", "accuracy": 0.19, "rounds": [0.19]},
    {"rule": "entropy", "accuracy": 0.16, "rounds": [0.16]},
]


def client(k: int, tier: str) -> Row:
    return {
        "client": k, "tier": tier, "num_calibration": 20, "num_test": 20, "label_counts": [20, *[0] * 9],
        "num_covered": None, "coverage": None, "mean_set_size": None, "num_empty": None, "num_correct": 17,
        "accuracy": 0.85, "bytes_up": 0, "bytes_down": 1998, "retries": 0, "status": "ok",
    }  # fmt: skip


def result(detail: dict[str, Any] | None = None, **found: Any) -> Result:
    rows = [client(k, ("weak", "strong")[k % 2]) for k in range(4)]
    learn = {
        "accuracy": 0.865, "accuracy_client_min": 0.5, "tiers": {
            "strong": {"accuracy": 0.868}, "weak": {"accuracy": 0.863},
        },
    } | found  # fmt: skip
    return Result(Scenario.load("digits", "clients.count=4", "calibrate=none"), rows, {
        "clients": {"retried": 0, "missing": []},
        "learn": {"metrics": learn, "detail": detail or {}},
        "calibrate": {"metrics": {"rounds": 0}},
    })  # fmt: skip


def plada(rehearsal: list[dict[str, Any]] | None = None, classes: int = 10, **codec: Any) -> Result:
    return result(
        {"kept_by_class": {str(c): 171 - c for c in range(classes)}, "rehearsal": rehearsal or []},
        payload_bytes=1998, num_kept=1710, num_references=41247, keep_fraction=1710 / 41247, rule="lowest energy",
        teacher_accuracy=0.972, codec=CODEC | codec,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- notes


def test_the_notes_tell_what_was_handed_out_what_it_would_take_and_what_came_of_it():
    told = list(notes(plada(TRIALS)))
    assert "Handed out: 1,998 bytes to every client, the labels of 1,710 of 41,247 references (4.1%); " in told[1]
    assert told[2] == (
        "Its indices and labels take 1,931 bytes; Zstd-19 would take 2,288 bytes, the entropy bound without clusters "
        "is 2,060 bytes."
    )
    assert told[3] == "Accuracy: the teacher 97.2%, the clients 86.3% (weak), 86.8% (strong)."
    assert told[4] == (
        "Rehearsed 4 rules on held-out rows of the server's: best diverse, 1 by class ** 0, 84.0% over 2 rounds; then "
        "random, 80.0% over 2 rounds; worst entropy, 16.0% over 1 round."
    )
    assert told[5] == "Learning cost 0 bytes up and 1,998 bytes down per client."


def test_other_payloads_have_the_notes_that_fit_them_and_other_learning_has_none():
    told = list(payload.notes(result(payload_bytes=39_400, rule="the teacher's weights, int8", teacher_accuracy=0.95)))
    assert told == [
        "Handed out: 39.4 kB to every client: the teacher's weights, int8; class names not counted, as they are in a "
        "payload of labels.",
        "Accuracy: the teacher 95.0%, the clients 86.3% (weak), 86.8% (strong).",
    ]
    told = list(payload.notes(result(payload_bytes=900, rule="random images, raw", tiers={"weak": {"accuracy": None}})))
    assert told[1] == "Accuracy: no client could be tested."
    assert list(payload.notes(result())) == []


def test_classes_without_a_label_are_told():
    none = {"2": 0, "6": 0, "0": 5, "[7]": 0}
    told = list(notes(result({"kept_by_class": none}, payload_bytes=1998, rule="random")))
    assert "No reference is labelled 2, 6, [7]: students cannot learn these classes." in told
    assert not any("No reference" in line for line in notes(plada()))


@pytest.mark.parametrize(("names", "told"), [
    (["a é"], "No reference is labelled a é: students cannot learn this class."),
    (list("abcdefgh"), "No reference is labelled a, b, c, d, e, f, g, h: students cannot learn these classes."),
    (list("abcdefghi"),
     "No reference is labelled a, b, c, d, e, f, g, h, and 1 more: students cannot learn these classes."),
    ([*"abcdefgh", *"x" * 1200],
     "No reference is labelled a, b, c, d, e, f, g, h, and 1,200 more: students cannot learn these classes."),
])  # fmt: skip
def test_of_many_classes_without_a_label_eight_are_named(names: list[str], told: str):
    assert payload.unlabelled(names) == [told]
    assert payload.unlabelled([]) == []


def test_few_rehearsed_rules_are_not_named_twice():
    assert "; then random" in payload.rehearsed(TRIALS[:2])
    assert "worst" not in payload.rehearsed(TRIALS[:2])
    assert payload.rehearsed(TRIALS[:1]).startswith("Rehearsed one rule")


@pytest.mark.parametrize(("share", "told"), [(0.0414, "4.1%"), (0.00012, "0.0120%"), (0.0, "0.0%"), (1.0, "100.0%")])
def test_small_shares_keep_their_digits(share: float, told: str):
    assert small_percent(share) == told


# ----------------------------------------------------------------------------------------------------- figures of a run


def test_the_parts_add_up_to_the_file():
    assert payload_figure.parts_of(CODEC) == {"indices": 1231, "labels": 700, "names": 67}
    more = CODEC | {"curriculum_order": 30, "soft_labels": 90}
    assert sum(payload_figure.parts_of(more).values()) == 1998 + 120


@pytest.mark.parametrize("rehearsal", [TRIALS, None])
def test_a_payload_is_drawn_and_twice_the_same(tmp_path: Path, rehearsal: list[dict[str, Any]] | None):
    drawn = draw(plada(rehearsal), tmp_path / "one")
    assert {path.name for path in drawn} >= {"payload.png", "payload.svg", "labels.png"}
    with styled():
        again = save(payload_figure.draw(plada(rehearsal)), tmp_path / "two", "payload")
    for path in again:
        assert (tmp_path / "one" / path.name).read_bytes() == path.read_bytes()
    text = (tmp_path / "one/payload.svg").read_text()
    assert ('id="reached"' in text) == bool(rehearsal)
    assert ('id="even"' in text) != bool(rehearsal)


def test_without_a_payload_none_is_drawn(tmp_path: Path):
    payload = result(payload_bytes=900, rule="random images, raw")
    assert not any(path.name.startswith("payload") for path in draw(payload, tmp_path))


def test_of_many_classes_the_fullest_and_the_emptiest_are_shown():
    kept = {f"class {c}": (c * 37) % 100 for c in range(100)}
    rows = payload_figure._classes(kept)
    assert [many for _, many in rows[:10]] == list(range(99, 89, -1))
    assert rows[10] == ("80 between", None)
    assert [many for _, many in rows[11:]] == list(range(9, -1, -1))
    few = {"b": 1, "a": 2}
    assert payload_figure._classes(few) == [("b", 1), ("a", 2)]  # in their own order
    figure = payload_figure.draw(plada(classes=100, curriculum_order=50))
    (left, right) = figure.axes
    assert len(right.get_yticks()) == 21
    assert left.patches[3].get_y() == 1998  # the section stands on the parts before it


def test_rules_stand_from_the_one_that_was_taken_to_the_worst():
    (_, ax) = payload_figure.draw(plada(TRIALS)).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [trial["rule"] for trial in TRIALS]
    (low, high) = ax.get_ylim()
    assert low > high  # the first on top
    dots = [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "o"]
    assert dots == [trial["rounds"] for trial in TRIALS]


# -------------------------------------------------------------------------------------------------------- kept images


@pytest.mark.parametrize("channels", [1, 3])
def test_the_contact_sheet_has_a_row_a_class_with_images_in_their_places(tmp_path: Path, channels: int):
    def images(rows: Any) -> Any:
        return np.stack([np.full((channels, 4, 4), row, np.uint8) for row in rows])

    indices, labels = np.arange(100, 160), np.repeat([0, 2], [25, 35])
    figure_kept.draw_kept(images, indices, labels, ("a", "none", "c" * 40), tmp_path / "kept.png", "a payload")
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")
    figure = figure_kept._figure(images, indices, labels, ("a", "none", "c" * 40), "a payload")
    (shown,) = figure.axes[0].images
    mosaic = np.asarray(shown.get_array())
    assert mosaic.shape == (2 * 5, 20 * 5, 3)
    assert mosaic[0, 0].tolist() == [100] * 3  # the first of class 0, and below it the first and the last of class 2
    assert [int(mosaic[5, 0, 0]), int(mosaic[5, 95, 0])] == [125, 159]
    assert mosaic[4].min() == 255  # white between rows
    told = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "60 reference images stand for 3 classes" in told
    assert "1 class without a kept image" in told


def test_of_many_classes_some_have_a_row_and_an_empty_payload_has_none():
    labels = np.arange(30)
    figure = figure_kept._figure(
        lambda rows: np.zeros((len(rows), 1, 2, 2), np.uint8), labels, labels, list(map(str, range(30))), ""
    )
    names = [text.get_text() for text in figure.axes[0].texts][::2]
    assert (len(names), names[0], names[-1]) == (10, "0", "29")
    none = np.zeros(0, np.int64)
    assert list(figure_kept._figure(lambda rows: rows, none, none, ("a",), "").axes[0].images) == []


def test_spread_takes_both_ends_and_no_image_twice():
    assert figure_kept.spread(np.arange(7), 20).tolist() == list(range(7))
    assert figure_kept.spread(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]


# --------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_of_the_settings_without_what_all_share():
    teacher = {"architecture": "cnn", "epochs": 10}
    values = [
        {"name": "plada", "keep_fraction": 0.01, "rule": "random", "safety": {"share": 1, "exponent": 0},
         "teacher": teacher},
        {"name": "plada", "keep_fraction": 0.03, "rule": "random", "teacher": teacher},
        {"name": "weights", "precision": "int8", "teacher": teacher},
        {"name": "coreset", "images_per_class": 5},
        "own",
    ]  # fmt: skip
    settings = {label(value): value for value in values}
    points = pd.DataFrame({"learn": list(settings), "seed": 0})
    short, short_settings, said = shortened(points, settings)
    assert short["learn"].tolist() == [
        "plada(keep_fraction=0.01, safety=(share=1, exponent=0))", "plada(keep_fraction=0.03)",
        "weights(precision=int8)", "coreset(images_per_class=5)", "own",
    ]  # fmt: skip
    assert short_settings["plada(keep_fraction=0.03)"] == {"name": "plada", "keep_fraction": 0.03}
    assert said == "plada with rule=random; plada and weights with teacher=(architecture=cnn, epochs=10)"
    assert points["learn"].tolist() == list(settings)  # untouched


def test_a_line_is_named_by_all_but_the_size_and_only_by_what_the_strategy_has():
    table = {"name": "plada", "keep_fraction": 0.01, "rule": "random"}
    assert line_of({"learn": label(table)}, {label(table): table}) == "plada(rule=random)"
    assert line_of({"learn": "plada", "learn.rule": "diverse", "learn.budget_bytes": 2000}, {}) == "plada(rule=diverse)"
    assert line_of({"learn": "coreset", "learn.rule": "diverse", "data.name": "digits"}, {}) == "coreset"
    assert line_of({"learn.budget_bytes": 2000}, {}) == ""
    assert line_of({"learn.rule": "diverse", "learn.budget_bytes": 2000}, {}) == "rule=diverse"


# --------------------------------------------------------------------------------------------------- figures of a sweep

AXES = ["data.name", "learn", "calibrate", "seed"]
PLADA = [
    {"name": "plada", "keep_fraction": fraction, "rule": rule}
    for fraction, rule in ((0.01, "random"), (0.05, "random"), (0.01, "diverse"))
]
OTHERS: list[dict[str, Any]] = [
    {"name": "coreset", "images_per_class": 5}, {"name": "weights", "precision": "int8"},
]  # fmt: skip
SETTINGS = {label(table): table for table in [*PLADA, *OTHERS]}
LEARN = {  # label -> bytes, accuracy
    "plada(keep_fraction=0.01, rule=random)": (600, 0.7), "plada(keep_fraction=0.05, rule=random)": (2000, 0.8),
    "plada(keep_fraction=0.01, rule=diverse)": (620, 0.77), "coreset(images_per_class=5)": (2300, 0.75),
    "weights(precision=int8)": (40_000, 0.95),
}  # fmt: skip


def sweep(data: tuple[str, ...] = ("digits", "fashion-mnist"), tiers: tuple[str, ...] = ("weak", "strong")) -> Any:
    rows = []
    for name, learn, calibrate, seed in itertools.product(data, LEARN, ("local", "pooled"), (0, 1)):
        size, accuracy = LEARN[learn]
        accuracy += 0.02 * seed - 0.1 * (name != "digits")
        rows.append({
            "data.name": name, "learn": learn, "calibrate": calibrate, "seed": seed, "status": "ok", "alpha": 0.1,
            "point": len(rows), "run": f"{name}{learn}{calibrate}{seed}", over.COVERAGE: 0.9, over.WORST: 0.5,
            over.ACCURACY: accuracy, over.LEAST: accuracy - 0.3, over.PAYLOAD: size + seed,
            over.KEPT: 0.01 if learn.startswith("plada") else math.nan,
            over.TEACHER: math.nan if learn.startswith("coreset") else 0.96,
            **{f"{over.TIERS}{tier}.accuracy": accuracy + 0.01 * k for k, tier in enumerate(tiers)},
            **{f"{over.TIERS}{tier}.accuracy_client_min": 0.4 for tier in tiers},
        })  # fmt: skip
    clients = pd.DataFrame({"point": range(len(rows)), "label_counts": "1 2 3 4 5 6 7 8 9 10"})
    return pd.DataFrame(rows), clients


def results(points: pd.DataFrame, clients: pd.DataFrame, axes: list[str] = AXES) -> SweepResults:
    return SweepResults(points, axes, "a sweep", clients, SETTINGS)


def figures_of(points: pd.DataFrame, clients: pd.DataFrame, axes: list[str] = AXES) -> list[Any]:
    with styled():
        return figure_bytes.draw(results(points, clients, axes))


def test_accuracy_is_drawn_over_the_bytes_and_twice_the_same(tmp_path: Path):
    one, two = (draw_sweep(results(*sweep(("digits",))), tmp_path / name) for name in ("one", "two"))
    drawn = [path for path in one if path.stem == "bytes"]
    assert [path.name for path in drawn] == ["bytes.png", "bytes.svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert 'id="teacher"' in drawn[1].read_text()


def test_a_column_a_world_a_row_a_tier_and_dots_at_their_bytes():
    (figure,) = figures_of(*sweep())
    assert [ax.get_title() for ax in figure.axes] == ["data digits", "data fashion-mnist", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["accuracy, weak clients", "accuracy, strong clients"]
    strong = figure.axes[2]
    lines = [line for line in strong.lines if line.get_marker() not in ("None", "", None) and len(line.get_xdata())]
    # Two sizes of one way are one line; each seed's bytes are averaged, and so are its accuracies.
    assert lines[0].get_xdata().tolist() == [600.5, 2000.5]
    assert lines[0].get_ydata().tolist() == pytest.approx([0.72, 0.82])
    assert len(lines) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "plada(rule=random)", "plada(rule=diverse)", "coreset", "weights",
    ]  # fmt: skip
    told = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "most accurate: weights, 96.0% at 40.0 kB" in told


def test_without_tiers_there_is_one_row_and_chance_is_drawn_where_it_is_near():
    points, clients = sweep(("digits",), ())
    clients["label_counts"] = "1 1"
    (figure,) = figures_of(points, clients)
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy"]
    levels = {line.get_gid(): line.get_ydata()[0] for line in figure.axes[0].lines if line.get_gid()}
    assert levels == {"teacher": pytest.approx(0.96), "chance": 0.5}


def test_many_worlds_take_several_figures(tmp_path: Path):
    points, clients = sweep(("a", "b", "c", "d", "e"), ())
    drawn = draw_sweep(results(points, clients), tmp_path, ["svg"])
    assert [path.name for path in drawn if path.stem.startswith("bytes")] == ["bytes_01.svg", "bytes_02.svg"]


def test_nothing_is_drawn_where_sizes_do_not_differ_or_learning_is_not_swept():
    points, clients = sweep()
    assert figures_of(points.assign(**{over.PAYLOAD: 5.0}), clients) == []
    assert figures_of(points.assign(**{over.PAYLOAD: math.nan}), clients) == []
    assert figures_of(points, clients, ["data.name", "calibrate", "seed"]) == []
    assert figures_of(points.assign(status="failed"), clients) == []


@pytest.mark.parametrize(
    ("low", "high", "most", "found"),
    [
        (250, 1500, 6, [300, 500, 700, 1000]),
        (500, 50_000, 7, [500, 1000, 2000, 5000, 10_000, 20_000, 50_000]),
        (500, 50_000, 4, [1000, 3000, 10_000, 30_000]),
        (500, 50_000, 2, [1000, 10_000]),
        (10, 10**9, 3, [10, 10**4, 10**7]),
    ],
)
def test_sizes_on_the_axis_are_round_and_no_more_than_there_is_room_for(low, high, most, found):
    assert sweep_lines._round_sizes(low, high, most) == found


def test_points_that_differ_in_calibration_alone_count_once():
    points, _ = sweep(("digits",))
    kept, axes = of_models(points, AXES)
    assert (len(kept), axes) == (len(LEARN) * 2, ["data.name", "learn", "seed"])


# --------------------------------------------------------------------------------------------------- tables of a sweep


def printed(what: RenderableType, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(what)
    return out.getvalue()


@pytest.mark.parametrize("compared", [False, True])
def test_the_table_tells_bytes_and_accuracy_by_tier(compared: bool):
    points, _ = sweep(("digits",))
    text = printed(summary(points, AXES, "a sweep", compared=compared), 200)
    text = text[text.index("What was handed out") :]
    assert re.search(r"data +learn +bytes +kept +weak +strong +client +teacher", text)
    row = next(line for line in text.splitlines() if "coreset(" in line)
    # two seeds, though two calibrations: 0.75 and 0.77, the strong clients a point more, the worst one 30 points less
    # and t of one degree of freedom, 12.7, times a standard error of half a byte or of one point
    assert "2,300 [2,294, 2,307]" in row
    assert "76.0% [63.3, 88.7]" in row
    assert "77.0% [64.3, 89.7]" in row
    assert "46.0% [33.3, 58.7]" in row
    assert "kept: the share of the reference images." in " ".join(text.split())


def test_where_nothing_is_handed_out_or_learning_is_not_swept_the_tables_stay_as_they_were():
    points, _ = sweep(("digits",))
    assert "handed out" not in printed(summary(points.drop(columns=over.PAYLOAD), AXES, ""), 200)
    assert "handed out" not in printed(summary(points, ["data.name", "calibrate", "seed"], ""), 200)


def test_too_many_rows_are_cut_and_said():
    points, _ = sweep(tuple(f"data-{k}" for k in range(10)))
    assert "(the first 40 of 50 rows; all rows: fl-sim results DIR" in printed(summary(points, AXES, ""), 250)
