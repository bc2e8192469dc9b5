"""What an adapter says when its framework is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from broker.errors import UsageError


class MissingExtra(UsageError, ImportError):
    """The framework of an adapter is not installed, or in a version that lacks what is used."""

    def __init__(self, *, extra: str, why: str) -> None:
        self.extra, self.why = extra, why
        super().__init__(f'{why}; install it with: pip install "runcast[{extra}]"')


@contextmanager
def framework(extra: str) -> Iterator[None]:
    """Stands around the imports at the top of an adapter.

    :raises MissingExtra: an import in it fails; says which extra of Runcast brings it.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(extra=extra, why=str(error)) from error
