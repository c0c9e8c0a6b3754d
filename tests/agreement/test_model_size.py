"""Sizes side by side: what doubling buys, what is left, and when a report shows it."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl_sim.agreement.model_size import NO_BOUND, Measured, doublings, enough, size_of
from fl_sim.report.figures.of_a_sweep.model_sizes import figure_of, sizes_of
from fl_sim.report.figures.style import styled
from fl_sim.scenario.tables import Agreement


def runs(*told: tuple[int, int, float, float]) -> list[Measured]:
    return [Measured(*one) for one in told]


TWO_SEEDS = runs(
    (1, 0, 0.8, 0.4), (1, 1, 0.6, 0.2),
    (2, 0, 0.5, 1.0), (2, 1, 0.5, 0.6),
    (4, 0, 0.5, 0.1),
)  # fmt: skip


def test_each_size_is_set_beside_its_double_on_the_same_seeds():
    one, two, four = doublings(reversed(TWO_SEEDS))
    assert (one.size, one.seeds, two.size, four.size, four.seeds) == (1, 2, 2, 4, 1)
    assert one.risk == pytest.approx(0.7)
    assert one.risk_se == pytest.approx(0.1)
    assert one.disagreement == pytest.approx(0.3)
    assert one.four_gains == pytest.approx(4 * (0.3 + 0.1) / 2)
    assert one.four_gains_se == pytest.approx(0.4)
    assert one.excess == pytest.approx((0.1 - 0.3 + 0.05 - 0.1) / 2)
    assert two.four_gains == pytest.approx(0)  # of seed 0, which alone has size 4
    assert two.excess == pytest.approx(0.25)
    assert (two.risk, two.four_gains_se) == (0.5, 0.0)
    assert (four.four_gains, four.excess) == (None, None)
    with pytest.raises(ValueError, match="size 2, seed 1: two runs"):
        doublings(runs(*[(2, 1, 0.1, 0.1)] * 2))


def test_enough_is_the_least_size_from_which_no_doubling_gains():
    rows = doublings(runs((1, 0, 0.9, 0), (2, 0, 0.5, 0), (4, 0, 0.495, 0), (8, 0, 0.6, 0)))
    assert enough(rows, 0.01) == 2
    assert enough(rows, 0.001) == 4
    assert enough(rows, 1.0) == 1
    assert enough(doublings(runs((1, 0, 0.9, 0), (2, 0, 0.5, 0))), 0.01) is None
    noisy = doublings(runs((1, 0, 0.9, 0), (1, 1, 0.5, 0), (2, 0, 0.5, 0), (2, 1, 0.6, 0)))  # gains 0.4 and -0.1
    assert enough(noisy, 0.01) == 1


def test_the_table_has_a_row_for_each_size():
    table = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "agreement_sizes.py"))["markdown"]
    head, rule, first, *_, last = table(doublings(TWO_SEEDS), "depth").splitlines()
    assert head == "| depth | R_n | 4 (R_n - R_2n) | D_n | D_n / 4 - (R_n - R_2n) |"
    assert rule.count("--:") == 5
    assert first == "| 1 | 0.700 ± 0.100 | 0.800 ± 0.400 | 0.300 ± 0.100 | -0.125 ± 0.075 |"
    assert last == "| 4 | 0.500 ± 0.000 |  | 0.100 ± 0.000 |  |"


def result(architecture: str, epochs: int, seed: int, *, measured: bool = True, others: str = "") -> Any:
    tiers = [SimpleNamespace(architecture=architecture, epochs=epochs, share=None)]
    tiers += [SimpleNamespace(architecture=others, epochs=1, share=0.5)] * bool(others)
    scenario = SimpleNamespace(
        seed=seed, clients=SimpleNamespace(tier=tiers), agreement=Agreement(rows=10, within=0.01) if measured else None
    )
    told = {"agreement": {"risk": 1 / (1 + math.log2(epochs)), "disagreement": 0.1}} if measured else {}
    return SimpleNamespace(scenario=scenario, summary=told)


AXES = ["clients.tier.all.epochs", "seed"]


def test_a_report_shows_sweeps_over_one_kind_of_size_alone():
    sweep = [result("boosting", epochs, seed) for epochs in (1, 2, 4) for seed in (0, 1)]
    sizes = sizes_of(sweep, AXES)
    assert sizes is not None
    assert (sizes.what, [row.size for row in sizes.rows], sizes.within) == ("stages", [1, 2, 4], 0.01)
    assert sizes.rows[0].four_gains == pytest.approx(2)
    assert sizes.finding == "Up to stages 4, the largest here, doubling still lowers the risk."
    assert sizes.beyond == "D_n is more than 4 (R_n - R_2n), beyond two standard errors, at none of these sizes."
    assert sizes_of(sweep, [*AXES, "clients.count"]) is None
    assert sizes_of([*sweep, result("mlp", 8, 0)], AXES) is None
    assert sizes_of([*sweep, result("tree-8", 1, 0)], AXES) is None
    assert sizes_of([*sweep, result("boosting", 8, 0, others="linear")], AXES) is None
    assert sizes_of([*sweep, result("boosting", 8, 0, measured=False)], AXES) is None
    assert sizes_of([*sweep, result("boosting", 4, 0)], AXES) is None
    assert sizes_of(sweep[:2], AXES) is None


def test_the_figure_says_that_it_draws_no_bound():
    sizes = sizes_of([result(f"tree-{n}", 1, seed) for n in (1, 2, 4, 8) for seed in (0, 1)], AXES)
    assert sizes is not None
    assert sizes.finding.startswith("From depth 1 on doubling buys no accuracy; two clients' models still differ")
    assert sizes.beyond.endswith("two standard errors, at depth 1, 2, 4.")
    with styled():
        sheet = figure_of(sizes, "a sweep")
    words = " ".join(" ".join(text.get_text().split()) for text in sheet.texts)
    assert NO_BOUND in words
    assert "bound here" in sheet.legends[0].get_texts()[1].get_text()
    left, right = sheet.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "2", "4", "8"]
    assert [len(line.get_xdata()) for line in right.lines if line.get_linestyle() == "--"] == [3]


def test_a_size_is_of_trees_and_boostings():
    assert size_of("tree-8", 5) == ("depth", 8)
    assert size_of("boosting", 0) is None
    assert size_of("mine:tree-8", 1) is None
