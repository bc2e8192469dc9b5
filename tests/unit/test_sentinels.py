"""What is made of a sentinel's two answers."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import BrokerUnavailable
from broker.redis.address import parse
from broker.redis.sentinel import Sentinels

ADDRESS = "redis+sentinel://one:26379,two:26379/mymaster"


class Sentinel:
    """Answers both questions at once, as they are asked."""

    connected = True

    def __init__(self, epoch: int, place: list[bytes] | None) -> None:
        self._answers = [[b"config-epoch", b"%d" % epoch], place]

    async def execute_many(self, commands: list[Any]) -> list[Any]:
        assert [command[1] for command in commands] == ["MASTER", "GET-MASTER-ADDR-BY-NAME"]
        return self._answers


def asking(*sentinels: Sentinel) -> Sentinels:
    source = Sentinels(parse(ADDRESS), name="test")
    source._clients = list(sentinels)  # type: ignore[arg-type]  # of which this much is used
    return source


async def test_the_newest_configuration_counts() -> None:
    old, new = Sentinel(3, [b"10.0.0.1", b"6379"]), Sentinel(4, [b"10.0.0.2", b"6380"])
    assert (await asking(old, new).locate()).place == "10.0.0.2:6380"


async def test_one_that_forgets_the_master_between_the_questions_says_nothing() -> None:
    gone = Sentinel(5, None)
    assert (await asking(gone, Sentinel(4, [b"10.0.0.1", b"1"])).locate()).place == "10.0.0.1:1"
    with pytest.raises(BrokerUnavailable, match="forget"):
        await asking(gone, gone).locate()
