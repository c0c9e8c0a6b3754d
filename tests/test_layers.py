"""Who may import whom (the arrows of the design), and what a process loads that needs only a part."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fl_sim", "strategies", "clients")
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(file: str, *, when_imported: bool = False) -> set[str]:
    """Dotted names that a file imports anywhere, or as soon as it is imported itself."""
    return set(_imports(ast.parse((ROOT / file).read_text()), when_imported))


def _imports(node: ast.AST, when_imported: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (when_imported and _waits(child)):
            yield from _imports(child, when_imported)


def _waits(node: ast.AST) -> bool:
    """Whether what is inside is not run when the file is imported."""
    only_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return only_for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def roots(file: str, **how: bool) -> set[str]:
    """The packages a file imports from."""
    return {name.partition(".")[0] for name in imported(file, **how)}


def who_imports(package: str) -> set[str]:
    return {file for file in FILES if package in roots(file)}


def test_the_files_are_found():
    assert {"fl_sim/simulation.py", "strategies/fedwq_cp.py", "clients/app.py"} <= set(FILES)
    assert "numpy" in roots("fl_sim/randomness.py", when_imported=True)
    assert "torch" in roots("fl_sim/randomness.py") - roots("fl_sim/randomness.py", when_imported=True)
    assert "torch" not in roots("fl_sim/artifacts.py", when_imported=True)


def test_strategies_and_clients_do_not_know_each_other():
    assert {file for file in who_imports("clients") if file.startswith("strategies/")} == set()
    assert {file for file in who_imports("strategies") if file.startswith("clients/")} == set()


def test_only_the_top_sees_both():
    above = {f"fl_sim/{name}.py" for name in ("simulation", "readiness", "summary", "bench", "cli", "cli_plada")}
    both = who_imports("strategies") | who_imports("clients")
    assert {file for file in both if file.startswith("fl_sim/")} <= above


def test_nothing_below_imports_what_is_above():
    commands = ("cli", "cli_arguments", "cli_certify", "cli_plada", "cli_report", "cli_sweep")
    work = (
        "simulation",
        "readiness",
        "summary",
        "results",
        "frames",
        "points",
        "sweep",
        "report",
        "doctor",
        "bench",
        "track",
        "flower_app",
    )
    top = (*work, *commands)
    above = ("fl_sim/__init__.py", "fl_sim/report/", *(f"fl_sim/{name}.py" for name in top))
    below = [file for file in FILES if not file.startswith(above)]
    names = tuple(f"fl_sim.{name}" for name in top)
    found = {(file, name) for file in below for name in imported(file) if name.startswith(names)}
    assert found == set()


def test_the_conformal_mathematics_stands_alone():
    """A sketch or an accountant is imported by the one function that needs it."""
    files = [file for file in FILES if file.startswith("fl_sim/conformal/")]
    assert len(files) >= 4
    for file in files:
        found = imported(file, when_imported=True)
        names = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
        assert {
            n for n in names if not n.startswith(("numpy", "scipy", "fl_sim.conformal", "fl_sim.exact"))
        } == set(), file


def test_the_mathematics_of_contributions_stands_alone():
    files = [file for file in FILES if file.startswith("fl_sim/contribution/")]
    assert len(files) >= 3
    for file in files:
        names = {name for name in imported(file) if name.partition(".")[0] not in sys.stdlib_module_names}
        assert {n for n in names if not n.startswith(("numpy", "scipy", "fl_sim.contribution"))} == set(), file


def test_a_payload_is_read_and_written_by_what_stands_alone():
    """Reader and writer of a payload, and of its rivals, need no simulator: torch only where networks are."""
    files = [file for file in FILES if file.startswith("fl_sim/plada/")]
    assert len(files) >= 10
    for file in files:
        ours = {name for name in imported(file) if name.partition(".")[0] in PACKAGES}
        allowed = ("fl_sim.errors.", "fl_sim.exact.", "fl_sim.randomness.", "fl_sim.plada.")
        assert {name for name in ours if not f"{name}.".startswith(allowed)} == set(), file
        heavy = {"torch", "torchvision", "PIL", "zstandard"}
        assert roots(file, when_imported=True) & heavy == set(), file


def test_desk_and_rehearsal_are_the_servers_and_lie_below_the_strategies():
    server = ("fl_sim.desk", "fl_sim.rehearsal")
    files = {file for file in FILES if any(name.startswith(server) for name in imported(file))}
    assert files - {"fl_sim/desk.py", "fl_sim/rehearsal.py", "fl_sim/simulation.py"} <= {
        file for file in FILES if file.startswith("strategies/")
    }
    trained = {file for file in FILES if any(name.startswith("fl_sim.trained") for name in imported(file))}
    assert trained - {"fl_sim/desk.py", "fl_sim/rehearsal.py"} <= {
        file for file in FILES if file.startswith(("strategies/", "clients/"))
    }
    for file in ("fl_sim/desk.py", "fl_sim/rehearsal.py", "fl_sim/trained.py"):
        assert roots(file) & {"strategies", "clients", "flwr"} == set()
        assert not {name for name in imported(file) if name.startswith(("fl_sim.simulation", "fl_sim.records"))}


@pytest.mark.parametrize(("package", "allowed"), [
    ("ray", ("fl_sim/runtime/alone.py", "fl_sim/runtime/cluster.py", "fl_sim/runtime/ray.py")),
    ("matplotlib", ("fl_sim/report/", "fl_sim/data/glyphs.py", "fl_sim/data/fonts.py")),
    ("flwr", (
        "fl_sim/records.py", "fl_sim/checks.py", "fl_sim/flower_app.py", "fl_sim/runtime/", "strategies/", "clients/",
    )),
    ("typer", ("fl_sim/cli.py", "fl_sim/cli_")),
    ("pandas", ("fl_sim/frames.py", "fl_sim/report/")),
    ("sklearn", ("fl_sim/calibrators.py", "fl_sim/data/", "fl_sim/trees.py")),
    ("probmetrics", ("fl_sim/calibrators.py",)),
    ("threadpoolctl", ("fl_sim/calibrators.py", "fl_sim/opinions.py", "fl_sim/processor.py")),
    ("torchvision", ("fl_sim/data/", "fl_sim/models.py")),
    ("datasketches", ("fl_sim/conformal/sketches.py",)),
    ("ddsketch", ("fl_sim/conformal/sketches.py",)),
    ("dp_accounting", ("fl_sim/conformal/pinball.py",)),
    ("constriction", ("fl_sim/plada/coder.py",)),
    ("zstandard", ("fl_sim/plada/",)),
    ("PIL", ("fl_sim/data/", "fl_sim/plada/images.py", "fl_sim/track.py")),
    ("mlflow", ("fl_sim/track.py",)),
    ("wandb", ("fl_sim/track.py",)),
])  # fmt: skip
def test_a_library_is_imported_in_its_place_only(package, allowed):
    found = who_imports(package)
    assert found
    assert {file for file in found if not file.startswith(allowed)} == set()


@pytest.mark.parametrize("package", ["random", "pickle"])
def test_nobody_imports(package):
    assert who_imports(package) == set()


def test_torch_is_not_loaded_with_what_does_not_compute():
    names = "scenario scenario_file options calibrations models records checks artifacts randomness results errors"
    files = [f"fl_sim/{name}.py" for name in names.split()]
    files += [file for file in FILES if file.startswith(("strategies/", "fl_sim/conformal/", "fl_sim/data/"))]
    loaded = {file for file in files if roots(file, when_imported=True) & {"torch", "torchvision", "safetensors"}}
    assert loaded == set()


def test_numpys_global_generator_is_not_used():
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
                assert node.attr[0].isupper(), f"{file}: np.random.{node.attr}"  # Generator, PCG64: types, not draws


# --------------------------------------------------------------------------------------------------- what gets loaded


def loaded_by(code: str) -> set[str]:
    """The top-level packages in a fresh process after `code`."""
    told = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_worker_does_not_load_what_only_the_driver_needs():
    found = loaded_by("import clients.app")
    assert {"clients", "flwr", "torch"} <= found
    assert found & {"strategies", "ray", "matplotlib", "pandas", "sklearn", "torchvision"} == set()


def test_a_ray_actors_module_does_not_load_the_drivers_parts():
    found = loaded_by("import fl_sim.runtime.ray")
    assert {"ray", "flwr"} <= found
    assert found & {"strategies", "clients", "matplotlib", "sklearn", "torch"} == set()


@pytest.mark.parametrize("code", ["import fl_sim", "from fl_sim import Scenario; Scenario.load('digits')"])
def test_reading_a_scenario_loads_nothing_heavy(code):
    assert loaded_by(code) & {"torch", "flwr", "ray", "matplotlib", "sklearn", "pandas", "scipy"} == set()


def test_a_run_is_checked_and_ray_started_before_torch_is_loaded():
    code = "from fl_sim import Scenario; from fl_sim.readiness import check; check(Scenario.load('digits'))"
    assert loaded_by(f"{code}; import fl_sim.runtime.session") & {"torch", "flwr", "scipy", "matplotlib"} == set()


def test_scipys_statistics_are_loaded_by_those_who_ask_for_them():
    """They take half a second, in every worker."""
    told = "import sys, clients.app; print('scipy.stats' in sys.modules, 'scipy.optimize' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_package_gives_its_three_names_and_no_others():
    import fl_sim

    assert [getattr(fl_sim, name).__name__ for name in fl_sim.__all__] == ["Result", "Scenario", "simulate"]
    with pytest.raises(AttributeError, match="module 'fl_sim' has no attribute 'simulator'"):
        _ = fl_sim.simulator
