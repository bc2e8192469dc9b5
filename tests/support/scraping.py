"""Metrics as Prometheus would read them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.sdk_rig import until
from tests.support.clients import PATIENCE_SECONDS

KEY = "a metrics key of the tests"


@dataclass(frozen=True)
class Scrape:
    """``values``: sample's name and labels → its value."""

    text: str
    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels; 0 without any."""
        wanted = set(labels.items())
        return sum(
            value for (each, has), value in self.values.items() if each == name and has >= wanted
        )

    def labels(self, name: str) -> list[dict[str, str]]:
        """Of every sample of this name."""
        return [dict(has) for each, has in self.values if each == name]


async def scrape(base: str, key: str = KEY, *, seconds: float = PATIENCE_SECONDS) -> Scrape:
    """One, on a connection of its own."""
    async with (
        aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as http,
        http.get(f"{base}/metrics") as response,
    ):
        text = await response.text()
        assert response.status == 200, text
        assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    values = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    assert len(values) == len(samples), "a sample was told twice"
    return Scrape(text, values)


async def scraped(base: str, condition: Callable[[Scrape], bool], key: str = KEY) -> Scrape:
    """The first scrape of which it holds."""
    found: list[Scrape] = []

    async def holds() -> bool:
        found[:] = [await scrape(base, key)]
        return condition(found[0])

    try:
        await until(holds)
    except TimeoutError:
        raise AssertionError(found[0].text if found else "no answer") from None
    return found[0]
