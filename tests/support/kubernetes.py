"""The manifests of compose/kubernetes as objects, and what one must do to them to break them."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "compose" / "kubernetes"
ADAPTER = FOLDER / "autoscaling" / "prometheus-adapter.yaml"
EXAMPLE_SECRETS = FOLDER / "example" / "secrets.yaml"
REMOVED = object()
Manifest = dict[str, Any]


def kustomizations() -> list[Path]:
    return sorted(FOLDER.rglob("kustomization.yaml"))


def files() -> list[Path]:
    """Every file of manifests."""
    return [path for path in sorted(FOLDER.rglob("*.yaml")) if path != ADAPTER]


@dataclass
class Installation:
    """All manifests together, the settings of settings.env, the rules of prometheus-adapter."""

    manifests: list[Manifest]
    settings: dict[str, str]
    adapter: dict[str, Any]

    @classmethod
    def shipped(cls) -> "Installation":
        manifests = [
            manifest
            for path in files()
            if path.name != "kustomization.yaml"
            for manifest in yaml.safe_load_all(path.read_text("utf-8"))
        ]
        lines = (FOLDER / "base" / "settings.env").read_text("utf-8").splitlines()
        settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        return cls(manifests, settings, yaml.safe_load(ADAPTER.read_text("utf-8")))

    def all(self, kind: str) -> Iterator[Manifest]:
        return (each for each in self.manifests if each["kind"] == kind)

    def one(self, kind: str, name: str) -> Manifest:
        """KeyError: there is none."""
        for each in self.all(kind):
            if each["metadata"]["name"] == name:
                return each
        raise KeyError(f"{kind} {name}")

    def selected(self, labels: dict[str, str]) -> list[Manifest]:
        """The Deployments whose pods have these labels."""
        return [
            each
            for each in self.all("Deployment")
            if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]

    def broken(self, whose: str, pointer: str, value: Any) -> "Installation":
        """Another one, where ``pointer`` (RFC 6901) of one manifest is ``value`` or gone.

        ``whose``: kind and name, or ``settings`` or ``adapter``.
        """
        other = deepcopy(self)
        kind, _, name = whose.partition(" ")
        place: Any = other.one(kind, name) if name else getattr(other, whose)
        *way, last = [word.replace("~1", "/") for word in pointer.strip("/").split("/")]
        for word in way:
            place = place[int(word) if isinstance(place, list) else word]
        key: Any = int(last) if isinstance(place, list) else last
        if value is REMOVED:
            del place[key]
        else:
            place[key] = value
        return other


def container(deployment: Manifest) -> dict[str, Any]:
    """The only one of its pods."""
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def environment(deployment: Manifest) -> dict[str, str]:
    """What is said in the Deployment itself."""
    return {each["name"]: each["value"] for each in container(deployment)["env"]}


def port_of(deployment: Manifest, name: str) -> int | None:
    """The number of a named port; None: there is no such port."""
    ports = {each["name"]: int(each["containerPort"]) for each in container(deployment)["ports"]}
    return ports.get(name)
