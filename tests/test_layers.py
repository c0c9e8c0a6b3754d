"""Who may import whom (the arrows of the design), and what a process loads that needs only a part."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fl_sim", "strategies", "clients")
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def imported(file: str, *, when_imported: bool = False) -> frozenset[str]:
    """Dotted names that a file imports anywhere, or as soon as it is imported itself."""
    return frozenset(_imports(ast.parse((ROOT / file).read_text()), when_imported))


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
    assert "torch" not in roots("fl_sim/store/artifacts.py", when_imported=True)


LAYERS = (
    ("errors", "names", "randomness"),
    ("telemetry",),
    ("store", "conformal", "contribution", "agreement"),
    ("messages", "plada", "data"),
    ("models",),
    ("scenario",),
    ("population", "runtime"),
    ("server",),
    ("strategies", "clients"),  # which never import each other
    ("preflight", "results"),
    ("simulation",),
    ("",),  # fl_sim itself, which names what is public
    ("sweep",),
    ("report",),
    ("flower_app", "cli"),
)  # of fl_sim, lowest first, and the two packages beside it; each imports from those above its line in this list alone


def room(name: str) -> str:
    """The layer's entry that a file's path, or a dotted name, belongs to."""
    package, *rest = name.removesuffix(".py").replace("/", ".").split(".")
    known = {entry for layer in LAYERS for entry in layer}
    return package if package != "fl_sim" else rest[0] if rest and rest[0] in known else ""


def test_every_file_rests_on_lower_layers_alone():
    """Whether it is imported at once, within a function or for its types."""
    height = {entry: level for level, layer in enumerate(LAYERS) for entry in layer}
    found = set()
    for file in FILES:
        for name in imported(file):
            here, there = room(file), room(name)
            if name.partition(".")[0] in PACKAGES and here != there and height[there] >= height[here]:
                found.add((file, name))
    assert found == set()


def test_every_folder_and_file_of_fl_sim_has_its_layer():
    known = {entry for layer in LAYERS for entry in layer}
    assert {path.stem for path in (ROOT / "fl_sim").iterdir()} - {"__init__", "py", "__pycache__"} <= known
    assert len([path for path in (ROOT / "fl_sim").iterdir() if path.name != "__pycache__"]) <= 25


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(file): file for file in FILES}
    graph = {}
    for module, file in modules.items():
        named = {name if name in modules else name.rpartition(".")[0] for name in imported(file)}
        graph[module] = {name for name in named if name in modules and name != module}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_a_circle_would_be_found():
    with pytest.raises(CycleError, match="in a cycle"):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).static_order())


def test_the_conformal_mathematics_stands_alone():
    """A sketch, an accountant or a library of calibrators is imported by the one function that needs it."""
    files = [file for file in FILES if file.startswith("fl_sim/conformal/")]
    assert len(files) >= 4
    for file in files:
        found = imported(file, when_imported=True)
        names = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
        allowed = ("numpy", "scipy", "fl_sim.conformal", "fl_sim.randomness", "threadpoolctl")
        assert {name for name in names if not name.startswith(allowed)} == set(), file


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
        allowed = ("fl_sim.errors.", "fl_sim.conformal.decimals.", "fl_sim.randomness.", "fl_sim.plada.")
        assert {name for name in ours if not f"{name}.".startswith(allowed)} == set(), file
        heavy = {"torch", "torchvision", "PIL", "zstandard"}
        assert roots(file, when_imported=True) & heavy == set(), file


@pytest.mark.parametrize(("package", "allowed"), [
    ("ray", ("fl_sim/runtime/local_ray.py", "fl_sim/runtime/cluster.py", "fl_sim/runtime/ray.py")),
    ("matplotlib", ("fl_sim/report/", "fl_sim/data/glyphs.py", "fl_sim/data/fonts.py")),
    ("flwr", (
        "fl_sim/messages/wire.py", "fl_sim/messages/exchange.py", "fl_sim/messages/validate.py",
        "fl_sim/flower_app.py", "fl_sim/runtime/", "strategies/", "clients/",
    )),
    ("typer", ("fl_sim/cli/",)),
    ("pandas", ("fl_sim/results/tables.py", "fl_sim/report/", "fl_sim/data/user_tables.py")),
    ("sklearn", ("fl_sim/conformal/probability_calibrators.py", "fl_sim/data/", "fl_sim/models/trees.py")),
    ("probmetrics", ("fl_sim/conformal/probability_calibrators.py",)),
    ("threadpoolctl", (
        "fl_sim/conformal/probability_calibrators.py", "fl_sim/agreement/measure.py", "fl_sim/runtime/processor.py",
    )),
    ("torchvision", ("fl_sim/data/", "fl_sim/models/architectures.py")),
    ("datasketches", ("fl_sim/conformal/sketches.py",)),
    ("ddsketch", ("fl_sim/conformal/sketches.py",)),
    ("dp_accounting", ("fl_sim/conformal/pinball.py",)),
    ("constriction", ("fl_sim/plada/coder.py",)),
    ("zstandard", ("fl_sim/plada/",)),
    ("PIL", ("fl_sim/data/", "fl_sim/plada/images.py", "fl_sim/results/tracking.py")),
    ("mlflow", ("fl_sim/results/tracking.py",)),
    ("wandb", ("fl_sim/results/tracking.py",)),
])  # fmt: skip
def test_a_library_is_imported_in_its_place_only(package, allowed):
    found = who_imports(package)
    assert found
    assert {file for file in found if not file.startswith(allowed)} == set()


@pytest.mark.parametrize("package", ["random", "pickle"])
def test_nobody_imports(package):
    assert who_imports(package) == set()


def test_torch_is_not_loaded_with_what_does_not_compute():
    packages = ("scenario", "conformal", "contribution", "data", "messages", "plada", "results", "sweep", "runtime")
    places = ("strategies/", *(f"fl_sim/{package}/" for package in packages))
    leaves = {f"fl_sim/{name}.py" for name in ("store", "randomness", "errors", "names", "preflight")}
    files = [file for file in FILES if file.startswith(places) or file in leaves]
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
    assert {"clients", "flwr"} <= found
    assert found & {"strategies", "ray", "matplotlib", "pandas", "sklearn", "torchvision", "torch"} == set()


def test_a_ray_actors_module_does_not_load_the_drivers_parts():
    found = loaded_by("import fl_sim.runtime.ray")
    assert {"ray", "flwr"} <= found
    assert found & {"strategies", "clients", "matplotlib", "sklearn", "torch"} == set()


HEAVY = {"torch", "ray", "matplotlib", "sklearn", "pandas", "scipy"}


def test_the_package_alone_loads_nothing_heavy():
    assert loaded_by("import fl_sim") & {*HEAVY, "flwr", "pydantic", "numpy"} == set()


def test_reading_a_scenario_loads_flower_for_the_strategies_it_names_and_nothing_else_that_is_heavy():
    code = "from fl_sim import Scenario; Scenario.load('digits')"
    assert loaded_by(code) & HEAVY == set()
    told = f"{code}; import sys; print(*(name for name in sys.modules if name.startswith('strategies.')))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    named = {name for name in done.stdout.split() if not name.startswith(("strategies.base", "strategies.families"))}
    assert named == {"strategies.shared", "strategies.fedwq_cp"}


def test_no_strategy_needs_torch_or_ray_for_what_it_can_be_told():
    """All are imported where all are asked for, as `fl-sim list` does."""
    code = "from fl_sim.scenario.strategies import CALIBRATE, LEARN\n"
    code += "assert len({*LEARN.items(), *CALIBRATE.items()}) == 29"
    assert loaded_by(code) & {"torch", "ray", "matplotlib", "pandas"} == set()


def test_a_run_is_checked_and_ray_started_before_torch_is_loaded():
    code = "from fl_sim import Scenario; from fl_sim.preflight import check; check(Scenario.load('digits'))"
    assert loaded_by(f"{code}; import fl_sim.runtime.session") & {"torch", "scipy", "matplotlib"} == set()


@pytest.mark.parametrize("runtime", ["inline", "ray"])
def test_a_run_that_finds_its_models_predictions_in_the_store_loads_no_torch(runtime, tmp_path):
    """Nor what draws, where no figure is asked for, nor SciPy's statistics, in the command and in Ray's workers."""
    words = ["run", "digits", "--figures", "none", "--store", str(tmp_path / "store"), "clients.count=6"]
    words += ["clients.tier.strong.architecture=linear", "--runtime", runtime]
    code = f"""
import sys
from fl_sim.cli import main
sys.argv = ["fl-sim", *{words!r}, "--out", sys.argv[1], sys.argv[2]]
def gone(code):
    print("loaded", *({{"torch", "scipy.stats", "matplotlib", "sklearn"}} & {{*sys.modules}}))
main.sys.exit = gone
main.main()
"""
    for concentration in ("clients.concentration=0.4", "clients.concentration=0.6"):
        command = [sys.executable, "-c", code, str(tmp_path / concentration), concentration]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded"], done.stdout


def test_scipys_statistics_are_loaded_by_those_who_ask_for_them():
    """They take half a second, in every worker."""
    told = "import sys, clients.app; print('scipy.stats' in sys.modules, 'scipy.optimize' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_package_gives_its_four_names_and_no_others():
    import fl_sim

    assert [getattr(fl_sim, name).__name__ for name in fl_sim.__all__] == ["Result", "Scenario", "load", "simulate"]
    with pytest.raises(AttributeError, match="module 'fl_sim' has no attribute 'simulator'"):
        _ = fl_sim.simulator


def test_no_class_has_the_name_of_another():
    trees = {file: ast.parse((ROOT / file).read_text()) for file in FILES}
    named = [node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [name for name, count in Counter(named).items() if count > 1] == []


# --------------------------------------------------------------------------------------------------------------- words

# Words of ours in place of which the field has its own, and names of variables that do not say what they hold.
GONE = {"desk", "seat", "roster", "ledger", "depot", "handout", "inturns", "told", "heard", "parcel", "opinions"}
HOLDS_ANYTHING = {"told", "found", "said", "held", "kept"}
EXCEPTIONS = {
    "fl_sim/store/folders.py: held",  # locks that are
    "fl_sim/report/advice.py: kept", "fl_sim/report/sweep_table.py: kept",  # promises that are
    "fl_sim/agreement/ensembles.py: held",  # R where the weights were held out, as the page names it
}  # fmt: skip


def names_in(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every name of a file, and whether it is a variable's that the file sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, isinstance(node.ctx, ast.Store)
        elif isinstance(node, ast.arg):
            yield node.arg, True
        elif isinstance(node, ast.Attribute):
            yield node.attr, False
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, False


def test_names_are_the_fields_words():
    wrong = set()
    for file in FILES:
        for name, is_set in names_in(ast.parse((ROOT / file).read_text())):
            parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z]+", name)}
            if parts & GONE or name.lower() in GONE or (is_set and name in HOLDS_ANYTHING):
                wrong.add(f"{file}: {name}")
    assert wrong == EXCEPTIONS
