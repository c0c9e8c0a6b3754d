"""The scenario: what the world is and what happens in it, as frozen, validated data.

A scenario is read from TOML by `Scenario.load`; every key that does not exist, every wrong type and every impossible
value is refused there, before any work starts. The text of the refusals is made in `fl_sim/scenario/toml.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tomli_w
from pydantic import BeforeValidator, Field, model_validator

from fl_sim.errors import ScenarioError
from fl_sim.models.architectures import FIT_THEMSELVES, GIVEN, check_architecture
from fl_sim.names import OWN, own_digest
from fl_sim.scenario import toml
from fl_sim.scenario.learn import Trained
from fl_sim.scenario.options import Section
from fl_sim.scenario.strategies import calibrate_options, learn_options
from fl_sim.scenario.tables import NATURAL, Agreement, Clients, Data, Partition, ReferenceSets, Runtime, Tier

NEED_TWO_CLASSES = frozenset({"ets", "vector", "matrix", "svs", "sms"})  # calibrators
MOST_AGREEING = 10_000  # clients of whom each pair is compared: tables of 0.8 GB each


LearnOptions = Annotated[Any, BeforeValidator(learn_options)]
CalibrateOptions = Annotated[Any, BeforeValidator(calibrate_options)]


class Scenario(Section):
    """A whole scenario; one run follows from it and from nothing else."""

    # What may differ between two runs without making them runs of different scenarios.
    WHERE: ClassVar[frozenset[str]] = frozenset({"name", "timeout", "cpus_per_client", "gpus_per_client", "address"})

    seed: Annotated[int, Field(ge=0)] = 0  # another seed: other rows, partition, models and draws
    data: Data
    clients: Clients
    reference: ReferenceSets | None = None
    learn: LearnOptions
    calibrate: CalibrateOptions
    agreement: Agreement | None = None
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        from fl_sim.data.datasets import describe

        task = describe(self.data.name).task
        if task == "unlabelled":
            raise ValueError(
                f"data.name = {self.data.name!r} has no labels, so nobody can be tested on it; choose labelled data"
            )
        self._clients_are_there()
        self._min_calibration_can_be_met()
        self._agreement_fits()
        self._trees_can_learn()
        self._tiers_hold_their_behaviours()
        self._fits(task, describe(self.data.name).num_classes)
        return self

    def _fits(self, task: str | None, num_classes: int | None) -> None:
        if task is not None:
            for tier in self.clients.tier:
                check_architecture(tier.architecture, task)
                if tier.architecture == GIVEN and self.learn.name != GIVEN:
                    raise ValueError(
                        f"clients.tier.{tier.name}.architecture = 'given': only learn = 'given' has predictions; name "
                        "a network"
                    )
            self._score_fits(task)
        self._somebody_can_learn(task)
        for table in (self.learn, self.calibrate):
            table.strategy.check_world(table, self, task)
        self._classes_go_round(10 if task == "regression" else num_classes)
        if num_classes == 1 and self.calibrate.calibrator in NEED_TWO_CLASSES:
            raise ValueError(
                f"calibrate.calibrator = {self.calibrate.calibrator!r} tells classes apart, and {self.data.name} has "
                "one; leave it out, or name more classes"
            )

    def _clients_are_there(self) -> None:
        from fl_sim.data.datasets import describe

        source, clients = describe(self.data.name), self.clients
        if clients.partition != NATURAL:
            return
        if source.num_clients == 0:
            raise ValueError(f"clients.partition = 'natural': {self.data.name} has no clients of its own; name another")
        if source.num_clients is not None:
            self.check_clients(source.num_clients, source.client_tiers)
        if clients.splits_by_tier:
            raise ValueError("clients.partition = 'natural': no tier can have a partition beside it; leave it out")

    def check_clients(self, count: int, tiers: Sequence[str]) -> None:
        """Refuse another number of clients than the data have, or tiers of theirs that the scenario does not know.

        Raises:
            ValueError: with the numbers, or the tier.
        """
        if self.clients.count != count:
            raise ValueError(
                f"clients.count = {self.clients.count}, and {self.data.name} has {count} clients; say that"
            )
        names = [tier.name for tier in self.clients.tier]
        unknown = next((tier for tier in tiers if len(tiers) > 1 and tier not in names), None)
        if unknown is not None:
            raise ValueError(f"{self.data.name} has clients of tier {unknown!r}; name it among clients.tier")

    def check_own(self) -> None:
        """Refuse what a user's own strategies do not go with, which shows once their modules are imported.

        Raises:
            ScenarioError: in the words with which one of ours is refused when the file is loaded.
        """
        from fl_sim.data.datasets import describe

        own = {
            key: toml.own_options(key, options)
            for key, options in (("learn", self.learn), ("calibrate", self.calibrate))
            if OWN.match(options.name)
        }
        source = describe(self.data.name)
        try:
            declared = self.model_copy(update=own)
            declared._fits(source.task, source.num_classes)
            declared._trees_can_learn()
        except ValueError as error:
            raise ScenarioError(str(error)) from None

    def check_data(self, num_classes: int | None) -> None:
        """Refuse what does not go with the data, where a user's own show only once loaded what they are.

        Args:
            num_classes: of the data; None for regression.

        Raises:
            ScenarioError: in the words with which a named data set of that kind is refused when the file is loaded.
        """
        try:
            self._fits("regression" if num_classes is None else "classification", num_classes)
        except ValueError as error:
            raise ScenarioError(str(error)) from None

    def _score_fits(self, task: str) -> None:
        score = self.calibrate.score
        for tier in self.clients.tier:
            if tier.quantiles is not None and task == "classification":
                raise ValueError(
                    f"clients.tier.{tier.name}.quantiles belongs to regression, and {self.data.name} is classification"
                )
        wanted = self.calibrate.strategy.task
        if wanted not in (None, task):
            raise ValueError(f"calibrate = {self.calibrate.name!r} is for {wanted}, and {self.data.name} is {task}")
        calibrator = self.calibrate.calibrator
        if task == "regression" and calibrator != "none":
            raise ValueError(
                f"calibrate.calibrator = {calibrator!r} is for probabilities of classes, and {self.data.name} is "
                "regression; leave it out"
            )
        if score is None or score.task is None:
            return
        if score.task != task:
            raise ValueError(
                f"calibrate.score = {score.name!r} is a {score.task} score, and {self.data.name} is {task}"
            )
        for tier in self.clients.tier if task == "regression" else ():
            if score.needs_quantiles != (tier.quantiles is not None):
                wanted = "needs" if score.needs_quantiles else "needs the mean, so no"
                example = ", for instance [0.025, 0.975]" if score.needs_quantiles else ""
                raise ValueError(
                    f"calibrate.score = {score.name!r} {wanted} clients.tier.{tier.name}.quantiles{example}"
                )

    def _somebody_can_learn(self, task: str | None) -> None:
        learn, name = self.learn, self.learn.name
        if not learn.strategy.hands_out:
            if not self.data.train and not OWN.match(name) and name != GIVEN:
                raise ValueError(f"data.train = 0, and learn = {name!r} trains on these rows; must be at least 1")
            return
        if task == "regression":
            raise ValueError(f"learn = {name!r} hands out labels of classes, and {self.data.name} is regression")
        if not self.data.server:
            raise ValueError(f"data.server = 0, and learn = {name!r} learns from these rows; must be at least 1")
        if not learn.strategy.needs_reference:
            return
        if self.reference is None:
            raise ValueError(f"learn = {name!r} needs [reference] with sets, for instance sets = ['glyphs-pool']")
        from fl_sim.data.reference import overlaps

        same = overlaps(self.data.name, self.reference.sets)
        if same is not None:
            raise ValueError(same)

    def _trees_can_learn(self) -> None:
        """Architectures that fit themselves have neither weights nor gradients: refuse what needs such."""
        teacher = self.networks().get("learn.teacher.architecture")
        if teacher is not None and teacher.architecture in FIT_THEMSELVES:
            key = "learn.teacher.architecture"
            raise ValueError(f"{key} = {teacher.architecture!r}: a teacher is trained by gradients; name a network")
        for tier in self.clients.tier:
            if tier.architecture in FIT_THEMSELVES:
                self._tree_can_learn(f"clients.tier.{tier.name}", tier)
        student = self.networks().get("learn.rehearsal.student.architecture")
        if student is not None and student.architecture in FIT_THEMSELVES:
            _without_gradients("learn.rehearsal.student", student)

    def _tree_can_learn(self, key: str, tier: Tier) -> None:
        if self.learn.strategy.averages:
            raise ValueError(
                f"{key}.architecture = {tier.architecture!r} cannot be averaged, and learn = {self.learn.name!r} "
                "averages weights; name a network, or another strategy"
            )
        why = _without_gradients(key, tier)
        for option in ("soft_labels", "curriculum"):
            if getattr(self.learn, option, None) is not None:
                raise ValueError(f"learn.{option} = {getattr(self.learn, option)!r}: {key}.architecture = {why}")

    def _classes_go_round(self, classes: int | None) -> None:
        if classes is None:
            return
        for at, partition, count in self._partitions():
            each = partition.classes_per_client
            if partition.kind == "pathological" and each and (each > classes or each * count < classes):
                raise ValueError(
                    f"{at}.classes_per_client = {each} for {count} clients, but {self.data.name} has {classes} "
                    "classes: a client can hold at most all of them, and together they must hold every one"
                )

    def _partitions(self) -> Iterator[tuple[str, Partition, int]]:
        """Path of the table, partition and number of clients, of each partition that has clients."""
        clients = self.clients
        if not clients.splits_by_tier:
            yield "clients", clients.partition_of(), clients.count
            return
        from fl_sim.scenario.assignment import assign_tiers

        tiers = assign_tiers(clients, self.seed).tolist()
        for i, tier in enumerate(clients.tier):
            if i in tiers:
                yield f"clients.tier.{tier.name}", clients.partition_of(tier), tiers.count(i)

    def _tiers_hold_their_behaviours(self) -> None:
        if any(b.tier is not None and b.share > 0 for b in self.clients.behaviour):
            from fl_sim.scenario.assignment import assign_behaviours, assign_tiers

            # Of which clients a tier is made may wait for their sizes, of how many not.
            tiers = assign_tiers(self.clients, self.seed)
            assign_behaviours(self.clients, tiers, self.seed)

    def _agreement_fits(self) -> None:
        if self.agreement is None:
            return
        if self.agreement.rows > self.data.test:
            raise ValueError(
                f"agreement.rows = {self.agreement.rows}, and data.test = {self.data.test}: clients are asked about "
                "rows that are tested; ask for fewer"
            )
        if self.clients.count < 2:
            raise ValueError("agreement is between clients, and clients.count = 1; leave the table out")
        if self.clients.count > MOST_AGREEING:
            raise ValueError(
                f"clients.count = {self.clients.count}, and agreement is measured on each pair of at most "
                f"{MOST_AGREEING:,} clients; leave the table out"
            )

    def _min_calibration_can_be_met(self) -> None:
        least = self.clients.min_calibration * self.clients.count
        if least > self.data.calibration:
            raise ValueError(
                f"clients.min_calibration = {self.clients.min_calibration} for {self.clients.count} clients is {least} "
                f"calibration points, but data.calibration = {self.data.calibration}"
            )

    @classmethod
    def load(cls, path: str | Path, *overrides: str) -> Scenario:
        """Read a scenario file, or a shipped one by its name, with `key=value` overrides.

        Raises:
            ScenarioError: the file is missing, is not TOML, or says something that cannot be run.
        """
        return toml.load(path, overrides, cls)

    @classmethod
    def of(cls, tables: dict[str, Any]) -> Scenario:
        """From nested dicts of TOML values, as a file has them.

        Raises:
            ScenarioError: one line for each thing that is wrong.
        """
        return toml.build(tables, cls)

    def with_(self, *overrides: str) -> Scenario:
        """The same scenario with `key=value` overrides, validated again."""
        return self.of(toml.override(self.plain(), overrides))

    def plain(self) -> dict[str, Any]:
        """As nested dicts of TOML values, every default written out, keys without a value left out."""
        return _without_none(self.model_dump(mode="json"))

    def __reduce__(self) -> tuple[Any, ...]:
        """As its tables: those of its strategies are made when they are asked for, and cannot be pickled."""
        return type(self).of, (self.plain(),)

    def dump(self) -> str:
        """As TOML, every default written out."""
        return tomli_w.dumps(self.plain())

    def identity(self) -> str:
        """A digest of all that decides the results; where it is run is not part of it."""
        from fl_sim.data.datasets import describe
        from fl_sim.data.reference import fingerprints

        tables = self.plain()
        tables.pop("reference", None)
        if self.references:
            tables["reference"] = {"sets": list(self.references), "sources": fingerprints(self.references)}
        if tables["calibrate"].get("calibrator") == "none":
            tables["calibrate"].pop("calibrator")  # as it was before there were calibrators
        if self.clients.partition not in ("dirichlet", "quantity-skew"):
            tables["clients"].pop("concentration", None)  # said, and of no effect
        tables["clients"]["tier"] = [
            {key: tier[key] for key in ("name", "share")} if tier.get("share") == 0 else tier
            for tier in tables["clients"]["tier"]  # of an empty tier the rest has no effect
        ]
        for tier in tables["clients"]["tier"]:
            if tier.get("partition") in ("iid", "pathological"):
                tier.pop("concentration", None)  # said, and of no effect
        if sum(tier.share != 0 for tier in self.clients.tier) == 1:
            tables["clients"].pop("tier_by")  # everybody is of the one tier
        tables["data"]["source"] = describe(self.data.name).fingerprint() if ":" in self.data.name else ""
        tables["own"] = {name: text for name in self.names() if (text := own_digest(name)) is not None}
        misbehaving = [b for b in self.clients.behaviour if b.share > 0]
        tables["clients"]["behaviour"] = [_without_none(b.model_dump(mode="json")) for b in misbehaving]
        # A timeout is there for accidents; it decides results where the run goes on without who is late.
        late = self.runtime.on_failure == "skip" or any(b.needs_time for b in misbehaving)
        where = self.WHERE - {"timeout"} if late else self.WHERE
        tables["runtime"] = {k: v for k, v in tables["runtime"].items() if k not in where}
        return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]

    def names(self) -> dict[str, str]:
        """Name -> path of the key, for every name that may be a user's own `module:object`."""
        keys = {self.data.name: "data.name", self.learn.name: "learn", self.calibrate.name: "calibrate"}
        keys |= {tier.architecture: f"clients.tier.{tier.name}.architecture" for tier in self.clients.tier}
        keys |= {trained.architecture: key for key, trained in self.networks().items()}
        return keys if self.calibrate.score is None else keys | {self.calibrate.score.name: "calibrate.score"}

    @property
    def references(self) -> tuple[str, ...]:
        """The reference sets that the clients hold; none where nothing rests on them."""
        rests = self.learn.strategy.needs_reference or OWN.match(self.learn.name)  # of a user's own it is not known
        return self.reference.sets if self.reference is not None and rests else ()

    def networks(self) -> dict[str, Trained]:
        """Path of the key -> network, for those that the server trains."""
        teacher, rehearsal = getattr(self.learn, "teacher", None), getattr(self.learn, "rehearsal", None)
        networks = {"learn.teacher.architecture": teacher}
        if rehearsal is not None:
            networks["learn.rehearsal.student.architecture"] = rehearsal.student
        return {key: trained for key, trained in networks.items() if isinstance(trained, Trained)}

    @property
    def trains_locally(self) -> bool:
        """Whether the training rows are split over the clients."""
        return bool(self.learn.strategy.trains_locally)

    @property
    def one_law_a_tier(self) -> bool:
        """Whether within each tier scores given the label follow one law, because the scenario makes them so.

        That takes one model for all clients of a tier; a calibrator that is the same for all of them, and fitted on
        other rows than those that set thresholds; and clients who tell the truth. One P(x | y) they have in every
        partition: rows are dealt to clients by their labels and sizes alone. Of a user's own learn strategy it is not
        known. What theorems rest on it says `fl_sim/conformal/mixtures.py`.
        """
        honest = all(b.share == 0 for b in self.clients.behaviour)
        dealt = self.clients.partition != NATURAL  # of people who are who they are nothing is known
        return bool(self.learn.one_model_a_tier and self.calibrate.one_calibrator and honest and dealt)


def _without_gradients(key: str, trained: Tier | Trained) -> str:
    """Why an architecture that fits itself cannot use a key; those of the table `key` itself are refused here."""
    why = f"{trained.architecture!r} is not trained by gradients, and cannot use it; leave it out"
    for option, usual in (("quantiles", None), ("optimizer", "adam"), ("schedule", "constant")):
        if (value := getattr(trained, option, usual)) != usual:
            raise ValueError(f"{key}.{option} = {value!r}: architecture {why}")
    return why


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value
