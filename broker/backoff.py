"""How long to wait before trying again: full jitter (protocol section 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def full_jitter(
    random: Callable[[], float], *, first_seconds: float, most_seconds: float
) -> Iterator[float]:
    """Endless delays, each uniform between 0 and a ceiling that doubles up to ``most_seconds``.

    ``random`` gives numbers in [0, 1). Start a new iterator after progress.
    """
    ceiling = first_seconds
    while True:
        yield random() * ceiling
        ceiling = min(ceiling * 2, most_seconds)
