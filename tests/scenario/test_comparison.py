"""Strategies asked for by kind: who they are, in which order and settings, and what is refused."""

from __future__ import annotations

import pytest

from fl_sim.errors import ScenarioError
from fl_sim.scenario.comparison import by_kind

CLASSES, NUMBERS = {"data": {"name": "digits"}}, {"data": {"name": "friedman"}}
# As eleven scenarios listed them before they asked by kind.
ONE_ROUND = [
    "fedwq-cp",
    "unweighted",
    "local",
    "pooled",
    "fcp",
    "fedcp-qq",
    "cphet",
    "h-dcp",
    "rob-fcp",
    "fedhist-cp",
    "grouped",
    "class-conditional",
    "private",
]
VARIANTS = [
    {"name": "fedwq-cp", "correction": "density"},
    {"name": "fedwq-cp", "feedback": 16},
    {"name": "fedwq-cp", "align": "rank"},
    {"name": "grouped", "groups": "found"},
]
MANY_ROUNDS = [
    {"name": "dp-fedcp", "rounds": 50},
    {"name": "dp-fedcp", "rounds": 200, "local_steps": 1, "smoothing": 0.005, "step_size": 0.05, "average": False},
    {"name": "q-dcp", "rounds": 50},
    {"name": "q-dcp", "rounds": 50, "regularisation": 1.0},
    "online",
]


def test_kinds_are_the_published_lists_in_their_order():
    kinds = [{"kind": "one-round"}, "none", {"kind": "variants"}, {"kind": "many-rounds"}]
    assert by_kind(kinds, CLASSES) == [*ONE_ROUND, "none", *VARIANTS, *MANY_ROUNDS]


def test_one_for_another_task_is_left_out_and_a_world_has_its_options():
    wanted = [name for name in ONE_ROUND if name not in ("class-conditional", "private")]
    told = {"kind": "one-round", "private": {"range": [0, 40]}}
    assert by_kind([told], NUMBERS) == [*wanted, {"name": "private", "range": [0, 40]}]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "one-rond"}, r"calibrate\.kind = 'one-rond': must be one of one-round, variants, many-rounds"),
        ({"kind": "one-round", "privat": {}}, "no strategy of kind = 'one-round' is called so.*did you mean 'private'"),
        ({"kind": "one-round", "online": {}}, r"calibrate\.online: no strategy of kind = 'one-round'"),
    ],
)
def test_what_is_no_kind_is_refused(value, words):
    with pytest.raises(ScenarioError, match=words):
        by_kind([value], CLASSES)
