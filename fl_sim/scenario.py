"""The scenario: what the world is and what happens in it, as frozen, validated data.

A scenario is read from TOML by `Scenario.load`; every key that does not exist, every wrong type and every impossible
value is refused there, before any work starts. The text of the refusals is made in `fl_sim/scenario_file.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from fl_sim.behaviours import behaviour
from fl_sim.calibrations import FCP, Calibrate, calibrate_options
from fl_sim.errors import ScenarioError
from fl_sim.models import FIT_THEMSELVES, check_architecture
from fl_sim.options import OWN, Learn, Plada, Trained, learn_options, nearest, own_digest

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_ROWS = 100_000_000
NEED_TWO_CLASSES = frozenset({"ets", "vector", "matrix", "svs", "sms"})  # calibrators
A_WEEK = 7 * 24 * 3600.0
MOST_TOGETHER = 1024  # clients whose models are trained in one stack
MOST_AGREEING = 10_000  # clients of whom each pair is compared: tables of 0.8 GB each
SPLITS = ("train", "server", "calibration", "test")


class Section(BaseModel):
    """A table of the file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Data(Section):
    """Which data, and how many rows each party of the world gets; the four parts never overlap."""

    name: str  # of fl-sim list datasets, NAME:labelled of an image set, image-folder:PATH, medmnist:NAME; or your own
    image_size: Annotated[int, Field(ge=4, le=512)] | None = None  # left out: as the data set has it
    train: Annotated[
        int, Field(ge=0, le=MOST_ROWS)
    ]  # the shared training set, or the pool that is split when clients learn alone; 0 where the server hands out
    server: Annotated[int, Field(ge=0, le=MOST_ROWS)] = 0  # labelled rows only the server holds
    calibration: Annotated[int, Field(ge=1, le=MOST_ROWS)]  # rows that are dealt to the clients to calibrate on
    calibration_from: Literal["train", "test"] = "train"  # test: of the publisher's test set, as the test rows are
    test: Annotated[int, Field(ge=1, le=MOST_ROWS)]  # rows that the clients are tested on

    @property
    def rows(self) -> int:
        """All rows the scenario uses."""
        return self.train + self.server + self.calibration + self.test

    @model_validator(mode="after")
    def _fits(self) -> Self:
        from fl_sim.data.datasets import describe

        source = describe(self.name)
        if source.capacity is not None:
            self.check_rows(source.capacity, source.num_official_test)
        if self.image_size is not None and source.task == "regression":
            raise ValueError(f"image_size = {self.image_size} belongs to images, and {self.name} has features")
        if self.image_size is None and self.name.startswith("image-folder:"):
            raise ValueError(f"{self.name} needs image_size: its images may differ in size")
        return self

    def check_rows(self, capacity: int, official: int) -> None:
        """Refuse to ask for more than `capacity` rows, of which the last `official` are the publisher's test set.

        Raises:
            ValueError: with what is asked for and what there is.
        """
        if self.rows > capacity:
            raise ValueError(
                f"train + server + calibration + test = {self.rows} rows, but {self.name} has {capacity}; ask for fewer"
            )
        if not official:
            if self.calibration_from == "test":
                raise ValueError(f"calibration_from = 'test': {self.name} has no test set of its own; leave it out")
            return
        theirs = ("calibration", "test") if self.calibration_from == "test" else ("test",)
        tested, ours = sum(getattr(self, part) for part in theirs), [s for s in SPLITS if s not in theirs]
        if tested > official:
            words = " + ".join(theirs)
            raise ValueError(f"{words} = {tested} rows, but the test set of {self.name} has {official}; ask for fewer")
        if self.rows - tested > capacity - official:
            raise ValueError(
                f"{' + '.join(ours)} = {self.rows - tested} rows, but {self.name} has "
                f"{capacity - official} outside its test set; ask for fewer"
            )


Kind = Literal["iid", "dirichlet", "pathological", "quantity-skew"]
NEEDS = {"dirichlet": "concentration", "quantity-skew": "concentration", "pathological": "classes_per_client"}


class Partition(NamedTuple):
    """How rows are dealt to clients."""

    kind: Kind
    concentration: float | None
    classes_per_client: int | None

    @property
    def parameters(self) -> dict[str, Any]:
        """All but the kind, as keyword arguments."""
        return {"concentration": self.concentration, "classes_per_client": self.classes_per_client}


class Tier(Section):
    """One kind of client: what it can compute and how long it trains."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[\w-]+$")]  # letters, digits, _ and -; by it a key is addressed
    share: Share | None = None  # of the clients; left out, at one tier at most: those that the other tiers leave
    architecture: str  # of fl-sim list models; or your own
    # 0: the model stays untrained; with learn = "fedavg": in each round; boosting: its stages; a tree is grown once.
    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Positive = 1e-3  # of the first step
    batch_size: Annotated[int, Field(ge=1)] = 64  # rows a step
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # adamw: with weight decay 0.01; sgd: without momentum
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: from learning_rate down to 0
    cohort: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_TOGETHER)] = (
        "auto"  # how many clients with models of their own train in one stack (fl_sim/cohorts.py); 1: one by one
    )
    quantiles: tuple[Share, Share] | None = (
        None  # regression only: heads for these two levels (CQR) in place of the mean
    )
    # The tier's own partition: of each class the tier has its clients' share, which is dealt to them in this way.
    partition: Kind | None = None  # left out, as the two below: as clients has it
    concentration: Positive | None = None  # as clients.concentration
    classes_per_client: Annotated[int, Field(ge=1)] | None = None  # pathological only

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        check_architecture(name)
        return name

    @field_validator("cohort", mode="before")
    @classmethod
    def _sized(cls, cohort: Any) -> Any:
        whole = isinstance(cohort, int) and not isinstance(cohort, bool) and 1 <= cohort <= MOST_TOGETHER
        if cohort != "auto" and not whole:
            raise ValueError(f"must be 'auto' or a whole number from 1 to {MOST_TOGETHER:,}")
        return cohort

    @field_validator("quantiles")
    @classmethod
    def _ordered(cls, levels: tuple[float, float] | None) -> tuple[float, float] | None:
        if levels is not None and not 0 < levels[0] < levels[1] < 1:
            raise ValueError("two levels are needed with 0 < lower < upper < 1")
        return levels


class ReferenceSets(Section):
    """The unlabelled images that every client holds, in their published order, made as large as the data's."""

    # As data.name has them, labels unused; and glyphs-pool, glyphs-pool:seen, NAME:unlabelled of an image set.
    sets: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("sets")
    @classmethod
    def _known(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        from fl_sim.data.reference import check_sets

        check_sets(sets)
        return sets


BehaviourOptions = Annotated[Any, BeforeValidator(behaviour)]


class Clients(Section):
    """How many clients, how unequal their data, how unequal their means, who misbehaves."""

    count: Annotated[int, Field(ge=1, le=1_000_000)]  # how many clients
    # dirichlet: unlike label mixes and sizes; pathological: a few classes each; quantity-skew: unlike sizes alone.
    partition: Kind = "iid"
    concentration: Positive | None = None  # Dirichlet's, for dirichlet and quantity-skew: smaller is more unequal
    classes_per_client: Annotated[int, Field(ge=1)] | None = None  # pathological only
    min_calibration: Annotated[int, Field(ge=0)] = (
        0  # 0 keeps and counts empty clients; m > 0 draws again, at most 100 times
    )
    test: Literal["local", "shared"] = "local"  # on test rows like the client's own, or everybody on all of them
    tier_by: Literal["random", "size"] = (
        "random"  # "size": the first tier takes the clients with the fewest calibration points
    )
    tier: Annotated[tuple[Tier, ...], Field(min_length=1)]
    behaviour: tuple[BehaviourOptions, ...] = ()  # drawn independently of data, and of tiers unless it names one

    @model_validator(mode="after")
    def _partition_keys(self) -> Self:
        for key in ("concentration", "classes_per_client"):
            wanted = NEEDS.get(self.partition) == key
            if wanted and getattr(self, key) is None:
                raise ValueError(f"partition = {self.partition!r} needs clients.{key}")
            if key == "classes_per_client" and not wanted and self.classes_per_client is not None:
                raise ValueError(f"classes_per_client belongs to partition = 'pathological', not {self.partition!r}")
        return self

    @model_validator(mode="after")
    def _partitions_of_tiers(self) -> Self:
        for tier in self.tier:
            told, at = self.partition_of(tier), f"clients.tier.{tier.name}"
            needed = NEEDS.get(told.kind)
            if tier.partition is not None and needed is not None and getattr(told, needed) is None:
                raise ValueError(f"{at}.partition = {told.kind!r} needs {at}.{needed}, or clients.{needed} for all")
            if tier.classes_per_client is not None and needed != "classes_per_client":
                raise ValueError(f"{at}.classes_per_client belongs to partition = 'pathological', not {told.kind!r}")
            if tier.concentration is not None and tier.partition is None and needed != "concentration":
                raise ValueError(
                    f"{at}.concentration = {tier.concentration:g} has no effect on partition = {told.kind!r}; say "
                    f"{at}.partition too, for instance 'dirichlet'"
                )
        if self.splits_by_tier and self.tier_by == "size":
            raise ValueError(
                "tier_by = 'size' needs the sizes of clients before their tiers, and a tier with a partition of its "
                "own its clients before their sizes; leave tier_by out, or the tiers' partitions"
            )
        return self

    @model_validator(mode="after")
    def _shares(self) -> Self:
        names = [t.name for t in self.tier]
        if len(set(names)) < len(names):
            raise ValueError(f"tier names must differ: {', '.join(names)}")
        given = [t.share for t in self.tier if t.share is not None]
        open_tiers = len(self.tier) - len(given)
        if open_tiers > 1:
            raise ValueError("at most one tier may leave out its share: it takes the clients that are left")
        total = sum(given)
        if total > 1 + 1e-9 or (open_tiers == 0 and abs(total - 1) > 1e-9):
            rule = "at most 1" if open_tiers else "exactly 1 when every tier states one"
            raise ValueError(f"the tiers' shares add up to {total:g}; they must add up to {rule}")
        return self

    @model_validator(mode="after")
    def _behaviours(self) -> Self:
        kinds = [b.kind for b in self.behaviour]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each kind of behaviour may stand once: {', '.join(kinds)}")
        total = sum(b.share for b in self.behaviour)
        if total > 1 + 1e-9:
            raise ValueError(f"the behaviours' shares add up to {total:g}; they must add up to at most 1")
        names = [t.name for t in self.tier]
        for b in self.behaviour:
            if b.tier is not None and b.tier not in names:
                at = f"clients.behaviour.{b.kind}.tier"
                raise ValueError(f"{at} = {b.tier!r}: no tier is called so{nearest(b.tier, names)}")
        return self

    @property
    def splits_by_tier(self) -> bool:
        """Whether a tier that has clients has a partition of its own."""
        return any(
            tier.share != 0 and (tier.partition, tier.concentration, tier.classes_per_client) != (None, None, None)
            for tier in self.tier
        )

    def partition_of(self, tier: Tier | None = None) -> Partition:
        """How rows are dealt to the clients of a tier, or to all where no tier has a partition of its own."""
        own = tier if tier is not None else self
        return Partition(
            own.partition or self.partition,
            self.concentration if own.concentration is None else own.concentration,
            self.classes_per_client if own.classes_per_client is None else own.classes_per_client,
        )


class Runtime(Section):
    """Where the clients run. Nothing here but `device` and `precision` may change a digit of a result."""

    name: Literal["ray", "inline", "flower"] = (
        "ray"  # inline: one process, which cannot stop a client that hangs; flower: Flower's own simulation
    )
    on_failure: Literal["stop", "skip"] = "stop"  # of a client; skip: go on without it, and list it
    timeout: Annotated[float, Field(gt=0, le=A_WEEK)] = (
        # seconds one client may take for one message; times the models of its cohort where it trains them all; ray
        # stops who takes longer, inline finds it late once it has answered
        600.0
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    precision: Literal["float32", "bfloat16"] = "float32"  # of training and prediction
    cpus_per_client: Annotated[float, Field(ge=0.01, le=1024)] = 1.0  # so many clients run at once as there is room for
    gpus_per_client: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None  # left out: shared out
    address: str | None = None  # HOST:PORT of a Ray cluster that is up; left out: this machine


class Agreement(Section):
    """After calibration every client is asked about the same test rows, and it is measured how far they agree."""

    rows: Annotated[int, Field(ge=1, le=MOST_ROWS)]  # of the test rows, drawn at random: all clients answer on these
    draws: Annotated[int, Field(ge=2, le=10_000)] = 20  # of two disjoint groups of clients, for each point of the curve
    within: Positive = 0.002  # what doubling a stack must gain, in Brier score (regression: variances), to be worth it


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
        self._min_calibration_can_be_met()
        self._agreement_fits()
        self._mixture_fits()
        self._trees_can_learn()
        self._tiers_hold_their_behaviours()
        self._fits(task, describe(self.data.name).num_classes)
        return self

    def _fits(self, task: str | None, num_classes: int | None) -> None:
        if task is not None:
            for tier in self.clients.tier:
                check_architecture(tier.architecture, task)
            self._score_fits(task)
        self._somebody_can_learn(task)
        self._contributions_can_be_compared(task)
        self._classes_go_round(10 if task == "regression" else num_classes)
        if num_classes == 1 and self.calibrate.calibrator in NEED_TWO_CLASSES:
            raise ValueError(
                f"calibrate.calibrator = {self.calibrate.calibrator!r} tells classes apart, and {self.data.name} has "
                "one; leave it out, or name more classes"
            )

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
        wanted = getattr(self.calibrate, "task", None)
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
        if not learn.hands_out:
            if not self.data.train and not OWN.match(name):
                raise ValueError(f"data.train = 0, and learn = {name!r} trains on these rows; must be at least 1")
            return
        if task == "regression":
            raise ValueError(f"learn = {name!r} hands out labels of classes, and {self.data.name} is regression")
        if getattr(self.calibrate, "align", "none") != "none":
            raise ValueError(
                f"calibrate.align = {self.calibrate.align!r} needs training rows that the clients hold, and learn = "
                f"{name!r} leaves them none"
            )
        if not self.data.server:
            raise ValueError(f"data.server = 0, and learn = {name!r} learns from these rows; must be at least 1")
        folds = learn.rehearsal.folds if isinstance(learn, Plada) and learn.rule == "rehearsed" else 0
        if self.data.server < folds:
            raise ValueError(f"learn.rehearsal.folds = {folds}, and data.server = {self.data.server} rows")
        if not learn.needs_reference:
            return
        if self.reference is None:
            raise ValueError(f"learn = {name!r} needs [reference] with sets, for instance sets = ['glyphs-pool']")
        from fl_sim.data.reference import overlaps

        same = overlaps(self.data.name, self.reference.sets)
        if same is not None:
            raise ValueError(same)

    def _contributions_can_be_compared(self, task: str | None) -> None:
        """Who weighs clients by their updates needs updates of one architecture, and something to hold them against."""
        learn, name = self.learn, self.learn.name
        if learn.validates and not self.data.server:
            raise ValueError(f"data.server = 0, and learn = {name!r} judges updates by these rows; must be at least 1")
        if learn.by_class and task == "regression":
            raise ValueError(f"learn = {name!r} judges updates class by class, and {self.data.name} is regression")
        if not learn.one_architecture:
            return
        if learn.participants > self.clients.count:
            raise ValueError(f"learn.participants = {learn.participants}, and clients.count = {self.clients.count}")
        rest = 1 - sum(tier.share or 0 for tier in self.clients.tier)  # of the tier that leaves its share out
        held = [tier for tier in self.clients.tier if (rest if tier.share is None else tier.share) > 1e-9]
        if len({(tier.architecture, tier.quantiles) for tier in held}) > 1:
            kinds = ", ".join(
                f"{tier.name} ({tier.architecture}{f' {tier.quantiles}' if tier.quantiles else ''})" for tier in held
            )
            raise ValueError(
                f"learn = {name!r} compares updates of one architecture, and the tiers differ: {kinds}; give all tiers "
                "the same, or an empty share"
            )

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
        if self.learn.averages:
            raise ValueError(
                f"{key}.architecture = {tier.architecture!r} cannot be averaged, and learn = {self.learn.name!r} "
                "averages weights; name a network, or another strategy"
            )
        why = _without_gradients(key, tier)
        for option in ("soft_labels", "curriculum"):
            if getattr(self.learn, option, None) is not None:
                raise ValueError(f"learn.{option} = {getattr(self.learn, option)!r}: {key}.architecture = {why}")

    def _mixture_fits(self) -> None:
        told = self.calibrate.mixture if isinstance(self.calibrate, FCP) else ()
        if told and not isinstance(told, str) and len(told) != self.clients.count:
            raise ValueError(
                f"calibrate.mixture holds {len(told)} numbers, but clients.count = {self.clients.count}: must be one "
                "for each client"
            )

    def _classes_go_round(self, classes: int | None) -> None:
        if classes is None:
            return
        for at, told, count in self._partitions():
            each = told.classes_per_client
            if told.kind == "pathological" and each and (each > classes or each * count < classes):
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
        from fl_sim.crowd import assign_tiers

        tiers = assign_tiers(clients, self.seed).tolist()
        for i, tier in enumerate(clients.tier):
            if i in tiers:
                yield f"clients.tier.{tier.name}", clients.partition_of(tier), tiers.count(i)

    def _tiers_hold_their_behaviours(self) -> None:
        if any(b.tier is not None and b.share > 0 for b in self.clients.behaviour):
            from fl_sim.crowd import assign_behaviours, assign_tiers

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
        from fl_sim.scenario_file import load

        return load(path, overrides)

    def with_(self, *overrides: str) -> Scenario:
        """The same scenario with `key=value` overrides, validated again."""
        from fl_sim.scenario_file import build, override

        return build(override(self.plain(), overrides))

    def plain(self) -> dict[str, Any]:
        """As nested dicts of TOML values, every default written out, keys without a value left out."""
        return _without_none(self.model_dump(mode="json"))

    def identity(self) -> str:
        """A digest of all that decides the results; where it is run is not part of it."""
        from fl_sim.data.datasets import describe
        from fl_sim.data.reference import fingerprints

        told = self.plain()
        told.pop("reference", None)
        if self.references:
            told["reference"] = {"sets": list(self.references), "sources": fingerprints(self.references)}
        if told["calibrate"].get("calibrator") == "none":
            told["calibrate"].pop("calibrator")  # as it was before there were calibrators
        if self.clients.partition not in ("dirichlet", "quantity-skew"):
            told["clients"].pop("concentration", None)  # said, and of no effect
        told["clients"]["tier"] = [
            {key: tier[key] for key in ("name", "share")} if tier.get("share") == 0 else tier
            for tier in told["clients"]["tier"]  # of an empty tier the rest has no effect
        ]
        for tier in told["clients"]["tier"]:
            if tier.get("partition") in ("iid", "pathological"):
                tier.pop("concentration", None)  # said, and of no effect
        if sum(tier.share != 0 for tier in self.clients.tier) == 1:
            told["clients"].pop("tier_by")  # everybody is of the one tier
        told["data"]["source"] = describe(self.data.name).fingerprint() if ":" in self.data.name else ""
        told["own"] = {name: text for name in self.names() if (text := own_digest(name)) is not None}
        misbehaving = [b for b in self.clients.behaviour if b.share > 0]
        told["clients"]["behaviour"] = [_without_none(b.model_dump(mode="json")) for b in misbehaving]
        # A timeout is there for accidents; it decides results where the run goes on without who is late.
        late = self.runtime.on_failure == "skip" or any(b.needs_time for b in misbehaving)
        where = self.WHERE - {"timeout"} if late else self.WHERE
        told["runtime"] = {k: v for k, v in told["runtime"].items() if k not in where}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def names(self) -> dict[str, str]:
        """Name -> path of the key, for every name that may be a user's own `module:object`."""
        found = {self.data.name: "data.name", self.learn.name: "learn", self.calibrate.name: "calibrate"}
        found |= {tier.architecture: f"clients.tier.{tier.name}.architecture" for tier in self.clients.tier}
        found |= {trained.architecture: key for key, trained in self.networks().items()}
        return found if self.calibrate.score is None else found | {self.calibrate.score.name: "calibrate.score"}

    @property
    def references(self) -> tuple[str, ...]:
        """The reference sets that the clients hold; none where nothing rests on them."""
        rests = self.learn.needs_reference or OWN.match(self.learn.name)  # of a user's own it is not known
        return self.reference.sets if self.reference is not None and rests else ()

    def networks(self) -> dict[str, Trained]:
        """Path of the key -> network, for those that the server trains."""
        teacher, rehearsal = getattr(self.learn, "teacher", None), getattr(self.learn, "rehearsal", None)
        found = {"learn.teacher.architecture": teacher}
        if rehearsal is not None:
            found["learn.rehearsal.student.architecture"] = rehearsal.student
        return {key: trained for key, trained in found.items() if isinstance(trained, Trained)}

    @property
    def trains_locally(self) -> bool:
        """Whether the training rows are split over the clients."""
        return bool(self.learn.trains_locally)

    @property
    def one_law_a_tier(self) -> bool:
        """Whether within each tier scores given the label follow one law, because the scenario makes them so.

        That takes one model for all clients of a tier; a calibrator that is the same for all of them, and fitted on
        other rows than those that set thresholds; and clients who tell the truth. One P(x | y) they have in every
        partition: rows are dealt to clients by their labels and sizes alone. Of a user's own learn strategy it is not
        known. What theorems rest on it says `fl_sim/conformal/mixtures.py`.
        """
        honest = all(b.share == 0 for b in self.clients.behaviour)
        return bool(self.learn.one_model_a_tier and self.calibrate.one_calibrator and honest)


def _without_gradients(key: str, trained: Tier | Trained) -> str:
    """Why an architecture that fits itself cannot use a key; those of the table `key` itself are refused here."""
    why = f"{trained.architecture!r} is not trained by gradients, and cannot use it; leave it out"
    for option, usual in (("quantiles", None), ("optimizer", "adam"), ("schedule", "constant")):
        if (told := getattr(trained, option, usual)) != usual:
            raise ValueError(f"{key}.{option} = {told!r}: architecture {why}")
    return why


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value


__all__ = [
    "Agreement",
    "Calibrate",
    "Clients",
    "Data",
    "Learn",
    "ReferenceSets",
    "Runtime",
    "Scenario",
    "Section",
    "Tier",
]
