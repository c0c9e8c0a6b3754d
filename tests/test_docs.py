"""The documentation is what the code says, and says where its numbers are from."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import compare
import numpy as np
import pytest
import scenario_page
import shown
from PIL import Image

from fl_sim import Scenario, simulate
from fl_sim.scenario.strategies import CALIBRATE, LEARN
from fl_sim.scenario.tables import Clients
from fl_sim.scenario.toml import shipped

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def module(name: str) -> ModuleType:
    """docs/NAME.py."""
    place = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert place is not None
    assert place.loader is not None
    found = importlib.util.module_from_spec(place)
    sys.modules[place.name] = found
    place.loader.exec_module(found)
    return found


generate, check = module("generate"), module("check")


# ------------------------------------------------------------------------------------------------- pages that are made


def test_the_pages_that_are_made_are_current():
    for page, text in generate.pages().items():
        assert page.read_text() == text, f"{page.name} is not what the code says; run: make docs"


def test_a_field_is_said_in_the_comment_beside_it_or_just_above():
    rows = {row.name: row for row in scenario_page.keys(Clients)}
    assert rows["count"] == ("count", "whole number, 1 to 1,000,000", "needed", "how many clients")
    assert rows["concentration"].kind == "number, above 0"
    assert rows["concentration"].default == "none"
    assert rows["partition"].words.startswith("dirichlet: unlike label mixes")


def test_every_key_and_every_method_is_explained():
    scenario, methods = ((ROOT / "docs" / name).read_text() for name in ("scenario.md", "methods.md"))
    rows = [line for line in scenario.split("\n") if line.startswith("| `") and "[`" not in line]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |") and row.count("|") == 5 and "`kind`" not in row] == []
    for name in [*CALIBRATE, *LEARN]:
        assert f"### `{name}`" in scenario
        assert f"[`{name}`](../strategies/" in methods


def test_each_method_says_what_is_sent_and_what_is_guaranteed():
    told = {name: generate.read_method(name) for name in [*CALIBRATE, *LEARN]}
    assert told["fedwq-cp"].sent == "(q_k, n_k), 16 bytes, once"
    assert told["fedwq-cp"].guaranteed == "nothing in finite samples"
    assert told["grouped"].source == "ours"
    assert "[arXiv 2305.17564](https://arxiv.org/abs/2305.17564)" in told["fcp"].source
    assert all(method.what for method in told.values())
    silent = {name for name, method in told.items() if not method.sent}
    assert silent == {"none"}
    assert {name for name in CALIBRATE if not told[name].guaranteed} == {"none"}


def test_the_learn_strategy_of_ones_own_runs(tmp_path, monkeypatch):
    (code,) = re.findall(
        r"```python\n(from fl_sim\.messages\.learning import FitRequest\n.*?)```",
        (ROOT / "docs/own.md").read_text(),
        re.DOTALL,
    )
    (tmp_path / "mine_of_docs.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    learn = 'learn={name="mine_of_docs:LargeAlone", least=15}'
    result = simulate(Scenario.load("digits", learn, "clients.count=8", "data.train=100", "runtime.name=inline"))
    assert result.summary["clients"]["ok"] == 8
    assert result.learn["accuracy"] > 0.5


# ------------------------------------------------------------------------------------------------------ what they name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(((?!http)[^)\s]+)\)", page.read_text()):
        path, _, part = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if part and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert part in [scenario_page.anchor(heading.replace("`", "")) for heading in headings], target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_scenario_script_and_strategy_it_names_is_there(page):
    text = page.read_text()
    for script in re.findall(r"(?:benchmarks|examples|docs)/\w+\.py", text):
        assert (ROOT / script).is_file(), script
    for name in re.findall(r"fl-sim (?:run|sweep|compare) ([a-z][\w/-]*)(?=[\s`])", text):
        assert name in shipped() or name.endswith("/"), name


def test_the_faq_holds_no_key_that_is_unknown():
    keys = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/scenario.md").read_text(), re.MULTILINE))
    for path in re.findall(r"`((?:clients|data|runtime|learn|calibrate)\.[\w.]+)", (ROOT / "docs/faq.md").read_text()):
        assert path.split(".")[-1] in keys, path


# -------------------------------------------------------------------------------------------- where numbers are from


def test_every_table_and_figure_says_where_it_is_from():
    found = check.everything()
    assert len(found) > 100
    assert [one.place for one in found if not one.origin] == []


def test_what_is_quoted_stands_there():
    quoted = [one for one in check.everything() if "quoted from" in one.origin]
    assert len(quoted) >= 3
    assert [fault for one in quoted for fault in check.misquoted(one)] == []


def test_the_commands_are_ours_and_the_fast_ones_take_less_than_four_minutes():
    jobs = {job.command: job for one in check.everything() if (job := check.job(one, check.A_MINUTE)) is not None}
    assert 0 < sum(job.seconds for job in jobs.values()) < 240
    for one in check.everything():
        for step in filter(None, one.origin.get("made by", "").split(" && ")):
            words = shlex.split(step)
            if words[0] == "for":
                continue
            assert words[0] in (".venv/bin/fl-sim", ".venv/bin/python"), step
            assert words[0].endswith("fl-sim") or (ROOT / words[1]).is_file(), step
            if words[1:2] in (["sweep"], ["compare"], ["run"]):
                assert words[2] in shipped(), step


def test_every_measured_table_says_on_which_kind_of_processor():
    markers = [one.origin for one in check.everything() if "made by" in one.origin]
    assert [told for told in markers if not told.get("on")] == []
    for told in markers:
        compare.spread_of(told, "elsewhere")  # what cannot be read raises


def test_the_gallery_shows_each_figure_with_its_command():
    text = (ROOT / check.GALLERY).read_text()
    text_shown = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    pictures = [one for one in check.everything() if one.page == check.GALLERY]
    assert {one.image for one in pictures} == {
        f"docs/images/{path.name}" for path in (ROOT / "docs/images").glob("*.png")
    }
    for one in pictures:
        assert one.origin["made by"].split(" && ")[-1] in text_shown


# ------------------------------------------------------------------------------------------------- the check itself

PAGE = """# A page

<!-- made by: .venv/bin/python benchmarks/x.py | seconds: 5 -->
| strategy | coverage | size |
|---|---|---|
| `a` | .912 ± .001 | 1.20 |
| **b(k=1)** | .95 | 4,096 |
"""


@pytest.fixture
def one():
    (table,) = shown.tables_in(PAGE)
    return check.Shown("page.md", 4, table, "", shown.marker(shown.COMMENT.search(PAGE)[1]))


def faults(one, output, *, sampled=False, here="here", **told):
    changed = check.Shown(one.page, one.line, one.table, one.image, {"on": "here"} | one.origin | told)
    return [*check.differences(changed, output, sampled=sampled, folder=Path(), here=here)]


def test_a_table_is_compared_cell_by_cell(one):
    assert one.origin == {"made by": ".venv/bin/python benchmarks/x.py", "seconds": "5"}
    assert faults(one, PAGE) == []
    assert faults(one, PAGE.replace(".912", ".911")) == ["a, coverage: .912 ± .001 is shown, .911 ± .001 was made"]
    assert faults(one, "nothing")[0].startswith("the command prints no table")
    assert "were made" in faults(one, PAGE.replace("| **b(k=1)** | .95 | 4,096 |\n", ""))[0]
    assert faults(one, PAGE.replace("| **b(k=1)** | .95 | 4,096 |\n", ""), sampled=True) == []
    assert faults(one, PAGE.replace("| `a` |", "| `c` |"), sampled=True) == ["the row c was made, and is not shown"]


def test_numbers_and_shapes_are_compared_where_the_marker_says_so(one):
    output = "a 91.2% [0.1%] 1.2\nb .950 and 4,096 bytes"
    assert faults(one, output, compare="numbers") == []
    assert faults(one, output.replace("4,096", "4,095"), compare="numbers") == [
        "b(k=1), size: 4,096 is shown, and is not in what the command prints"
    ]
    assert faults(one, output.replace("4,096", ""), compare="numbers", columns="coverage") == []
    assert faults(one, PAGE.replace(".912", ".5"), compare="shape") == []
    assert faults(one, PAGE.replace("`a`", "c"), compare="shape") != []


def test_on_the_recorded_kind_of_processor_every_digit_counts_and_on_another_the_spread(one):
    moved = PAGE.replace(".912", ".915")  # by three standard errors
    assert faults(one, moved) == ["a, coverage: .912 ± .001 is shown, .915 ± .001 was made"]
    assert faults(one, moved, here="elsewhere") == []
    assert faults(one, moved, on=check.UNRECORDED) == []
    for wrong in (".918 ± .001", ".912 ± .009", ".912", "- ± .001"):
        assert len(faults(one, PAGE.replace(".912 ± .001", wrong), here="elsewhere")) == 1, wrong
    # What has no standard error must be the same everywhere, unless the marker says by how much it may differ.
    other = PAGE.replace("1.20", "1.23").replace("4,096", "4,097")
    assert len(faults(one, other, here="elsewhere")) == 2
    assert len(faults(one, other, here="elsewhere", spread="size = 0.03")) == 1
    assert faults(one, other, here="elsewhere", spread="size = 5%") == []
    assert len(faults(one, other, spread="size = 5%")) == 2
    assert len(faults(one, PAGE.replace("`a`", "`c`"), here="elsewhere", spread="all = 1")) == 1


def test_a_mean_is_given_the_median_standard_error_of_its_column(one):
    page = PAGE.replace("| **b(k=1)** | .95 |", "| **b(k=1)** | .950 ± .000 |") + "| c | .500 ± .010 | 1 |\n"
    (table,) = shown.tables_in(page)
    several = check.Shown("page.md", 4, table, "", one.origin)
    # Errors .001, .000 and .010: their median is .001, so that .000 counts as .001, and .010 as itself.
    for stated, made, wrong in (
        (".950 ± .000", ".954 ± .003", 0), (".950 ± .000", ".957 ± .000", 1), (".500 ± .010", ".540 ± .010", 0),
    ):  # fmt: skip
        assert len(faults(several, page.replace(stated, made), here="elsewhere")) == wrong, made


def test_a_cell_of_several_numbers_has_a_spread_for_each(one):
    page = PAGE.replace(".912 ± .001", "3, 0.81, inf").replace("| .95 |", "| 0, 0.90, 1.00 |")
    (table,) = shown.tables_in(page)
    several = check.Shown("page.md", 4, table, "", one.origin | {"spread": "coverage = 2, 0.02, 0.5"})
    assert faults(several, page.replace("3, 0.81", "5, 0.79"), here="elsewhere") == []
    assert len(faults(several, page.replace("3, 0.81", "6, 0.81"), here="elsewhere")) == 1
    assert len(faults(several, page.replace("3, 0.81, inf", "3, 0.81, 9.00"), here="elsewhere")) == 1


def test_words_that_name_a_number_are_held_to_what_the_command_says(tmp_path, monkeypatch):
    for place in (check, compare, shown):
        monkeypatch.setattr(place, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("36 of the 200\nlie below theirs.")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    told = {"on": "here", "says": "36 of 200 clients", "words": "README.md: 36 of the 200 lie below"}
    figure = check.Shown("docs/gallery.md", 1, None, "a.png", told)

    def wrong(output, here="elsewhere", **more):
        one = check.Shown(figure.page, 1, None, "a.png", told | more)
        return check.differences(one, output, sampled=False, folder=tmp_path, here=here)

    assert wrong("36 of 200 clients", "here") == []
    assert wrong("40 of 200 clients", "here") == wrong("40 of 200 clients") == [
        "the command does not say '36 of 200 clients'"
    ]  # fmt: skip
    assert wrong("40 of 200 clients", spread="says = 4, 0") == []
    assert len(wrong("41 of 200 clients", spread="says = 4, 0")) == len(wrong("36 of 201 clients")) == 1
    assert "does not say" in wrong("36 of 200 clients", words="README.md: 37 of the 200")[0]
    assert wrong("36 of 200 clients", words="README.md: 37 of the 200")[1].startswith("README.md says '37")


def test_numbers_laid_out_anew_have_a_spread_too(one):
    output = "a 91.2% [0.1%] 1.2\nb .950 and 4,100 bytes"
    assert len(faults(one, output, compare="numbers", here="elsewhere")) == 1
    assert faults(one, output, compare="numbers", here="elsewhere", spread="size = 1%") == []
    assert len(faults(one, output, compare="numbers", spread="size = 1%")) == 1


def test_what_was_made_is_written_into_the_page(tmp_path, monkeypatch):
    for place in (check, compare, shown):
        monkeypatch.setattr(place, "ROOT", tmp_path)
    text = PAGE.replace("seconds: 5", "seconds: 5 | on: elsewhere")
    (tmp_path / "page.md").write_text(text)
    (one,) = check.shown(tmp_path / "page.md")
    made = PAGE.replace(".912 ± .001", ".913 ± .002").replace("4,096", "4,097")
    check.mended(one, made, tmp_path, "here")
    assert (tmp_path / "page.md").read_text() == made.replace("seconds: 5", "seconds: 5 | on: here")


def test_a_quotation_is_held_against_its_source(one, tmp_path, monkeypatch):
    for place in (check, compare, shown):
        monkeypatch.setattr(place, "ROOT", tmp_path)
    (tmp_path / "source.md").write_text(PAGE.replace("# A page", "**A table** of this page"))
    told = {"quoted from": "source.md", "table": "A table"}
    quoted = check.Shown("page.md", 1, one.table, "", told)
    assert [*check.misquoted(quoted)] == []
    other = shown.Table("", ["name", "both"], [["a", ".912, 1.20"], ["b", ".95, 4,095"]])
    two = check.Shown("page.md", 1, other, "", told | {"columns": "both = coverage, size"})
    assert [*check.misquoted(two)] == ["b: .95, 4,095 is shown, .95, 4,096 stands in source.md"]


def test_a_picture_is_compared_coarsely(tmp_path):
    grey = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (100, 1))
    for name, values in (("ours", grey), ("same", grey ^ 1), ("other", grey[:, ::-1]), ("small", grey[:50])):
        Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / f"{name}.png")
    faults = {
        name: [*compare._picture(tmp_path / "ours.png", tmp_path / f"{name}.png")]
        for name in ("same", "other", "small", "no")
    }
    assert faults["same"] == []
    assert "black to white" in faults["other"][0]
    assert "points" in faults["small"][0]
    assert faults["no"] == ["the command did not write no.png"]


def test_steps_run_once_in_a_folder_of_their_own(tmp_path):
    place = check.Workplace(tmp_path)
    said = place.output("echo x >> steps && wc -l < steps", 1)
    assert (said.strip(), place.output("echo x >> steps && cat steps", 1)) == ("1", "x\n")
    with pytest.raises(check.Failed, match="exit code 3: gone"):
        place.output("echo gone >&2; exit 3", 1)


def test_a_wrong_marker_is_refused():
    with pytest.raises(ValueError, match="keys are"):
        shown.marker("made by: x | second: 5")
    with pytest.raises(ValueError, match="keys are"):
        shown.marker("made by: x")
    assert shown.marker("any other comment") == {}


def test_a_page_that_is_not_current_is_named(tmp_path, monkeypatch):
    run = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--what"], capture_output=True, text=True)
    assert run.returncode == 1
    assert "make docs" in run.stderr
    page = tmp_path / "scenario.md"
    monkeypatch.setattr(generate, "pages", lambda: {page: "new"})
    with pytest.raises(SystemExit, match=r"scenario.md: not what the code says; run: make docs"):
        generate.main(["--check"])
    generate.main([])
    assert page.read_text() == "new"
