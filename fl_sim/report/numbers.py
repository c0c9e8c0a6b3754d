"""Numbers as tables, figures and pages show them, and what was promised: 1 - alpha is written here and nowhere else.

All of it is plain ASCII, so that it can be printed anywhere.
"""

from __future__ import annotations

import math


def percent(share: float | None) -> str:
    """`93.4%`, or a dash where there is nothing to tell."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}%"


def small_percent(share: float) -> str:
    """A share that may be small, with two significant digits at least: `4.1%`, `0.012%`."""
    return percent(share) if share >= 0.01 or not share else f"{number(100 * share)}%"


def number(value: float | None) -> str:
    """Three significant digits without an exponent where that is readable."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{max(0, decimals)}f}"


def signed(value: float | None) -> str:
    """A difference, with its sign: `+0.0123`, `-0.0045`, `0`."""
    return "-" if value is None else f"{value:+.4f}" if value else "0"


def p_value(p: float) -> str:
    """`0.012`, `3e-05`, `-` where there is none."""
    return "-" if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def count(many: int, one: str, plural: str = "") -> str:
    """`1 client`, `1,000 clients`."""
    return f"{many:,} {one if many == 1 else plural or one + 's'}"


def size_of(bytes_: float) -> str:
    """`16 bytes`, `1.23 MB`; a dash of nan."""
    if math.isnan(bytes_):
        return "-"
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e4, "kB")):
        if bytes_ >= unit:
            return f"{number(bytes_ / (1e3 if name == 'kB' else unit))} {name}"
    return f"{bytes_:,.0f} bytes" if bytes_ >= 10 or bytes_ == int(bytes_) else f"{bytes_:.1f} bytes"


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


# -------------------------------------------------------------------------------------------------------- the promise


def promised(alpha: float, slack: float = 0.0) -> float:
    """The coverage that was promised, less what is let pass, without the dust of a float's last bits.

    >>> promised(0.1), 1 - 0.05 - 0.02, promised(0.05, 0.02)
    (0.9, 0.9299999999999999, 0.93)
    """
    return round(1 - alpha - slack, 12)


def promise(alpha: float, slack: float = 0.0) -> str:
    """The same as it is printed.

    >>> promise(0.1), promise(0.005)
    ('90%', '99.5%')
    """
    return f"{100 * promised(alpha, slack):.4g}%"


def keeps(coverage: float, alpha: float) -> bool:
    """Whether a coverage is no less than what was promised, whatever its last bits; nan is no less."""
    return not coverage < promised(alpha) - 1e-9
