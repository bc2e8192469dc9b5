"""New ids, with this process's clock and randomness; and those that authors choose."""

from __future__ import annotations

import os
import time

from broker.channels import check_id
from broker.errors import ConfigurationError
from broker.ids import RANDOM_BYTES, ulid


def new_id() -> str:
    """A new run, thread or node id."""
    return ulid(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))


def check_named(field: str, value: object) -> None:
    """:class:`ConfigurationError` unless ``value`` may be an id."""
    try:
        check_id(value)
    except ValueError as error:
        raise ConfigurationError(
            setting=field, why=str(error), todo="Choose another one."
        ) from None
