"""PLADA from end to end: what is sent, what a client makes of it, what decides it, and what its rivals send."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import broadcast
from clients.behaviour import altered
from clients.context import ClientContext
from fl_sim import Result, Scenario, simulate
from fl_sim.data import glyphs
from fl_sim.data.contrast import contrasted
from fl_sim.data.fonts import POOL_FONTS
from fl_sim.data.source import Dataset
from fl_sim.errors import ClientFailedError, FlSimError, ScenarioError
from fl_sim.messages.learning import PayloadRequest
from fl_sim.models import training
from fl_sim.names import _text_digest
from fl_sim.plada import backbone
from fl_sim.plada.coresets import k_centre_subset, random_subset
from fl_sim.plada.folders import read_folders
from fl_sim.plada.images import pack_images, unpack_images
from fl_sim.plada.payload import Payload
from fl_sim.plada.probe import unpack_probe
from fl_sim.plada.rules import RULES, Rule, Trial
from fl_sim.plada.selection import Safety, Selection, count_of, ranked, select
from fl_sim.plada.weights import unpack_weights
from fl_sim.population.clients import Population, populate
from fl_sim.population.model_cache import TransferSet, load_model, open_backbone, shared_backbone
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import stream
from fl_sim.scenario.learn import Rehearsal, Trained
from fl_sim.server import rule_search
from fl_sim.server.context import ServerContext, Student, Teacher
from fl_sim.server.rule_search import rehearse
from fl_sim.simulation import Silent, federation_of, made_ready
from fl_sim.store.artifacts import Artifact, Store
from fl_sim.sweep.expand import load_sweep
from fl_sim.sweep.run import run_sweep
from strategies import learning
from strategies.base import Federation
from strategies.coreset import Coreset
from strategies.families.training import Broadcast
from strategies.plada import Plada

NUM_REFERENCES = 310  # of the pool's stand-in
CLASSES = tuple("0123456789")
NETWORK: dict[str, Any] = {"architecture": "linear", "epochs": 4, "learning_rate": 0.01}
LEARN: dict[str, Any] = {"name": "plada", "teacher": NETWORK, "rule": "lowest", "keep_fraction": 0.2}
WORLD: dict[str, Any] = {
    "data": {"name": "digits", "train": 0, "server": 200, "calibration": 120, "test": 100},
    "clients": {"count": 6, "tier": [
        {"name": "weak", "share": 0.34, "architecture": "linear", "epochs": 3, "learning_rate": 0.01, "cohort": 1},
        {"name": "strong", "architecture": "mlp", "epochs": 2, "learning_rate": 0.01, "cohort": 1},
    ]},
    "reference": {"sets": ["glyphs-pool"]},
    "learn": LEARN,
    "calibrate": {"name": "none"},  # so that all bytes are those of the task
    "runtime": {"name": "inline", "device": "cpu"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred letters in the place of all glyphs, five of a code point."""

    def pool(image_size: int, fonts: tuple[str, ...] = POOL_FONTS) -> glyphs.GlyphPool:
        images, _ = glyphs.render(NUM_REFERENCES, image_size, 7)
        places = np.arange(NUM_REFERENCES)
        return glyphs.GlyphPool(images, fonts, places % 5, places // 5)

    monkeypatch.setattr(glyphs, "pool", pool)


def world(learn: dict[str, Any] | None = None, **more: Any) -> Scenario:
    """The tables of WORLD, each with what is said otherwise; of `learn` what is None is left out."""
    tables = WORLD | {key: {**WORLD.get(key, {}), **told} for key, told in more.items() if isinstance(told, dict)}
    tables |= {key: told for key, told in more.items() if not isinstance(told, dict)}
    told = (LEARN | (learn or {})) if (learn or {}).get("name", "plada") == "plada" else (learn or {})
    tables["learn"] = {key: value for key, value in told.items() if value is not None}
    return Scenario.model_validate({key: table for key, table in tables.items() if table is not None})


def run(store: Store, learn: dict[str, Any] | None = None, **more: Any) -> Result:
    return simulate(world(learn, **more), store=store.root)


def handing_out(scenario: Scenario, store: Store) -> tuple[Any, Population]:
    """The strategy of a scenario, ready to be asked, and its clients."""
    population = made_ready(scenario, store)
    return learning(scenario.learn, federation_of(population, scenario, store, Silent())), population


def models(store: Store, purpose: str) -> dict[str, str]:
    """Architecture -> key of the stored models whose purpose begins so; with several clients, purpose -> key."""
    found = {}
    for path in sorted((store.root / "model").iterdir()):
        recipe = json.loads((path / "meta.json").read_text()).get("recipe", {})
        if recipe.get("purpose", "").startswith(purpose):
            found[recipe["architecture"] if recipe["purpose"] == purpose else recipe["purpose"]] = path.name
    return found


def bits(tensors: Any) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in dict(tensors).items()}


def by_hand(population: Population, recipe: training.Recipe, *transfer: Any, **levels: Any) -> dict[str, bytes]:
    """The weights that training on these images and labels gives."""
    model = training.initial(recipe, population.data.shape, 10)
    return bits(training.fit(model, *transfer, recipe, **levels).state_dict())


def unpacked(result: Result) -> tuple[Payload, np.ndarray, np.ndarray]:
    """The payload in the run's folder, its indices and its labels."""
    payload = Payload.from_bytes(result.files["payload.plada"], most_references=NUM_REFERENCES, most_kept=1000)
    folders = result.files.get("folders.npz")  # there if the payload was packed by folders
    return payload, *payload.unpack(folders and read_folders(folders, payload.reference))


def logits_of(store: Store, population: Population) -> np.ndarray:
    """What the stored teacher says of every reference."""
    (key,) = models(store, "teacher").values()
    module, recipe = load_model(store, key, population.data)
    return training.predict(module, population.reference.images(range(NUM_REFERENCES)), recipe)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# --------------------------------------------------------------------------------------------------- the whole pipeline


@pytest.mark.parametrize(("rule", "safety"), [
    ("lowest", None), ("highest", None), ("entropy", {"share": 0.5, "exponent": 0.5}), ("random", {"share": 1.0}),
    ("mixed", {"share": 1.0, "exponent": 0.0}), ("diverse", {"share": 1.0, "exponent": 0.0}),
])  # fmt: skip
def test_the_payload_is_the_teachers_view_of_the_references_and_students_see_nothing_else(store, rule, safety):
    told = {"rule": rule, "safety": safety, "temperature": 2.0}
    result, population = run(store, told), made_ready(world(told), store)
    logits, count = logits_of(store, population), count_of(0.2, NUM_REFERENCES)
    payload, indices, labels = unpacked(result)

    net = None if safety is None else Safety(**safety)
    embeddings = None
    if rule == "diverse":
        module, recipe = load_model(store, *models(store, "teacher").values(), population.data)
        everything = population.reference.images(range(NUM_REFERENCES))
        embeddings = training.predict_and_embed(module, everything, recipe)[1].astype(np.float16)
    wanted = select(logits, rule=rule, count=count, safety=net, temperature=2.0, embeddings=embeddings)
    assert (indices.tolist(), labels.tolist()) == (wanted.indices.tolist(), wanted.labels.tolist())
    assert labels.tolist() == logits.argmax(axis=1)[indices].tolist()
    assert (payload.class_names, payload.reference) == (CLASSES, population.reference.digest)
    if rule == "lowest":  # as the paper has it
        energies = -2.0 * np.log(np.exp(logits.astype(np.float64) / 2.0).sum(axis=1))
        assert set(indices) == set(np.argsort(energies, kind="stable")[:count])

    found = models(store, "student")
    assert set(found) == {"linear", "mlp"}
    for tier in population.clients.tier:
        recipe = population.recipe(tier, "student", "image")
        student = by_hand(population, recipe, population.reference.images(indices), labels)
        assert bits(store.open("model", found[tier.architecture]).tensors) == student


def test_what_is_told_of_a_payload_is_so(store):
    result = run(store)
    told, (payload, indices, labels) = result.learn, unpacked(result)
    file = result.files["payload.plada"]
    assert told["payload_bytes"] == len(file)
    assert result.column("bytes_down") == [len(file)] * 6
    assert result.column("bytes_up") == [0] * 6
    assert (told["num_kept"], told["num_references"], told["keep_fraction"]) == (62, 310, 0.2)
    assert told["rule"] == "lowest energy at T = 1"
    codec = told["codec"]
    assert codec["header"] + codec["class_names"] + codec["body"] == len(file)
    assert codec["indices"] + codec["labels"] == codec["body"]
    assert codec["zstd"] > codec["body"]
    population = made_ready(world(), store)
    module, recipe = load_model(store, *models(store, "teacher").values(), population.data)
    test = population.tested
    right = training.predict(module, population.data.inputs[test], recipe).argmax(1) == population.data.targets[test]
    assert told["teacher_accuracy"] == right.mean()
    detail = result.summary["learn"]["detail"]
    assert detail["reference"] == {"sets": ["glyphs-pool"], "digest": payload.reference.hex()}
    assert list(detail["kept_by_class"].values()) == np.bincount(labels, minlength=10).tolist()
    assert len(indices) == 62
    assert detail["rehearsal"] == []
    json.dumps(result.summary, allow_nan=False)


def test_what_was_found_lies_in_the_runs_folder(store, tmp_path):
    from fl_sim.results.run import RunFolder

    result, folder = run(store), RunFolder(tmp_path / "run")
    folder.write(result)
    folder.finish()
    found = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert {name: found[name] for name in result.files} == result.files
    assert Result.load(tmp_path / "run").learn == result.learn


def test_the_same_payload_gives_the_same_students_whatever_the_server_had(store):
    floor = {"labels": "random", "rule": "random"}  # decided by the seed and the references
    first = run(store, floor)
    before = models(store, "student")
    second = run(store, floor, data={"server": 150}, clients={"count": 5})
    assert first.files == second.files
    assert models(store, "student") == before
    assert len(list((store.root / "transfer").iterdir())) == 1
    assert len([path for path in (store.root / "model").iterdir() if path.name not in before.values()]) == 2  # teachers


def test_students_do_not_see_the_servers_rows(store):
    result = run(store)
    before = {key: bits(store.open("model", key).tensors) for key in models(store, "student").values()}
    population = made_ready(world(), store)
    for name in ("inputs", "targets"):
        array = np.load(store.root / "data" / population.data.key / f"{name}.npy", mmap_mode="r+")
        array[population.data.rows("server")] = 0
        array.flush()
    for kind, keys in (("model", before), ("transfer", [path.name for path in (store.root / "transfer").iterdir()])):
        for key in keys:
            (store.root / kind / key).rename(store.root / "tmp" / key)
    assert not population.data.targets[population.data.rows("server")].any()
    again = run(store)  # the payload is found
    assert again.files == result.files
    assert {key: bits(store.open("model", key).tensors) for key in models(store, "student").values()} == before


def test_a_client_of_its_own_trains_a_student_of_its_own(store):
    result = run(store, {"per_client": True})
    found, population = models(store, "student of client "), made_ready(world(), store)
    assert set(found) == {f"student of client {k}" for k in range(6)}
    assert len({tuple(bits(store.open("model", key).tensors).values()) for key in found.values()}) == 6
    assert len(list((store.root / "transfer").iterdir())) == len(list((store.root / "payload").iterdir())) == 1
    assert models(store, "student") == found
    assert result.column("bytes_down") == [result.learn["payload_bytes"]] * 6
    _, indices, labels = unpacked(result)
    for k in (0, 5):
        recipe = population.recipe(population.tier(k), f"student of client {k}", "image")
        student = by_hand(population, recipe, population.reference.images(indices), labels)
        assert bits(store.open("model", found[recipe.purpose]).tensors) == student


def test_behaviours_act_on_students_of_ones_own_and_not_on_a_tiers(store):
    told = [{"kind": "label-shuffle", "share": 0.34}, {"kind": "free-rider", "share": 0.34}]
    run(store)
    shared = models(store, "student")
    run(store, clients={"behaviour": told})
    assert models(store, "student") == shared
    scenario = world({"per_client": True}, clients={"behaviour": told})
    _, indices, labels = unpacked(simulate(scenario, store=store.root))
    population, found = made_ready(scenario, store), models(store, "student of client ")
    images, kinds = population.reference.images(indices), []
    for k in range(6):
        client = population.client(k)
        kinds.append("" if client.behaviour is None else client.behaviour.kind)
        recipe = population.recipe(client.tier, f"student of client {k}", "image")
        taught = labels
        if kinds[-1] == "label-shuffle":
            taught = altered(client, population, "train", labels)
            assert (taught != labels).all()  # every class by another one, one to one
            assert len(set(zip(labels, taught, strict=True))) == len(set(labels)) == len(set(taught))
        epochs = 0 if kinds[-1] == "free-rider" else recipe.epochs
        student = by_hand(population, replace(recipe, epochs=epochs), images, taught)
        assert bits(store.open("model", found[recipe.purpose]).tensors) == student
    assert sorted(kinds) == ["", "", "free-rider", "free-rider", "label-shuffle", "label-shuffle"]


# ----------------------------------------------------------------------------------------------------------- the size


@pytest.mark.parametrize(("rule", "safety", "budgets"), [
    ("lowest", None, (100, 131, 160, 400)), ("highest", {"share": 1.0, "exponent": 0.0}, (131,)),
    ("random", None, (160,)), ("diverse", None, (100,)),
])  # fmt: skip
def test_a_budget_in_bytes_is_used_and_kept_to(store, rule, safety, budgets):
    kept = []
    for budget in budgets:
        told = {"rule": rule, "safety": safety, "budget_bytes": budget, "keep_fraction": None}
        plada, _ = handing_out(world(told | ({"curriculum": 3} if budget == 131 else {})), store)
        kept.append(plada.payload.num_kept)
        assert len(plada.file) <= budget
        teacher_logits = plada.server.teacher_logits(plada.server.teacher(plada.teacher), embed=rule == "diverse")
        net = None if safety is None else Safety(**safety)
        ranking = ranked(teacher_logits.logits, rule=rule, safety=net, embeddings=teacher_logits.embeddings)
        assert (
            plada.payload.unpack(plada.server.references.groups)[0].tolist() == ranking.keep(kept[-1]).indices.tolist()
        )
        if kept[-1] < NUM_REFERENCES:
            assert len(plada.pack(ranking.keep(kept[-1] + 1), teacher_logits).to_bytes()) > budget
    assert 10 < kept[0] < NUM_REFERENCES
    if len(kept) > 1:
        assert kept[0] < kept[2] < kept[3] == NUM_REFERENCES
        assert kept[1] < kept[2]
    assert len(models(store, "teacher")) == 1


def test_a_size_too_small_for_one_label_a_class_is_refused(store):
    with pytest.raises(
        FlSimError, match=r"^learn.budget_bytes = 67: header and class names alone take 67; allow more$"
    ):
        run(store, {"budget_bytes": 67, "keep_fraction": None, "teacher": NETWORK | {"epochs": 2}})
    with pytest.raises(
        FlSimError, match=r"^learn.budget_bytes = 70: one label for each of 10 classes, with header and"
    ):
        run(store, {"budget_bytes": 70, "keep_fraction": None})
    with pytest.raises(FlSimError) as no:
        run(store, {"keep_fraction": 0.02, "teacher": NETWORK | {"epochs": 2}})
    assert str(no.value) == (
        "learn.keep_fraction = 0.02 of 310 references is 6 labels: must be at least one for each of 10 classes"
    )
    assert len(models(store, "teacher")) == 1  # only that of 70 bytes was trained


# ------------------------------------------------------------------------------------------------------------- its key


def payload_key(store: Store, learn: dict[str, Any], **more: Any) -> str:
    """Under which key a payload of these options lies; what it holds is not computed."""
    strategy, _ = handing_out(world(learn, **more), store)
    before = set((store.root / "payload").glob("*"))
    assert strategy.file == b"nothing"
    new = set((store.root / "payload").glob("*")) - before
    return new.pop().name if new else ""


def test_all_that_decides_a_payload_is_in_its_key(store, monkeypatch):
    monkeypatch.setattr(Plada, "_make", lambda _: Artifact({"file": np.frombuffer(b"nothing", np.uint8)}))
    rehearsed = {"rule": "rehearsed"}
    tiers = [{"name": "only", "architecture": "linear", "epochs": 9}]
    decides: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}), ({"keep_fraction": 0.3}, {}), ({"keep_fraction": None, "budget_bytes": 900}, {}),
        ({"rule": "highest"}, {}), ({"safety": {}}, {}), ({"safety": {"share": 0.1}}, {}),
        ({"safety": {"exponent": 0.0}}, {}), ({"temperature": 2.0}, {}), ({"labels": "random"}, {}),
        ({"curriculum": 4}, {}), ({"curriculum": 5}, {}), ({"soft_labels": 4}, {}),
        ({"teacher": NETWORK | {"epochs": 5}}, {}), ({"teacher": NETWORK | {"schedule": "cosine"}}, {}),
        ({}, {"data": {"server": 190}}), ({}, {"seed": 1}), ({}, {"reference": {"sets": ["glyphs-pool:seen"]}}),
        ({}, {"runtime": {"precision": "bfloat16"}}), (rehearsed, {}), (rehearsed, {"clients": {"tier": tiers}}),
        (rehearsed | {"rehearsal": {"folds": 5}}, {}), (rehearsed | {"rehearsal": {"student": NETWORK}}, {}),
    ]  # fmt: skip
    for learn, more in decides:
        assert payload_key(store, learn, **more), f"{learn} {more} is found under another's key"
    others = ({"clients": {"tier": tiers}}, {"clients": {"count": 3}},
              {"calibrate": {"name": "local", "alpha": 0.1, "score": "lac"}})  # fmt: skip
    for more in others:
        assert not payload_key(store, {}, **more)
    assert not payload_key(store, {"per_client": True})


def test_all_that_decides_a_coreset_is_in_its_key(store, monkeypatch):
    nothing = Artifact({"file": np.frombuffer(b"nothing", np.uint8)}, {"images": 0})
    monkeypatch.setattr(Coreset, "_make", lambda _: nothing)
    base = {"name": "coreset", "images_per_class": 2}
    for change in ({}, {"images_per_class": 3}, {"how": "k-centre"}, {"quality": 31}):
        assert payload_key(store, base | change, reference=None)
    assert payload_key(store, {"name": "coreset", "budget_bytes": 2}, reference=None)
    assert payload_key(store, base, reference=None, seed=1)
    assert not payload_key(store, base | {"per_client": True}, reference=None)


# -------------------------------------------------------------------------------------------------- what is not taken


@pytest.fixture
def client_context(store: Store) -> ClientContext:
    return ClientContext.of(Context(1, 2, {"partition-id": 0}, RecordDict(), {}), made_ready(world(), store).key)


def payload_for(client_context: ClientContext, **other: Any) -> bytes:
    told = {
        "reference": client_context.population.reference.digest,
        "class_names": CLASSES,
        "num_references": NUM_REFERENCES,
    }
    return Payload.pack(np.arange(20), np.arange(20) % 10, **(told | other)).to_bytes()


def test_a_payload_is_made_into_a_transfer_set(client_context):
    transfer = broadcast.decoded(
        client_context, payload_for(client_context, class_names=("9", *CLASSES[:9]))
    )  # in another order
    assert transfer.labels.tolist() == [9, *range(9)] * 2
    assert np.array_equal(transfer.images, client_context.population.reference.images(range(20)))
    assert (transfer.soft, transfer.levels) == (None, None)


def test_a_payload_for_other_references_is_refused_with_both_digests(client_context):
    with pytest.raises(FlSimError) as no:
        broadcast.decoded(client_context, payload_for(client_context, reference=bytes(range(16))))
    assert bytes(range(16)).hex() in str(no.value)
    assert client_context.population.reference.digest.hex() in str(no.value)


def test_damaged_payloads_and_unknown_classes_are_refused(client_context):
    file = payload_for(client_context)
    for cut in (0, 3, 47, len(file) - 1):
        with pytest.raises(FlSimError, match=r"not a payload|is cut"):
            broadcast.decoded(client_context, file[:cut])
    for place in range(0, len(file), 5):
        with pytest.raises(FlSimError):
            broadcast.decoded(client_context, file[:place] + bytes([file[place] ^ 4]) + file[place + 1 :])
    with pytest.raises(FlSimError, match="'ten', which is none of this client's classes: 0, 1, 2"):
        broadcast.decoded(client_context, payload_for(client_context, class_names=(*CLASSES[:9], "ten")))
    assert not (client_context.store.root / "transfer").exists()


def test_a_client_says_why_it_takes_no_payload(store, monkeypatch):
    def damaged(plada: Plada) -> PayloadRequest:
        file = plada.file[:-1] + bytes([plada.file[-1] ^ 1])
        return PayloadRequest(plada.federation.population, np.frombuffer(file, np.uint8), False)

    monkeypatch.setattr(Plada, "request", damaged)
    with pytest.raises(ClientFailedError, match="the payload was changed on its way"):
        run(store)


SERVER_SIDE = [
    ({}, {"reference": None}, "learn = 'plada' needs [reference] with sets, for instance sets = ['glyphs-pool']"),
    ({}, {"data": {"server": 0}}, "data.server = 0, and learn = 'plada' learns from these rows; must be at least 1"),
    ({"name": "shared"}, {}, "data.train = 0, and learn = 'shared' trains on these rows; must be at least 1"),
    ({}, {"reference": {"sets": ["digits"]}}, "rows of data.name = 'digits' are drawn from the same images"),
    ({}, {"data": {"name": "glyphs"}}, "reference.sets holds 'glyphs-pool', and rows of data.name = 'glyphs'"),
    ({}, {"calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac", "align": "temperature"}},
     "calibrate.align = 'temperature' needs training rows that the clients hold, and learn = 'plada' leaves them none"),
    ({}, {"data": {"name": "friedman"}}, "learn = 'plada' hands out labels of classes, and friedman is regression"),
    ({"keep_fraction": None}, {}, "learn: say either keep_fraction or budget_bytes, one of them"),
    ({"budget_bytes": 500}, {}, "learn: say either keep_fraction or budget_bytes, one of them"),
    ({"rule": "rehearsed", "safety": {}}, {}, "rule = 'rehearsed' chooses the safety net too; leave safety out"),
    ({"rule": "rehearsed"}, {"data": {"server": 3}}, "learn.rehearsal.folds = 4, and data.server = 3 rows"),
    ({"keep_fraction": 0}, {}, "keep_fraction"),
    ({"teacher": NETWORK | {"architecture": "cn"}}, {}, "no architecture is called 'cn'"),
    ({"teacher": NETWORK | {"epochs": 0}}, {}, "epochs"),
    ({"name": "coreset"}, {}, "say either images_per_class or budget_bytes, one of them"),
    ({"name": "coreset", "images_per_class": 1}, {"data": {"server": 0}}, "data.server = 0, and learn = 'coreset'"),
    ({"name": "probe"}, {"reference": None}, "learn = 'probe' needs [reference]"),
]  # fmt: skip


@pytest.mark.parametrize(("learn", "more", "words"), SERVER_SIDE, ids=lambda value: str(value)[:40])
def test_what_cannot_be_handed_out_is_refused_before_any_work(learn, more, words):

    tables = json.loads(json.dumps(WORLD))
    tables["learn"] = {k: v for k, v in (LEARN | learn if learn.get("name", "plada") == "plada" else learn).items()
                       if v is not None}  # fmt: skip
    for key, told in more.items():
        tables[key] = told if told is None or key in ("reference", "calibrate") else tables[key] | told
    with pytest.raises(ScenarioError) as no:
        Scenario.of({key: table for key, table in tables.items() if table is not None})
    assert words in str(no.value)
    assert len(str(no.value).splitlines()) == 1


def test_a_strategy_without_a_desk_says_so():
    plada = Plada(Federation("p"), teacher=Trained(**NETWORK), keep_fraction=0.1, rule="lowest")
    with pytest.raises(ValueError, match=r"Plada learns from rows of the server's: say Federation\(server=...\)"):
        plada.request()
    assert issubclass(Plada, Broadcast)


# ---------------------------------------------------------------------------------------------------------- rehearsal


@dataclass
class StandIn:
    """A server whose teacher knows nothing, and which notes what it is asked."""

    data: Any
    students: tuple[Student, ...] = ()
    seed: int = 3
    store: Any = None
    taught: list[np.ndarray] = field(default_factory=list)
    purposes: list[str] = field(default_factory=list)
    embedded: list[bool] = field(default_factory=list)
    watch: Any = field(default_factory=Silent)

    def teacher(self, told: Trained, rows: np.ndarray, purpose: str) -> Teacher:
        self.taught.append(rows)
        self.purposes.append(purpose)
        return Teacher(purpose, None)  # type: ignore[arg-type]

    def teacher_logits(self, teacher: Teacher, *, embed: bool) -> str:
        self.embedded.append(embed)
        return teacher.key

    @property
    def references(self) -> Any:
        return self

    shape = (1, 1, 1)

    def images(self, indices: np.ndarray) -> np.ndarray:
        return indices


def rehearsed(
    population: Population, table: np.ndarray, monkeypatch: pytest.MonkeyPatch, rules: Sequence[Rule] = RULES
) -> tuple[Rule, list[Trial], StandIn, list[np.ndarray]]:
    """`rehearse` where rule r has accuracy table[turn, r]."""
    server, held = StandIn(population.data), []

    def accuracy(_server_context: Any, _students: Any, transfer: TransferSet, rows: np.ndarray, turn: int) -> float:
        if not held or held[-1] is not rows:
            held.append(rows)
        return float(table[turn, transfer.labels[0]])

    monkeypatch.setattr(rule_search, "_accuracy", accuracy)

    def choose(_logits: Any, rule: Rule) -> Selection:
        return Selection(np.array([0]), np.array([rules.index(rule)]), "")

    how = Rehearsal(folds=max(2, len(table)), rounds=len(table))
    return *rehearse(server, Trained(**NETWORK), how, choose, rules), server, held  # type: ignore[arg-type]


def test_folds_part_the_servers_rows_and_are_balanced_by_class(store, monkeypatch):
    population = made_ready(world(), store)
    rows, targets = population.data.rows("server"), population.data.targets
    for folds in (2, 3, 7):
        _, _, server, held = rehearsed(population, np.zeros((folds, len(RULES))), monkeypatch)
        assert sorted(np.concatenate(held)) == rows.tolist()
        assert len({len(set(fold)) for fold in held}) <= 2
        counts = np.array([np.bincount(targets[fold], minlength=10) for fold in held])
        assert np.ptp(counts, axis=0).max() <= 1
        assert np.ptp(counts.sum(axis=1)) <= 1
        for fold, taught in zip(held, server.taught, strict=True):  # what tests the students taught no teacher
            assert sorted([*fold, *taught]) == rows.tolist()
        assert server.purposes == [f"teacher without fold {turn}" for turn in range(folds)]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 1000))
def test_the_worse_half_is_dropped_each_round_and_the_best_mean_wins(rounds, count, seed):
    rules = [Rule("diverse" if number == 1 else "lowest", Safety(1.0, float(number))) for number in range(count)]
    table = stream(seed, "accuracies").random((rounds, count))
    with pytest.MonkeyPatch.context() as patch:
        (rule, trials, server, _) = rehearsed(POPULATION[0], table, patch, rules)
    racing = set(range(count))
    lasted = dict.fromkeys(racing, 0)
    for turn in range(rounds):
        assert server.embedded[turn] == (1 in racing)  # embeddings are asked for while somebody needs them
        for each in racing:
            lasted[each] += 1
        means = {each: table[: turn + 1, each].mean() for each in racing}
        better = {each: sum(means[other] > means[each] for other in racing) for each in racing}
        racing = {each for each in racing if better[each] < max(2, (len(racing) + 1) // 2)}
    assert {rules.index(trial.rule): len(trial.accuracies) for trial in trials} == lasted
    last = {each for each in lasted if lasted[each] == rounds}
    assert rule == rules[max(last, key=lambda each: table[:, each].mean())] == trials[0].rule
    order = [(-len(trial.accuracies), -trial.mean) for trial in trials]
    assert order == sorted(order)


POPULATION: list[Population] = []


@pytest.fixture(scope="module", autouse=True)
def _population(tmp_path_factory: pytest.TempPathFactory) -> None:
    told = {"data": WORLD["data"] | {"server": 60}, "reference": None, "learn": {"name": "weights", "teacher": NETWORK}}
    scenario, store = world(told["learn"], data=told["data"], reference=None), Store(tmp_path_factory.mktemp("rows"))
    POPULATION[:] = [populate(scenario, prepare(scenario.data, 0, store), store)]


@pytest.fixture
def server(store: Store) -> ServerContext:
    return handing_out(world({"rule": "rehearsed"}), store)[0].server


TWO = Rehearsal(folds=3, rounds=2)


def outcome(server: ServerContext, how: Rehearsal = TWO) -> tuple[str, list[tuple[str, list[float]]]]:
    """What a rehearsal of real networks finds."""

    def choose(outputs: Any, rule: Rule) -> Selection:
        return select(outputs.logits, rule=rule.name, safety=rule.safety, count=60, embeddings=outputs.embeddings)

    rule, trials = rehearse(server, Trained(**NETWORK), how, choose)
    return str(rule), [(str(trial.rule), trial.accuracies) for trial in trials]


def test_a_rehearsal_reads_no_row_but_the_servers(server, tmp_path):
    clean = outcome(server)
    poisoned = np.ones(len(server.data.targets), bool)
    poisoned[server.data.rows("server")] = False
    inputs, targets = np.array(server.data.inputs), np.array(server.data.targets)
    inputs[poisoned], targets[poisoned] = 255, 10**9
    other = replace(server, data=replace(server.data, inputs=inputs, targets=targets), store=Store(tmp_path / "other"))
    assert outcome(other) == clean == outcome(server)
    assert len({tuple(accuracies) for _, accuracies in clean[1]}) > 3  # the rules do differ


def test_students_in_a_rehearsal_count_as_their_tiers_do(server):
    one, two = [outcome(replace(server, students=(student,)))[1] for student in server.students]
    both = dict(outcome(server, Rehearsal(folds=3, rounds=1))[1])
    for name, accuracies in both.items():
        weak, strong = dict(one)[name][0], dict(two)[name][0]
        assert accuracies[0] == pytest.approx((2 * weak + 4 * strong) / 6)
    named = Rehearsal(folds=3, rounds=1, student=Trained(architecture="linear", epochs=3, learning_rate=0.01))
    found = dict(outcome(server, named)[1])
    for name, accuracies in one:
        assert found[name] == pytest.approx(accuracies[:1])  # as the weak tier's


def test_the_rehearsed_payload_is_that_of_the_rule_it_chose(store, tmp_path):
    how = {"rule": "rehearsed", "rehearsal": {"folds": 3, "rounds": 2}}
    result = run(store, how)
    trials = result.summary["learn"]["detail"]["rehearsal"]
    assert [len(trial["rounds"]) for trial in trials] == [2] * -(-len(RULES) // 2) + [1] * (len(RULES) // 2)
    assert trials[0]["accuracy"] == max(trial["accuracy"] for trial in trials if len(trial["rounds"]) == 2)
    chosen = next(rule for rule in RULES if str(rule) == trials[0]["rule"])
    net = None if chosen.safety is None else {"share": chosen.safety.share, "exponent": chosen.safety.exponent}
    named = run(store, how | {"rule": chosen.name, "safety": net})
    assert named.files == result.files
    assert named.learn == result.learn
    again = run(Store(tmp_path / "another"), how)
    assert again.files == result.files
    assert again.summary["learn"] == result.summary["learn"]


# ------------------------------------------------------------------------------------------ the floor, and the sections


def test_random_labels_are_the_floor(store):
    told = {"keep_fraction": 1.0, "teacher": NETWORK | {"epochs": 20}}
    long = {"tier": [{"name": "only", "architecture": "linear", "epochs": 30, "learning_rate": 0.01}]}
    floor, real = (run(store, told | {"labels": labels}, clients=long) for labels in ("random", "teacher"))
    _, indices, labels = unpacked(floor)
    _, same, teachers = unpacked(real)
    assert indices.tolist() == same.tolist() == list(range(NUM_REFERENCES))
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 31) ** 2 / 31).sum() < 27.9  # chi-square of 9 degrees of freedom: one in a thousand is above
    assert 0.02 < (labels == teachers).mean() < 0.2
    assert floor.learn["rule"] == "lowest energy at T = 1; random labels"
    assert floor.learn["accuracy"] < 0.25 < real.learn["accuracy"]
    few = run(store, {"labels": "random"})
    assert unpacked(few)[1].tolist() == unpacked(run(store))[1].tolist()  # the same references are named


def test_a_curriculum_and_soft_labels_are_what_the_logits_say(store):
    plain = run(store)
    students = models(store, "student")
    told = {"curriculum": 5, "soft_labels": 6, "temperature": 1.0}
    result, population = run(store, told), made_ready(world(), store)
    payload, indices, labels = unpacked(result)
    assert indices.tolist() == unpacked(plain)[1].tolist()
    logits = logits_of(store, population)[indices].astype(np.float64)

    levels, count = payload.levels(labels)
    energies = -np.log(np.exp(logits).sum(axis=1))
    ranks = np.empty(len(indices), int)
    ranks[np.argsort(energies, kind="stable")] = np.arange(len(indices))
    assert count == 5
    assert levels.tolist() == (5 * ranks // len(ranks)).tolist()
    assert np.ptp(np.bincount(levels)) <= 1
    confidences = payload.confidences(labels)
    angles = [np.arcsin(np.sqrt(values)) for values in (confidences, softmax(logits).max(axis=1))]
    width = (np.pi / 2 - np.arcsin(np.sqrt(1 / 10))) / 2**6
    assert np.abs(angles[0] - angles[1]).max() <= width / 2 + 1e-6

    codec, extra = result.learn["codec"], len(result.files["payload.plada"]) - len(plain.files["payload.plada"])
    assert codec["curriculum_order"] + codec["soft_labels"] == extra > 8
    assert result.column("bytes_down") == [plain.learn["payload_bytes"] + extra] * 6
    soft = np.repeat((1 - confidences[:, None].astype(np.float64)) / 9, 10, axis=1).astype(np.float32)
    soft[np.arange(len(labels)), labels] = confidences
    now = {path.name for path in (store.root / "model").iterdir()}
    for tier in population.clients.tier:
        recipe = population.recipe(tier, "student", "image")
        student = by_hand(population, recipe, population.reference.images(indices), soft, levels=levels)
        stored = {key: bits(store.open("model", key).tensors) for key in now if has_recipe(store, key, recipe)}
        assert len(stored) == 2
        assert student in stored.values()
        assert student != stored[students[tier.architecture]]


def has_recipe(store: Store, key: str, recipe: training.Recipe) -> bool:
    return store.open("model", key).meta["recipe"] == json.loads(json.dumps(recipe.__dict__))


def test_sections_go_with_labels_drawn_at_random(store):
    result = run(store, {"labels": "random", "curriculum": 2, "soft_labels": 3})
    payload, _, labels = unpacked(result)
    confidences = payload.confidences(labels)
    assert confidences.min() >= 0.1  # what an even share is
    assert payload.levels(labels)[1] == 2


# -------------------------------------------------------------------------------------------------------- the rivals


@pytest.mark.parametrize("how", ["random", "k-centre"])
@pytest.mark.parametrize("size", [{"images_per_class": 3}, {"budget_bytes": 1500}], ids=str)
def test_a_coreset_is_some_of_the_servers_images(store, how, size):
    told = {"name": "coreset", "how": how, "quality": 95} | size
    result = run(store, told, reference=None)
    coreset, population = handing_out(world(told, reference=None), store)
    assert result.column("bytes_down") == [len(coreset.file)] * 6 == [result.learn["payload_bytes"]] * 6
    images, labels = unpack_images(coreset.file, most_images=200, most_bytes=1 << 20)
    server = population.data.rows("server")
    theirs, whose = population.data.inputs[server], population.data.targets[server]

    def payload(count: int) -> bytes:
        if how == "random":
            chosen = random_subset(whose, count, stream(0, "coreset"))
        else:
            chosen = k_centre_subset(whose, contrasted(theirs).reshape(200, -1), count)
        return pack_images(theirs[chosen], whose[chosen], 10, 95)

    counts = np.bincount(labels, minlength=10)
    assert coreset.file == payload(len(labels))
    if "budget_bytes" in size:
        assert len(coreset.file) <= 1500 < len(payload(len(labels) + 1))
        assert np.ptp(counts) <= 1
    else:
        assert counts.tolist() == [3] * 10
    for tier in population.clients.tier:
        recipe = population.recipe(tier, "student", "image")
        key = models(store, "student")[tier.architecture]
        assert bits(store.open("model", key).tensors) == by_hand(population, recipe, images, labels)


def test_a_coresets_size_must_fit(store):
    with pytest.raises(FlSimError, match=r"learn.images_per_class = 201: no class has more than \d+ of the 200 images"):
        run(store, {"name": "coreset", "images_per_class": 201}, reference=None)
    with pytest.raises(FlSimError, match="a budget of 100 bytes: a payload of 10 images"):
        run(store, {"name": "coreset", "budget_bytes": 100}, reference=None)


def said(store: Store, population: Population, model: str) -> np.ndarray:
    """What the store holds of what a model says of everybody's calibration and test rows."""
    found = [store.open("outputs", path.name) for path in (store.root / "outputs").iterdir()]
    (outputs,) = (one.arrays["outputs"] for one in found if one.meta.get("model") == model)
    assert len(outputs) == np.diff(population.data.evaluated)[0]
    return outputs


def accuracy(population: Population, outputs: np.ndarray) -> float:
    """Over all pairs of a client and a test row of its own."""
    rows = np.concatenate([population.client(k).test for k in range(len(population))])
    labels = outputs[rows - population.data.evaluated[0]].argmax(axis=1)
    return float((labels == population.data.targets[rows]).mean())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_weights_are_the_teacher(store, precision):
    told = {"name": "weights", "teacher": NETWORK | {"architecture": "mlp"}, "precision": precision}
    result = run(store, told, reference=None)
    weights, population = handing_out(world(told, reference=None), store)
    assert result.column("bytes_down") == [len(weights.file)] * 6 == [result.learn["payload_bytes"]] * 6
    rows = np.arange(*population.data.evaluated)
    module, recipe = load_model(store, weights.teacher.key, population.data)
    teachers = training.predict(module, population.data.inputs[rows], recipe)
    payload = {name: part.tobytes() for name, part in unpack_weights(weights.file, most_bytes=1 << 20).items()}
    (adopted,) = {path.name for path in (store.root / "model").iterdir()} - {weights.teacher.key}
    assert bits(store.open("model", adopted).tensors) == payload
    outputs = said(store, population, adopted)
    assert result.learn["accuracy"] == accuracy(population, outputs)
    parameters = 4 * sum(tensor.numel() for tensor in module.state_dict().values())
    if precision == "float32":
        assert outputs.tobytes() == teachers.tobytes()
    else:
        assert outputs.tobytes() != teachers.tobytes()
        assert np.abs(outputs - teachers).max() < 0.05 * np.abs(teachers).max()
        assert len(weights.file) < 0.3 * parameters
    assert set(result.column("tier")) == {"weak", "strong"}  # and all have the one model
    assert result.learn["rule"] == f"the teacher's weights, {precision}"


def test_a_probe_is_a_layer_on_what_everybody_can_compute(store, monkeypatch):
    monkeypatch.setattr(backbone, "PATCHES", 1000)
    told = {"name": "probe", "centroids": 8}
    result = run(store, told)
    strategy, population = handing_out(world(told), store)
    assert result.column("bytes_down") == [len(strategy.file)] * 6 == [result.learn["payload_bytes"]] * 6
    folders = (store.root / "model").iterdir()
    (key,) = (path.name for path in folders if "backbone" in store.open("model", path.name).meta)
    outputs = said(store, population, key)
    probe = unpack_probe(strategy.file, most_bytes=1 << 20)
    eyes = open_backbone(store, shared_backbone(store, population.reference, 8))
    features = eyes.features(np.array(population.data.inputs[np.arange(*population.data.evaluated)]))
    assert outputs.tobytes() == (features @ probe.weights + probe.bias).astype(np.float32).tobytes()
    assert result.learn["accuracy"] > 0.5
    assert result.learn["accuracy"] == accuracy(population, outputs)


# -------------------------------------------------------------------------------------------------- runtimes and sweeps


def test_inline_and_ray_agree_on_a_payload(ray_session, tmp_path):
    import ray

    def found(runtime: str) -> tuple[Any, ...]:
        told = {"name": "fedwq-cp", "alpha": 0.1, "score": "aps"}
        where = {"name": runtime, "cpus_per_client": ray.cluster_resources()["CPU"]}  # one worker process
        result = simulate(world({"curriculum": 3, "soft_labels": 2}, calibrate=told, runtime=where),
                          store=tmp_path / runtime)  # fmt: skip
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in result.clients]
        return rows, result.files, result.summary["learn"], result.summary["calibrate"]

    assert found("ray") == found("inline")


class Watch:
    def phase(self, *_: Any) -> None: ...

    done = begin = point = phase

    def ended(self, words: str, failure: str | None) -> None:
        assert failure is None, failure


def test_a_sweep_over_calibrations_makes_payload_and_students_once(tmp_path):
    told = {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"}
    (tmp_path / "world.toml").write_text(world(calibrate=told).dump())
    sweep = load_sweep(str(tmp_path / "world.toml"), ["calibrate=fedwq-cp,local"])
    run_sweep(sweep, tmp_path / "out", Watch(), store=tmp_path / "store", verbose=False, fail_fast=True)
    counts = {kind: len(list((tmp_path / "store" / kind).iterdir())) for kind in ("payload", "transfer", "model")}
    assert counts == {"payload": 1, "transfer": 1, "model": 1 + 2}  # the teacher, and a student a tier
    files = sorted((tmp_path / "out").rglob("payload.plada"))
    assert len(files) == 2
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 1


# -------------------------------------------------------------------------- what only the data or the teacher show


def features(count: int, image_size: int | None, seed: int) -> Dataset:
    return Dataset(np.ones((count, 5), np.float32), np.arange(count) % 3, ("a", "b", "c"))


def brightness(count: int, image_size: int | None, seed: int) -> Dataset:
    return Dataset(np.ones((count, 1, 8, 8), np.uint8), np.arange(count, dtype=np.float32), None)


def hundreds(count: int, image_size: int | None, seed: int) -> Dataset:
    classes = tuple(f"class {c}" for c in range(NUM_REFERENCES + 1))
    return Dataset(np.ones((count, 1, 8, 8), np.uint8), np.arange(count) % len(classes), classes)


@pytest.mark.parametrize("own", ["features", "brightness"])
@pytest.mark.parametrize("learn", [
    LEARN, {"name": "coreset", "images_per_class": 1}, {"name": "probe"}, {"name": "weights", "teacher": NETWORK},
], ids=lambda learn: learn["name"])  # fmt: skip
def test_data_of_ones_own_must_be_images_with_classes(store, learn, own):
    told = {"features": "classes of images, and data.name = .*features' has features", "brightness": "is regression"}
    with pytest.raises(FlSimError, match=f"hands out .*{told[own]}"):
        run(store, learn, data={"name": f"{__name__}:{own}"})
    assert not (store.root / "model").exists()


@pytest.mark.parametrize("size", [{}, {"budget_bytes": 5000, "keep_fraction": None}], ids=str)
def test_references_must_go_round_the_classes(store, size):
    with pytest.raises(FlSimError, match="reference set has 310 images: must be at least one for each of 311 classes"):
        run(store, size, data={"name": f"{__name__}:hundreds"})
    assert not (store.root / "model").exists()


def test_a_teacher_that_diverged_is_named(store):
    teacher = {"architecture": "mlp", "epochs": 8, "learning_rate": 1e20}
    with pytest.raises(FlSimError, match=r"of reference images: its training diverged; lower .*learning_rate = 1e\+20"):
        run(store, {"teacher": teacher})


def test_the_text_of_a_rehearsals_own_student_is_in_the_payloads_key(store, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from fl_sim.models.architectures import linear\n\n"
    text += "def net(shape, outputs):\n    return linear(shape, outputs)\n"
    student = {"architecture": "rehearsed_piece:net", "epochs": 1}
    for added in ("", "# another text\n"):
        (tmp_path / "rehearsed_piece.py").write_text(text + added)
        _text_digest.cache_clear()  # as in a new process
        run(store, {"rule": "rehearsed", "rehearsal": {"folds": 2, "rounds": 1, "student": student}})
    assert len(list((store.root / "payload").iterdir())) == 2
