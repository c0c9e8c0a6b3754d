"""Scenarios: what is read, what is refused and in which words."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl_sim import Scenario
from fl_sim.errors import ScenarioError
from fl_sim.names import own_digest, own_object
from fl_sim.report import wording
from fl_sim.results.tables import fixed
from fl_sim.scenario.scores import SCORE
from fl_sim.scenario.strategies import CALIBRATE, LEARN
from fl_sim.scenario.toml import locate, override, read, shipped
from fl_sim.sweep.expand import Point, load_sweep


@pytest.fixture
def tables() -> dict:
    return read(locate("digits"))


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_is_valid_and_says_what_it_is(name):
    assert locate(name).read_text().startswith("# ")
    tables = read(locate(name))
    points = load_sweep(name).points if "sweep" in tables else [Point({}, Scenario.load(name))]
    for point in points[:: max(1, len(points) // 5)]:
        assert Scenario.of(tomllib.loads(point.scenario.dump())) == point.scenario


def test_the_scenarios_of_the_readme_are_there():
    assert {"digits", "crowd", "fashion", "regression"} <= set(shipped())


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("foo=1", "foo: there is no such key"),
        ("clients.coun=3", "clients.coun: there is no such key; did you mean 'count'?"),
        (
            "clients.tier.weak.learning_rat=3",
            "clients.tier.weak.learning_rat: there is no such key; did you mean 'learning_rate'?",
        ),
        ("calibrate.alpa=0.1", "calibrate.alpa: there is no such key; did you mean 'alpha'?"),
        ("learn.perclient=true", "learn.perclient: there is no such key; did you mean 'per_client'?"),
        (
            'calibrate.score={name="raps", penalti=1}',
            "calibrate.score.penalti: there is no such key; did you mean 'penalty'?",
        ),
        ("clients.tier.weak.share=1.2", "clients.tier.weak.share = 1.2: input should be less than or equal to 1"),
        ("clients.tier.weak.cohort=0", "clients.tier.weak.cohort = 0: must be 'auto' or a whole number from 1 to"),
        ("clients.tier.weak.cohort=all", "clients.tier.weak.cohort = 'all': must be 'auto' or a whole number"),
        ("calibrate.alpha=0", "calibrate.alpha = 0: input should be greater than 0"),
        ("calibrate.alpha=1", "calibrate.alpha = 1: input should be less than 1"),
        ("calibrate.alpha=nan", "calibrate.alpha = 'nan'"),
        ("calibrate.alpha=word", "calibrate.alpha = 'word': input should be a valid number"),
        ("calibrate.small_n=none", "calibrate.small_n = 'none': input should be 'clip', 'inf' or 'drop'"),
        ("seed=-1", "seed = -1"),
        ("clients.count=0", "clients.count = 0"),
        ("clients.concentration=0", "clients.concentration = 0"),
        ("clients.partition=dirichlett", "clients.partition = 'dirichlett'"),
        ("clients.partition=pathological", "needs clients.classes_per_client"),
        ("data.image_size=9000", "data.image_size = 9000"),
        ("clients.classes_per_client=2", "classes_per_client belongs to partition = 'pathological'"),
        ("clients.tier.weak.architecture=cnnn", "no architecture is called 'cnnn'; did you mean 'cnn'?"),
        ("clients.tier.weak.quantiles=[0.1, 0.9]", "quantiles belongs to regression"),
        ("clients.tier.wek.share=0.1", "nothing there is called 'wek'; did you mean 'weak'?"),
        ("clients.tier.strong.share=0.6", "the tiers' shares add up to 1.1"),
        ("clients.tier.strong.name=weak", "tier names must differ"),
        ("clients.min_calibration=100", "40 clients is 4000 calibration points, but data.calibration = 800"),
        ("data.calibration=5000", "5997 rows, but digits has 1797"),
        ("data.name=digit", "no dataset 'digit'; nearest: digits"),
        ("data.name=glyphs-pool", "has no labels"),
        ("learn=sharde", "no learn strategy is called 'sharde'; did you mean 'shared'?"),
        ("learn=fedavg", "learn.rounds: this key is needed and is missing"),
        ("calibrate=fedwqcp", "no calibrate strategy is called 'fedwqcp'; did you mean 'fedwq-cp'?"),
        ("calibrate.score=residual", "'residual' is a regression score, and digits is classification"),
        ("calibrate.score=lacc", "no score is called 'lacc'; did you mean 'lac'?"),
        ("calibrate={name='rob-fcp', malicious=0.7}", "calibrate.malicious = 0.7: must be 'estimate' or a number from"),
        ("calibrate={name='rob-fcp', malicious='all'}", "calibrate.malicious = 'all': must be 'estimate' or a number"),
        ("calibrate={name='q-dcp', penalty=0}", "calibrate.penalty = 0: must be 'published' or a number above 0"),
        ("calibrate={name='fcp', mixture=[1, -1]}", "calibrate.mixture = [1, -1]: must be 'size', 'uniform' or a list"),
        ("calibrate={name='fcp', mixture='siz'}", "calibrate.mixture = 'siz': must be 'size', 'uniform' or a list of"),
        ("calibrate={name='fcp', mixture=[1, 2]}", "calibrate.mixture holds 2 numbers, but clients.count = 40"),
        ("calibrate={name='grouped', bins=100}", "calibrate.bins = 100: must be a multiple of 32"),
        ("calibrate={name='class-conditional', bins=33}", "calibrate.bins = 33: must be a multiple of 32"),
        (
            "calibrate={name='private', epsilon=1e-7}",
            "calibrate.epsilon = 1e-07: input should be greater than or equal",
        ),
        ("runtime.name=rey", "runtime.name = 'rey'"),
        ("clients=3", "clients = 3"),
        ("nonsense", "an override is written key=value"),
        ("seed.x=3", "'x' is looked for inside 0, which is not a table"),
    ],
)
def test_what_cannot_be_run_is_refused_by_key_value_and_rule(assignment, words):
    with pytest.raises(ScenarioError) as refusal:
        Scenario.load("digits", assignment)
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_everything_wrong_is_said_at_once():
    with pytest.raises(ScenarioError) as refusal:
        Scenario.load("digits", "calibrate.alpha=2", "clients.tier.weak.share=7", "foo=1")
    assert len(str(refusal.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [("x = [", "not TOML"), ("seed = 0", "data: this key is needed and is missing"), ("\xff", "not TOML")],
)
def test_a_file_that_is_no_scenario_is_refused(tmp_path, content, words):
    (tmp_path / "bad.toml").write_text(content, encoding="utf-8")
    with pytest.raises(ScenarioError, match=words):
        Scenario.load(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("name", "words"), [("digitz", "did you mean 'digits'"), ("none/x.toml", "there is no such file")]
)
def test_a_file_that_is_not_there_is_refused(name, words):
    with pytest.raises(ScenarioError, match=words):
        Scenario.load(name)


def test_a_test_set_larger_than_the_publishers_is_refused():
    told = ["data.name=mnist", "data.train=100", "data.calibration=100", "data.test=10001"]
    with pytest.raises(ScenarioError, match="test = 10001 rows, but the test set of mnist has 10000"):
        Scenario.load("digits", *told)


@pytest.mark.parametrize(("count", "each"), [(40, 11), (4, 2)])
def test_classes_must_go_round(count, each):
    told = ("clients.partition=pathological", f"clients.classes_per_client={each}", f"clients.count={count}")
    with pytest.raises(ScenarioError, match="digits has 10 classes"):
        Scenario.load("digits", *told)


def test_regression_scores_want_the_heads_they_are_made_for():
    with pytest.raises(ScenarioError, match="'cqr' needs clients"):
        Scenario.load("regression", "calibrate.score=cqr")
    heads = [f"clients.tier.{tier}.quantiles=[0.025, 0.975]" for tier in ("weak", "strong")]
    assert Scenario.load("regression", "calibrate.score=cqr", *heads).calibrate.score.name == "cqr"
    with pytest.raises(ScenarioError, match="image_size = 28 belongs to images"):
        Scenario.load("regression", "data.image_size=28")
    with pytest.raises(ScenarioError, match="'residual' needs the mean"):
        Scenario.load("regression", *heads)


def test_a_name_in_place_of_a_strategy_keeps_what_both_know(tables):
    told = ["calibrate.small_n=inf", "calibrate.alpha=0.2"]
    for switch in ("calibrate=pooled", "calibrate.name=pooled"):
        assert override(tables, [*told, switch])["calibrate"] == {"name": "pooled", "alpha": 0.2, "score": "lac"}
    assert override(tables, [*told, "calibrate=local"])["calibrate"]["small_n"] == "inf"
    whole = override(tables, ['calibrate={name = "local", alpha = 0.3, score = "aps"}'])["calibrate"]
    assert whole == {"name": "local", "alpha": 0.3, "score": "aps"}
    assert override(tables, ["learn.per_client=true", "learn=own"])["learn"] == {"name": "own"}


def test_overrides_do_not_change_the_tables_they_start_from(tables):
    before = repr(tables)
    override(tables, ["clients.tier.weak.share=0.1", "calibrate=local", "seed=3"])
    assert repr(tables) == before


def test_values_on_the_command_line_are_toml_and_a_bare_word_is_text(tables):
    changed = override(
        tables, ["seed=3", "clients.partition=iid", "clients.concentration=1e-1", "learn.per_client=true"]
    )
    assert (changed["seed"], changed["clients"]["partition"], changed["clients"]["concentration"]) == (3, "iid", 0.1)
    assert changed["learn"]["per_client"] is True


def test_identity_is_about_what_decides_the_results():
    base = Scenario.load("digits")
    assert base.identity() == Scenario.load("digits", "runtime.name=inline", "runtime.timeout=5").identity()
    changes = ["seed=1", "calibrate=local", "clients.count=41", "runtime.precision=bfloat16", "runtime.on_failure=skip"]
    assert len({Scenario.load("digits", change).identity() for change in changes} | {base.identity()}) == 1 + len(
        changes
    )


def test_identity_follows_the_text_of_a_users_own_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = set()
    for text in ("class Mine: pass", "class Mine: x = 1"):
        (tmp_path / f"own_piece_{len(digests)}.py").write_text(text)
        digests.add(own_digest(f"own_piece_{len(digests)}:Mine"))
    assert len(digests) == 2


def test_a_process_goes_on_with_the_code_it_has_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "edited_piece.py").write_text("class Mine: pass")
    before = Scenario.load("digits", "calibrate=edited_piece:Mine").identity()
    (tmp_path / "edited_piece.py").write_text("class Mine: x = 1")
    assert Scenario.load("digits", "calibrate=edited_piece:Mine").identity() == before
    assert not hasattr(own_object("edited_piece:Mine"), "x")


def test_a_scenario_is_immutable():
    scenario = Scenario.load("digits")
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 3


def test_every_option_is_known_by_its_name():
    for table in (LEARN, CALIBRATE, SCORE):
        for name, model in table.items():
            assert model.model_fields["name"].default == name
            assert model.__doc__


def test_a_file_with_a_sweep_is_not_run_as_if_it_had_none(tmp_path):
    path = tmp_path / "many.toml"
    path.write_text(locate("digits").read_text() + "\n[sweep]\nseed = [0, 1]\n")
    with pytest.raises(ScenarioError, match="sweep"):
        Scenario.load(path)


def test_with_one_tier_it_does_not_matter_how_tiers_are_assigned():
    by_size = Scenario.load("digits", "clients.tier_by=size")
    assert by_size.identity() != Scenario.load("digits").identity()
    alone = [
        Scenario.load("digits", "clients.tier.weak.share=0.0", f"clients.tier_by={by}") for by in ("size", "random")
    ]
    assert alone[0].identity() == alone[1].identity()


def test_a_table_keeps_what_all_of_its_kind_have():
    plain = Scenario.load("digits", "calibrate.alpha=0.2", 'calibrate={name="fcp", sketch="tdigest"}')
    assert (plain.calibrate.alpha, plain.calibrate.score.name, plain.calibrate.sketch) == (0.2, "lac", "tdigest")
    other = Scenario.load("digits", 'calibrate={name="local", alpha=0.3}')
    assert (other.calibrate.alpha, other.calibrate.score.name, other.calibrate.small_n) == (0.3, "lac", "clip")
    assert Scenario.load("digits", 'calibrate={name="none"}').calibrate.alpha is None


def test_shipped_scenarios_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep("conformal/fifty-clients").points[0].scenario.clients.count == 50
    assert Scenario.load("digits").data.name == "digits"
    assert Path(locate("digits")).is_file()


# --------------------------------------------------------------------------------------------------- what is handed out

PLADA = "plada-then-fedwqcp"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("learn.teacher.epoch=3", "learn.teacher.epoch: there is no such key; did you mean 'epochs'?"),
        ("learn.teacher.architecture=cn", "learn.teacher.architecture = 'cn': no architecture is called 'cn'; did you"),
        ("learn.safety.shar=1", "learn.safety.shar: there is no such key; did you mean 'share'?"),
        ("learn.rehearsal.fold=3", "learn.rehearsal.fold: there is no such key; did you mean 'folds'?"),
        (
            "learn.rehearsal.student={architecture='cnn', epochs=2, epoch=3}",
            "learn.rehearsal.student.epoch: there is no such key; did you mean 'epochs'?",
        ),
        ("learn.rehearsal.student={architecture='cnn'}", "learn.rehearsal.student.epochs: this key is needed and is"),
        ("learn.rule=lowes", "learn.rule = 'lowes': input should be 'lowest', 'highest'"),
        ("learn.budget_byte=3", "learn.budget_byte: there is no such key; did you mean 'budget_bytes'?"),
        ("learn={name='weights', precision='int4'}", "learn.precision = 'int4': input should be 'float32' or 'int8'"),
        ("learn={name='plada', keep_fraction=0.1, budget_bytes=9}", "learn: say either keep_fraction or budget_bytes"),
        ("reference.set=[]", "reference.set: there is no such key; did you mean 'sets'?"),
        ("reference.sets=[]", "reference.sets = []"),
        ("reference.sets=['glyphspool']", "reference.sets: no dataset 'glyphspool'; nearest: glyphs-pool"),
    ],
)
def test_the_tables_of_a_hand_out_are_refused_by_path_too(assignment, words):
    with pytest.raises(ScenarioError) as refusal:
        Scenario.load(PLADA, assignment)
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_the_reference_set_decides_results_only_where_something_rests_on_it(tmp_path):
    base = Scenario.load(PLADA)
    (tmp_path / "a.png").write_bytes(b"an image")
    sets = ["['glyphs-pool:seen']", "['glyphs-pool', 'mnist']", f"['image-folder:{tmp_path}']"]
    found = {Scenario.load(PLADA, f"reference.sets={names}").identity() for names in sets} | {base.identity()}
    assert len(found) == 4
    (tmp_path / "b.png").write_bytes(b"another image")
    assert Scenario.load(PLADA, f"reference.sets={sets[2]}").identity() not in found  # nor is it the name alone
    for learn in ("coreset", "weights"):
        plain = Scenario.load(PLADA, f"learn={learn}")
        assert plain.identity() == Scenario.load(PLADA, f"learn={learn}", f"reference.sets={sets[1]}").identity()
        assert plain.reference is not None
        assert plain.identity() == plain.model_copy(update={"reference": None}).identity()


def test_what_the_server_trains_decides_results():
    changes = ["learn.teacher.epochs=31", "learn.teacher.schedule=cosine", "learn.rehearsal.folds=5",
               "learn.rehearsal.student={architecture='cnn', epochs=30}", "learn.budget_bytes=2001",
               "learn.curriculum=4", "learn.soft_labels=4", "learn.labels=random", "data.server=699"]  # fmt: skip
    assert (
        len({Scenario.load(PLADA, *change).identity() for change in [[c] for c in changes] + [[]]}) == len(changes) + 1
    )


def test_a_rival_of_a_payload_keeps_what_both_know():
    teacher = Scenario.load(PLADA).learn.teacher
    for switch in ("learn=weights", "learn.name=weights", "learn={name='weights', precision='int8'}"):
        weights = Scenario.load(PLADA, switch).learn
        assert (weights.name, weights.teacher) == ("weights", teacher)
    coreset = Scenario.load(PLADA, "learn=coreset").learn
    assert (coreset.budget_bytes, coreset.images_per_class, coreset.quality) == (2000, None, 30)
    whole = Scenario.load(PLADA, "learn={name='plada', keep_fraction=0.01}").learn  # of the other size nothing is left
    assert (whole.teacher, whole.keep_fraction, whole.budget_bytes) == (teacher, 0.01, None)
    assert Scenario.load(PLADA, "learn=probe").learn.centroids == 100


def test_networks_of_the_server_are_among_the_names_that_may_be_ones_own():
    student = "learn.rehearsal.student={architecture='mine:net', epochs=1}"
    scenario = Scenario.load(PLADA, "learn.teacher.architecture=mine:other", student)
    names = scenario.names()
    assert names["mine:other"] == "learn.teacher.architecture"
    assert names["mine:net"] == "learn.rehearsal.student.architecture"


def test_one_size_of_a_hand_out_takes_the_place_of_another():
    found = Scenario.load(PLADA, "learn.keep_fraction=0.1").learn
    assert (found.keep_fraction, found.budget_bytes) == (0.1, None)
    found = Scenario.load(PLADA, "learn.keep_fraction=0.1", "learn.budget_bytes=900").learn
    assert (found.keep_fraction, found.budget_bytes) == (None, 900)
    assert Scenario.load(PLADA, "learn=coreset", "learn.images_per_class=3").learn.budget_bytes is None


# ------------------------------------------------------------------------------------------------- worlds of many tiers


def mixed(*assignments: str) -> Scenario:
    """The shipped world of 27 iid and 3 Dirichlet clients, federated, without its sweep."""
    tables = read(locate("contribution/digits"))
    del tables["sweep"]
    return Scenario.of(override(tables, ["learn={name='fedavg', rounds=2}", *assignments]))


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["clients.behaviour.label-shuffle.share=1.5"], "clients.behaviour.label-shuffle.share = 1.5"),
        (
            ["clients.behaviour.label-shuffle.tier=comon"],
            "tier = 'comon': no tier is called so; did you mean 'common'?",
        ),
        (["clients.behaviour.label-shuffle.tier=3"], "clients.behaviour.label-shuffle.tier = 3"),
        (
            ["clients.behaviour.label-shuffle.tier=rare"],
            "label-shuffle.share = 0.2 of 30 clients is 6 of tier 'rare', and of its 3 there are 3 to take; lower the",
        ),
        (
            ["clients.behaviour=[{kind='noise', share=0.5, tier='common'}, {kind='nan', share=0.5, tier='common'}]"],
            "nan.share = 0.5 of 30 clients is 15 of tier 'common', and of its 27 there are 12 to take",
        ),
        (["clients.behaviour=[{kind='noise', share=0.7}, {kind='nan', share=0.4}]"], "shares add up to 1.1"),
        (["clients.tier_by=size"], "tier_by = 'size' needs the sizes of clients before their tiers"),
        (["clients.tier.common.partition=dirichlet"], "needs clients.tier.common.concentration, or clients.concentra"),
        (["clients.tier.common.partition=pathological"], "needs clients.tier.common.classes_per_client, or clients.c"),
        (["clients.tier.common.partition=iidd"], "clients.tier.common.partition = 'iidd'"),
        (["clients.tier.rare.concentration=0"], "clients.tier.rare.concentration = 0"),
        (["clients.tier.common.concentration=1"], "clients.tier.common.concentration = 1 has no effect on partition ="),
        (["clients.tier.rare.classes_per_client=2"], "classes_per_client belongs to partition = 'pathological', not"),
        (
            ["clients.tier.rare.partition=pathological", "clients.tier.rare.classes_per_client=2"],
            "clients.tier.rare.classes_per_client = 2 for 3 clients, but digits has 10 classes",
        ),
        (["clients.tier.rare.concentratio=1"], "did you mean 'concentration'?"),
    ],
)
def test_a_world_of_tiers_that_cannot_be_is_refused(assignments, words):
    with pytest.raises(ScenarioError) as refusal:
        mixed(*assignments)
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_tier_falls_back_on_the_clients_table_key_by_key():
    clients = mixed("clients.concentration=2.0", "clients.tier.common.partition=quantity-skew").clients
    assert [clients.partition_of(tier)[:2] for tier in clients.tier] == [("quantity-skew", 2.0), ("dirichlet", 0.1)]
    assert clients.splits_by_tier
    assert not Scenario.load("digits").clients.splits_by_tier
    assert Scenario.load("digits").clients.partition_of() == ("dirichlet", 0.5, None)


def test_a_tiers_partition_and_a_behaviours_tier_decide_results():
    changes = ["clients.tier.rare.concentration=0.2", "clients.tier.rare.partition=iid", "seed=0",
               "clients.behaviour=[{kind='label-shuffle', share=0.2}]"]  # fmt: skip
    assert len({mixed(change).identity() for change in changes}) == 4
    # What has no effect does not: a concentration that nobody uses, whatever an empty tier says.
    iid = "clients.tier.rare.partition=iid"
    assert len({mixed(iid, f"clients.tier.rare.concentration={c}").identity() for c in (1, 2)}) == 1
    empty = ["clients.tier.common.share=1.0", "clients.tier.rare.share=0.0"]
    found = {mixed(*empty, f"clients.tier.rare.concentration={c}").identity() for c in (1, 2)}
    assert len(found) == 1


def test_a_behaviour_without_a_tier_has_the_identity_it_had_before_there_were_any():
    plain = "clients.behaviour=[{kind='noise', share=0.5}]"
    assert "tier" not in Scenario.load("digits", plain).plain()["clients"]["behaviour"][0]


def test_a_tiers_concentration_is_swept_by_its_path(tmp_path):
    path = tmp_path / "worlds.toml"
    path.write_text(mixed().dump())
    points = load_sweep(path, ["clients.tier.rare.concentration=0.1,5.0"]).points
    assert [point.scenario.clients.tier[1].concentration for point in points] == [0.1, 5.0]


def test_a_report_says_how_each_tier_is_dealt():
    world = mixed()
    told = "30 clients, on digits, common iid, rare dirichlet, rare concentration 0.1, tested on their own data"
    assert fixed(world, []).startswith(told)
    swept = fixed(world, ["clients.tier.rare.concentration"])
    assert "common iid, rare dirichlet, tested" in swept
    result: Any = SimpleNamespace(scenario=world, learn={}, calibrate={})
    assert wording.world(result).startswith(told)


def test_a_file_of_many_runs_is_one_where_each_axis_is_given_one_value():
    one = Scenario.load("contribution/digits", "learn=fedtsv")
    assert one.learn.name == "fedtsv"
    with pytest.raises(ScenarioError, match=r"^sweep: .* use fl-sim sweep, or give one value each: seed=\.\.\.$"):
        Scenario.load("contribution/published", "learn=fedtsv")
    assert Scenario.load("contribution/published", "learn=loo", "seed=3").seed == 3


@pytest.mark.parametrize(("word", "said"), [
    ("alpha=0.05", "alpha: there is no such key; did you mean calibrate.alpha?"),
    ("count=9", "did you mean clients.count?"),
    ("epochs=3", "did you mean clients.tier.NAME.epochs or"),
    ("clients=100", "clients = 100: is a table; name a key of it, for instance clients.count=100"),
    ("seed=0,1", "seed=0,1: a run takes one value; for several: fl-sim sweep digits seed=0,1"),
    ("calibrate=local,pooled", "fl-sim sweep digits calibrate=local,pooled"),
])  # fmt: skip
def test_what_was_meant_is_said(word, said):
    with pytest.raises(ScenarioError) as caught:
        Scenario.load("digits", word)
    assert said in str(caught.value)


def test_a_strategy_is_found_whatever_the_case_of_its_name():
    assert Scenario.load("digits", "calibrate=FedWQ-CP") == Scenario.load("digits")


@pytest.mark.parametrize("name", ["preds.parquet", "rows.csv"])
def test_a_table_in_the_place_of_a_scenario_is_shown_its_door(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ScenarioError, match=f"fl-sim calibrate {tmp_path / name}; rows to learn from: data.name = "):
        Scenario.load(tmp_path / name)
