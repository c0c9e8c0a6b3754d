"""How much fits into a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable


def largest_within(size: Callable[[int], int], budget: int, least: int, most: int, unused: float = 0.0) -> int:
    """The largest count in least..most found whose `size(count)` bytes are at most `budget`; `least` must fit.

    Sizes grow with the count but for a few bytes, and nearly in proportion. So a count is guessed by proportion until
    one does not fit, and then in turn by halving and by interpolation: most of a large set is never packed. The count
    found fits, and the next one does not; unless the share `unused` of the budget may stay so, where the first that
    leaves no more is taken.
    """
    low, high, turn = least, most + 1, 0
    at_low, at_high = size(low), 0
    while high - low > 1 and (not unused or at_low < budget * (1 - unused)):
        if not at_high:
            guess = low * budget * 11 // (at_low * 10)
        else:
            guess = low + (budget - at_low) * (high - low) // (at_high - at_low) if turn % 2 else (low + high) // 2
        guess, turn = min(max(guess, low + 1), high - 1), turn + 1
        num_bytes = size(guess)
        if num_bytes <= budget:
            low, at_low = guess, num_bytes
        else:
            high, at_high = guess, num_bytes
    return low
