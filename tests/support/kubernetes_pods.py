"""What must hold of the pods of compose/kubernetes: each rule yields what is wrong."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, Final

import typer
from typer.main import get_command

from agents_sdk import execution, service
from broker.config import ENV_PREFIX, Settings, load_settings
from gateway import node, scrape, serve
from gateway.app import create_app
from gateway.cli import program
from tests.support.kubernetes import FOLDER, Installation, Manifest, container, environment, port_of
from tests.support.servers import SECRET

DOCKERFILE: Final = FOLDER.parent / "Dockerfile"
FIELDS: Final = Settings.model_fields
SECRETS: Final = {
    *(name for name, field in FIELDS.items() if "Secret" in str(field.annotation)),
    *(name for name, field in FIELDS.items() if not field.repr),
}
"""Settings that are one, or may hold one."""
BEYOND: Final = {
    "gateway": serve.STOP_MARGIN_SECONDS,
    "worker": execution.GRACE_SECONDS + 3 * service.FLUSH_SECONDS,
}
"""Command → what its process may take after its drain, in seconds."""
STARTING: Final = 4 * node.START_SECONDS
"""The longest that a gateway waits for Redis before it listens, step by step."""


def kind_of(deployment: Manifest) -> str:
    """``gateway`` or ``worker``: the command that it runs."""
    return str(container(deployment)["command"][1])


def drain_seconds(deployment: Manifest) -> int:
    return int(
        environment(deployment).get("RUNCAST_DRAIN_SECONDS", FIELDS["drain_seconds"].default)
    )


def pre_stop_seconds(deployment: Manifest) -> int:
    hook = container(deployment).get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
    return int(hook["sleep"]["seconds"])


def pods(deployment: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


@cache
def paths() -> frozenset[str]:
    """Of a gateway's GET routes."""
    app = create_app(load_settings(redis_url="redis://127.0.0.1", jwt_secret=SECRET))
    return frozenset(
        route.resource.canonical
        for route in app.router.routes()
        if route.method == "GET" and route.resource is not None
    )


@cache
def options() -> dict[str, frozenset[str]]:
    """Command of ``runcast`` → its options."""
    group = get_command(program())
    assert isinstance(group, typer.core.TyperGroup)
    return {
        name: frozenset(option for parameter in command.params for option in parameter.opts)
        for name, command in group.commands.items()
    }


def images(installation: Installation) -> Iterator[str]:
    """They are that of compose/Dockerfile, run as its user."""
    text = DOCKERFILE.read_text("utf-8")
    made = re.findall(r"^#   docker build .* --tag (\S+)", text, re.MULTILINE)
    (user,) = re.findall(r"^USER (\d+:\d+)$", text, re.MULTILINE)
    for each in installation.all("Deployment"):
        image = container(each)["image"].partition(":")[0]
        if image not in made:
            yield f"nobody makes an image {image}"
        own = pods(each)["securityContext"]
        if f"{own['runAsUser']}:{own['runAsGroup']}" != user:
            yield f"the image is made for {user}"


def grace(installation: Installation) -> Iterator[str]:
    """Nobody is killed before it has drained."""
    for each in installation.all("Deployment"):
        needed = pre_stop_seconds(each) + drain_seconds(each) + BEYOND.get(kind_of(each), 0)
        if pods(each)["terminationGracePeriodSeconds"] < needed:
            yield f"killed before the {needed:g} s that it needs"


def rollout(installation: Installation) -> Iterator[str]:
    """A new one is there before an old one goes; gateways go one after the other."""
    for each in installation.all("Deployment"):
        rolling = each["spec"]["strategy"]["rollingUpdate"]
        if rolling["maxUnavailable"] != 0 or rolling["maxSurge"] in (0, "0%"):
            yield "there are fewer than wanted during a rollout"
    gateway = installation.one("Deployment", "runcast-gateway")
    if gateway["spec"]["minReadySeconds"] < pre_stop_seconds(gateway) + drain_seconds(gateway):
        yield "two gateways send their clients away at the same time"
    if pre_stop_seconds(gateway) < 1:
        yield "a gateway refuses clients that nodes still send to it"


def probes(installation: Installation) -> Iterator[str]:
    """Something answers where it is asked."""
    for each in installation.all("Deployment"):
        is_worker = kind_of(each) == "worker"
        asked = {
            name: container(each).get(f"{name}Probe")
            for name in ("startup", "liveness", "readiness")
        }
        for name, probe in asked.items():
            if probe is None:
                if not is_worker or name == "readiness":
                    yield f"no {name}Probe"
                continue
            if probe["httpGet"]["path"] not in ({scrape.PATH} if is_worker else paths()):
                yield f"nothing answers at {probe['httpGet']['path']}"
            if port_of(each, probe["httpGet"]["port"]) is None:
                yield f"no port {probe['httpGet']['port']}"
            if name == "startup" and probe["periodSeconds"] * probe["failureThreshold"] < STARTING:
                yield "restarted while it waits for Redis"
            if name == "readiness" and not is_worker and probe["httpGet"]["path"] != "/readyz":
                yield "clients are sent to gateways that drain"
        name = "worker_metrics_port" if is_worker else "port"
        listens = environment(each).get(f"{ENV_PREFIX}{name.upper()}", FIELDS[name].default)
        if str(listens) not in {str(port["containerPort"]) for port in container(each)["ports"]}:
            yield f"it listens on {listens}, which is none of its ports"


def settings(installation: Installation) -> Iterator[str]:
    """Every name is a setting, each is where it belongs, and no secret stands in the open."""
    deployments = list(installation.all("Deployment"))
    secrets = list(installation.all("Secret"))
    in_the_open = list(chain(installation.settings, *map(environment, deployments)))
    for name in (*in_the_open, *chain(*(each["stringData"] for each in secrets))):
        if not name.startswith(ENV_PREFIX) or name[len(ENV_PREFIX) :].lower() not in FIELDS:
            yield f"there is no setting {name}"
    for name in in_the_open:
        if name.removeprefix(ENV_PREFIX).lower() in SECRETS:
            yield f"{name} stands in the open"
    for each in deployments:
        # Kubernetes would put NAME_PORT and others of each Service into the environment.
        if pods(each).get("enableServiceLinks", True):
            yield "Services become settings"
        sources = {
            key: value["name"]
            for source in container(each)["envFrom"]
            for key, value in source.items()
        }
        if sources["configMapRef"] != "runcast-settings":
            yield "it reads other settings"
        if sources["secretRef"] not in {secret["metadata"]["name"] for secret in secrets}:
            yield f"no example of the Secret {sources['secretRef']}"


def commands(installation: Installation) -> Iterator[str]:
    """What is started is there, and takes what it is given."""
    for each in installation.all("Deployment"):
        name, command, *words = container(each)["command"]
        if name != "runcast" or command not in options():
            yield f"there is no command {name} {command}"
        known = options().get(command, frozenset())
        for word in words:
            if word.startswith("-") and word not in known:
                yield f"runcast {command} has no {word}"


def security(installation: Installation) -> Iterator[str]:
    """As the Pod Security Standard ``restricted`` says, and no token."""
    for each in installation.all("Deployment"):
        pod, own = pods(each)["securityContext"], container(each)["securityContext"]
        if not pod["runAsNonRoot"] or pod["runAsUser"] == 0:
            yield "it is root"
        if pod["seccompProfile"]["type"] != "RuntimeDefault":
            yield "every system call is allowed"
        if own["allowPrivilegeEscalation"] or own["capabilities"] != {"drop": ["ALL"]}:
            yield "it has rights that it does not need"
        if not own["readOnlyRootFilesystem"]:
            yield "it can change its own programs"
        account = installation.one("ServiceAccount", pods(each)["serviceAccountName"])
        if account["automountServiceAccountToken"] or pods(each)["automountServiceAccountToken"]:
            yield "it has a token of the cluster"
