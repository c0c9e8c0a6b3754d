"""The tables of a scenario file, but for those of its strategies: immutable, each checked by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fl_sim.models.architectures import check_architecture
from fl_sim.names import nearest
from fl_sim.scenario.behaviours import Positive, behaviour
from fl_sim.scenario.options import Section

Share = Annotated[float, Field(ge=0, le=1)]

MOST_ROWS = 100_000_000

A_WEEK = 7 * 24 * 3600.0

MOST_TOGETHER = 1024  # clients whose models are trained in one stack

SPLITS = ("train", "server", "calibration", "test")


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
    # Of table:FILE alone, whose four parts may be shares of its rows, and one of them "all" that are left.
    target: str | None = None  # the column that is predicted
    client: str | None = None  # the column of whose row it is, for clients.partition = "natural"
    drop: tuple[str, ...] | None = None  # columns that nobody learns from
    task: Literal["classification", "regression"] | None = None  # left out: by the target's values

    @model_validator(mode="before")
    @classmethod
    def _of_a_table(cls, values: Any) -> Any:
        """Shares of a table's rows as numbers of them."""
        name = values.get("name") if isinstance(values, dict) else None
        if not isinstance(name, str):
            return values
        if not name.startswith("table:"):
            misplaced = next((key for key in ("target", "client", "drop", "task") if values.get(key)), None)
            if misplaced is not None:
                raise ValueError(
                    f"{misplaced} = {values[misplaced]!r} belongs to table:FILE, not to {name}; leave it out"
                )
            return values
        if not isinstance(values.get("target"), str):
            raise ValueError(f"{name} needs target: the column that is to be predicted")
        return _counted(values)

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


def _counted(values: dict[str, Any]) -> dict[str, Any]:
    from fl_sim.data.datasets import describe

    total = describe(values["name"]).capacity
    parts = {split: values[split] for split in SPLITS if split in values}
    shares = {split for split, part in parts.items() if isinstance(part, float) and 0 < part < 1}
    rest = [split for split, part in parts.items() if part == "all"]
    if total is None or not (shares or rest):
        return values
    if len(rest) > 1:
        raise ValueError(f"{' and '.join(rest)} are both 'all'; one of them can have what is left")
    numbers = {split: int(part * total + 1e-9) if split in shares else part for split, part in parts.items()}
    for split in rest:
        del numbers[split]
    taken = sum(part for part in numbers.values() if isinstance(part, int))
    return values | numbers | dict.fromkeys(rest, max(total - taken, 0))


Kind = Literal["iid", "dirichlet", "pathological", "quantity-skew"]

NATURAL = "natural"  # whose rows they are, the data say

NEEDS = {"dirichlet": "concentration", "quantity-skew": "concentration", "pathological": "classes_per_client"}


class Partition(NamedTuple):
    """How rows are dealt to clients."""

    kind: Kind | Literal["natural"]
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
        "auto"  # how many clients with models of their own train in one stack (stacked_training.py); 1: one by one
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
    # natural: whose they are, of data that have clients; count is their number, and tiers that they have are theirs.
    partition: Literal["iid", "dirichlet", "pathological", "quantity-skew", "natural"] = "iid"
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
            partition, at = self.partition_of(tier), f"clients.tier.{tier.name}"
            needed = NEEDS.get(partition.kind)
            if tier.partition is not None and needed is not None and getattr(partition, needed) is None:
                raise ValueError(
                    f"{at}.partition = {partition.kind!r} needs {at}.{needed}, or clients.{needed} for all"
                )
            if tier.classes_per_client is not None and needed != "classes_per_client":
                raise ValueError(
                    f"{at}.classes_per_client belongs to partition = 'pathological', not {partition.kind!r}"
                )
            if tier.concentration is not None and tier.partition is None and needed != "concentration":
                raise ValueError(
                    f"{at}.concentration = {tier.concentration:g} has no effect on partition = {partition.kind!r}; say "
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
        shares = [t.share for t in self.tier if t.share is not None]
        open_tiers = len(self.tier) - len(shares)
        if open_tiers > 1:
            raise ValueError("at most one tier may leave out its share: it takes the clients that are left")
        total = sum(shares)
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

    # auto: inline while the work that is left costs less than Ray's start, else ray; it follows from the scenario and
    # from what the store holds. inline: one process, which cannot stop a client that hangs; flower: Flower's own.
    name: Literal["auto", "ray", "inline", "flower"] = "auto"
    on_failure: Literal["stop", "skip"] = "stop"  # of a client; skip: go on without it, and list it
    # Seconds one client may take for one message; times the models of its cohort where it trains them all; ray stops
    # who takes longer, inline finds it late once it has answered.
    timeout: Annotated[float, Field(gt=0, le=A_WEEK)] = 600.0
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
