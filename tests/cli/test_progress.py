"""The bars: on a narrow terminal the words give way, not the count and the time left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fl_sim.cli.progress import Bars, SweepBars

POINT = "clients.concentration=0.1, clients.tier.weak.share=0.25, calibrate=fedwq-cp, seed=2"


def shown(bars: Bars, console: Console) -> str:
    with console.capture() as captured:
        console.print(bars.bars.get_renderable())
    return captured.get()


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_sweep_shows_how_many_runs_are_done_and_the_time_left_at_any_width(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    bars = SweepBars(console)
    bars.begin(192, 40)
    bars.point(POINT)
    bars.phase("train.fit", 2)
    bars.done(1)
    runs, now = shown(bars, console).splitlines()
    assert "40/192" in runs
    assert runs.count(":") >= 4  # two times, each with two colons, or the dashes of one not known yet
    assert "1/2" in now
    assert "concent" in runs or width < 70
    assert max(map(len, (runs, now))) <= width
    bars.ended(POINT, None)
    assert "41/192" in shown(bars, console)


def test_a_phase_without_a_total_shows_no_count():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    bars = Bars(console)
    bars.phase("data", None)
    assert "preparing data" in shown(bars, console)
    assert "?" not in shown(bars, console)


def test_keys_are_shown_by_their_last_word():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    bars = SweepBars(console)
    bars.begin(4, 0)
    bars.point(POINT)
    assert "concentration=0.1, share=0.25, calibrate=fedwq-cp, seed=2" in shown(bars, console)
