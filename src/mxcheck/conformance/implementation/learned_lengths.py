"""Learn which numbers of rows or columns an implementation takes: the minimum, multiple and maximum that
explain what it took and what it refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

#: Multiples that kernels may require.
MULTIPLES = tuple(sorted(one << power for one in (1, 3) for power in range(14)))
#: Most reasons that are reported.
_MOST_REASONS = 2


class Lengths(NamedTuple):
    """Numbers that are taken, and the reasons why others are not: `3: AssertionError: no`."""

    least: int = 1
    multiple: int = 1
    most: int | None = None
    because: tuple[str, ...] = ()


def learned_lengths(why_not: Callable[[int], str], taken: int, most: int) -> Lengths:
    """Learn which numbers up to `most` are taken. `why_not` returns why one is refused; `taken` is one that
    is not.

    If a few are all taken, there is no limit. Else each of `MULTIPLES` and its successor are asked, and the
    gapless run of taken numbers around `taken` is described by the multiple that leaves fewest out.
    """
    seen: dict[int, str] = {}
    for count in (1, 3, taken + 1, most):
        seen[count] = why_not(count)
    if not any(seen.values()):
        return Lengths()
    for count in _asked(taken, most):
        if count not in seen:
            seen[count] = why_not(count)
    while True:  # until the next numbers after `least` and `taken` are asked too
        found = _explained(seen, taken)
        beside = [one + found.multiple for one in (found.least, taken)]
        new = [one for one in beside if one not in seen and one <= (found.most or most)]
        if not new:
            return found
        for count in new:
            seen[count] = why_not(count)


def _asked(taken: int, most: int) -> Iterator[int]:
    """Yield each multiple and its successor; and the limit of a 16-bit grid dimension."""
    around = chain.from_iterable((one, one + 1) for one in MULTIPLES)
    return (one for one in (*around, 65_535, 65_536, taken - 1, taken) if 1 <= one <= most)


def _explained(seen: Mapping[int, str], taken: int) -> Lengths:
    every = {count for count, why in seen.items() if not why}
    found = []
    for multiple in MULTIPLES:
        if taken % multiple:
            continue
        of_it = [count for count in seen if count % multiple == 0]
        below = max((count for count in of_it if seen[count] and count < taken), default=0)
        above = min((count for count in of_it if seen[count] and count > taken), default=None)
        inside = {
            count for count in of_it if below < count and (above is None or count < above) and count in every
        }
        found.append((len(every - inside), multiple, min(inside), None if above is None else max(inside)))
    _, multiple, least, most = min(found)
    why = [f"{count}: {seen[count]}" for count in sorted(seen) if seen[count]]
    beside = [line for line in why if line.startswith(f"{least + 1}: ")]
    return Lengths(
        least=1 if multiple == 1 and not any(seen[one] for one in seen if one < least) else least,
        multiple=multiple,
        most=most,
        because=tuple(dict.fromkeys([*beside, *why]))[:_MOST_REASONS],
    )
