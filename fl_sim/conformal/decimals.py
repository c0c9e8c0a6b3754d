"""Numbers as a person means them, for rational arithmetic: ranks and budgets must not hang on a float's last bit.

0.1 is the decimal 0.1 and not the binary number beside it, and so are 1 - 0.9 and 0.3 / 3, which differ from it in
their last bits: with n = 9 points, ceil((n + 1)(1 - alpha)) is 9 for all of them, where the binary numbers of the other
two give 10, which is no threshold at all.

>>> as_meant(1 - 0.9), as_meant(0.3 / 3), as_meant(1 / 3) == Fraction(1, 3)
(Fraction(1, 10), Fraction(1, 10), False)
"""

from __future__ import annotations

from fractions import Fraction

DIGITS = 12  # significant ones; float arithmetic on a few decimals is off in the sixteenth


def exact_alpha(alpha: float) -> Fraction:
    """The miscoverage as it is meant.

    Raises:
        ValueError: it is none.
    """
    exact = as_meant(alpha) if 0 < alpha < 1 else Fraction(0)
    if not 0 < exact < 1:
        raise ValueError(f"alpha = {alpha}: must lie strictly between 0 and 1, in its first 12 digits")
    return exact


def as_meant(number: float | Fraction) -> Fraction:
    """The decimal of at most 12 significant digits nearest to a finite float; a `Fraction` is meant as it is.

    Raises:
        ValueError: nan or infinite.
    """
    return number if isinstance(number, Fraction) else Fraction(f"{number:.{DIGITS}g}")
