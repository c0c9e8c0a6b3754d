"""A table whose `name` says which one it is, and how it is chosen from those of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from fl_sim.names import OWN, nearest


class Section(BaseModel):
    """A table of the file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Options(Section):
    """A table whose `name` says which one it is."""

    name: str

    def arguments(self) -> dict[str, Any]:
        """All keys but the name, as keyword arguments."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"} | (self.model_extra or {})


def chosen(table: Mapping[str, type[Options]], value: Any, kind: str, own: type[Options]) -> Any:
    """The options that `value` (a name, or a table with a `name`) chooses from `table`; `own` for a `module:object`.

    Raises:
        ValueError: no such name; the message gives the nearest one and all of them.
    """
    if isinstance(value, Options):
        return value
    options = {"name": value} if isinstance(value, str) else value
    if not isinstance(options, dict) or not isinstance(options.get("name"), str):
        raise ValueError(f"a {kind} is a name or a table with a name, one of: {', '.join(table)}")
    name = options["name"]
    if name not in table and name.lower() in table:
        name = name.lower()
        options = options | {"name": name}
    if name in table:
        return table[name].model_validate(options)
    if OWN.match(name):
        return own.model_validate(options)
    raise ValueError(f"no {kind} is called {name!r}{nearest(name, table)}")


def number_or(word: str, fits: Callable[[float], bool], rule: str) -> BeforeValidator:
    """Refuses in one line what is neither `word` nor a number that `fits`."""

    def checked(value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != word and not (number and fits(value)):
            raise ValueError(f"must be {word!r} or a number {rule}")
        return value

    return BeforeValidator(checked)
