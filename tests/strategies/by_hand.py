"""Answers made by hand, as a strategy takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record


def columns(records: Iterable[Record], kind: type[Record] = Record) -> Columns[Any]:
    """The columns of records; `kind` is that of none."""
    rows = list(records)
    return Columns.of(type(rows[0]) if rows else kind, rows)
