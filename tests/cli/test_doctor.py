"""What doctor says of a machine, and what its benchmark measures there: figures, not how large they are."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fl_sim.cli import bench, main
from fl_sim.cli.bench import Line, about, repeated_glyphs
from fl_sim.cli.doctor import findings
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.scenario.tables import Runtime
from fl_sim.simulation import Silent

WHAT = ["start-up", "one-shot, shared models"]
WHAT += [f"one-shot, own {name}" for name in ("linear", "mlp", "cnn")]


@pytest.fixture
def tiny(monkeypatch, store) -> Path:
    """A benchmark that is over at once; gives the store's root, which must be as it was."""
    for name, value in {
        "SECONDS": 0.0, "FIRST": {"shared": 3, "own": 2}, "CALIBRATION": 4, "TEST": 3, "TRAIN": 8, "EPOCHS": 1,
        "DRAWN": 62,
    }.items():  # fmt: skip
        monkeypatch.setattr(bench, name, value)
    bench._drawn.cache_clear()
    yield store.root
    bench._drawn.cache_clear()


def test_a_healthy_machine_lacks_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {finding.subject: finding for finding in findings()}
    assert {"machine", "python", "torch", "GPUs", "artifact store", "digits", "cifar10"} <= set(found)
    assert all(finding.ok for finding in found.values())


def test_bench_measures_everything_it_names(tiny):
    where, figures = bench.bench(["runtime.name=inline", "runtime.device=cpu"], Silent())
    assert where == f"inline on {os.cpu_count()} processors, clients on cpu"
    assert [figure.what for figure in figures] == WHAT
    start, *rates = figures
    assert (start.a_minute, start.thousand) == (None, None)
    assert re.fullmatch(r"\d+\.\d s", start.measured)
    assert all(figure.a_minute > 0 and figure.thousand > 0 for figure in rates)
    assert all(figure.measured.endswith(" ms a client (3)") for figure in rates[:1])
    assert [path.name for path in tiny.iterdir()] == ["tmp"]
    assert list((tiny / "tmp").iterdir()) == []


def test_more_clients_are_run_while_there_is_time(tiny, monkeypatch):
    counts = []

    def run(tables):
        counts.append(tables["clients"]["count"])
        return SimpleNamespace(summary={"seconds": {"total": 9.0 + 2 * counts[-1], "start": 4.0, "data": 3.0}})

    now = iter([0.0, 0.0, 1.0, 1.0, 6.0])  # begins; the first run takes a second, the second five
    monkeypatch.setattr(bench, "SECONDS", 10.0)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(now))
    line = bench._line(run, 3, 7, lambda clients: {"clients": {"count": clients}})
    assert counts == [3, 16]  # nine seconds are left; 0.6 of them for 3 clients a second
    assert line == Line(fixed=2.0, more=2.0, counts=(3, 16))


@pytest.mark.parametrize("cohort", [1, 16, 64])
@pytest.mark.parametrize("workers", [1, 2, 8, 64])
def test_a_line_has_a_client_s_true_cost_however_many_workers_there_are(monkeypatch, workers, cohort):
    """Modelled: half a second, and a second for each cohort that a worker trains."""
    now, wave, counts = [0.0], workers * cohort, []

    def run(tables):
        counts.append(clients := tables["clients"]["count"])
        took = 0.5 + math.ceil(math.ceil(clients / cohort) / workers)
        now[0] += took
        return SimpleNamespace(summary={"seconds": {"total": took, "start": 0.0, "data": 0.0}})

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench, "SECONDS", 20.0)
    line = bench._line(run, bench.WAVES * wave, 650, lambda clients: {"clients": {"count": clients}}, wave)
    most = bench.MOST_ROWS // 650
    if bench.WAVES * wave > most:  # no room for two cohorts a worker
        assert (counts, line.counts, line.fixed) == ([most], (most,), 0.0)
        return
    assert all(count % wave == 0 and count >= 2 * wave for count in counts)
    if len(counts) > 1:
        assert (line.fixed, line.more) == (pytest.approx(0.5), pytest.approx(1 / wave))
    else:
        assert 4 * wave > most
        assert line.more == pytest.approx(1.25 / wave)  # two seconds and a half for two cohorts a worker


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [16, 16, 1]), ("cuda", [64, 64, 64])])
def test_cohorts_are_those_of_a_run(device, sizes):
    assert [bench._together(name, device) for name in bench.ARCHITECTURES] == sizes


def test_workers_are_counted_once_ray_is_up(ray_session):
    import ray

    cpus = int(ray.cluster_resources()["CPU"])
    assert bench._workers(Runtime(name="inline")) == 1
    assert bench._workers(Runtime(name="ray")) == cpus
    assert bench._workers(Runtime(name="ray", cpus_per_client=0.5)) == 2 * cpus


def test_own_models_begin_with_two_cohorts_a_worker(tiny, monkeypatch):
    began = []
    monkeypatch.setattr(bench, "_line", lambda run, first, *_: began.append(first) or Line(0.0, 1.0, (first,)))
    monkeypatch.setattr(bench, "_workers", lambda runtime: 2)
    bench.bench(["runtime.name=inline", "runtime.device=cpu"], Silent())
    assert began == [3, 64, 64, 4]


@pytest.mark.parametrize(("points", "line"), [
    ([(10, 3.0), (20, 4.0)], Line(2.0, 0.1, (10, 20))),
    ([(1, 9.0), (10, 3.0), (20, 4.0)], Line(2.0, 0.1, (10, 20))),  # what is loaded at first is nobody's cost
    ([(10, 1.0), (20, 4.0)], Line(0.0, 0.3, (10, 20))),  # nothing costs less than nothing
    ([(10, 4.0), (20, 4.0)], Line(0.0, 0.2, (20,))),
    ([(20, 4.0)], Line(0.0, 0.2, (20,))),
])  # fmt: skip
def test_a_line_goes_through_two_points(points, line):
    found = Line.through(*points)
    assert (found.counts, found.fixed, found.more) == (line.counts, pytest.approx(line.fixed), pytest.approx(line.more))


def test_round_figures():
    assert [about(value) for value in (0.012, 0.97, 1.04, 9.96, 42.4, 1234, 123_456)] == [
        "0.012", "0.97", "1.0", "10", "42", "1,200", "120,000",
    ]  # fmt: skip


def test_the_glyphs_come_again(tiny):
    data = repeated_glyphs(130, None, 5)
    assert data.inputs.shape == (130, 1, 28, 28)
    assert (data.inputs[:62] == data.inputs[62:124]).all()
    assert sorted(data.targets[:62]) == list(range(62))


@pytest.mark.parametrize(("setting", "said"), [
    ("seed=3", "seed=3: --bench has a world of its own"),
    ("runtime.nam=inline", "runtime.nam"),
    ("runtime.name=flower", "--bench measures ray or inline"),
    ("runtime.device=tpu", "runtime.device = 'tpu'"),
])  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(tiny, setting, said):
    with pytest.raises(ScenarioError, match=re.escape(said)) as caught:
        bench.bench([setting], Silent())
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_refused_before_any_work(tiny, monkeypatch):
    monkeypatch.setattr(bench, "ROOM", 1e18)
    told = r"--bench needs 1e\+09 GB for a while in .*store, and .* GB are free"
    with pytest.raises(FlSimError, match=told) as caught:
        bench.bench(["runtime.name=inline"], Silent())
    assert "\n" not in str(caught.value)


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fl-sim", "doctor", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_doctor_prints_the_benchmarks_table(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(monkeypatch, capsys, "--bench", "runtime.name=inline")
    assert code == 0
    for what in WHAT:
        assert re.search(rf"^{what} +\d", out, re.MULTILINE), what
    assert "1,000 clients: that line drawn on" in out
    assert max(map(len, out.splitlines())) <= 80


def test_settings_without_bench_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys, "runtime.name=inline")
    assert (code, out) == (1, "")
    assert "only --bench takes settings; say fl-sim doctor --bench runtime.name=inline" in " ".join(err.split())
