"""What must hold of compose/kubernetes between its parts: each rule yields what is wrong."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

from broker.config import Settings
from docs import generate
from docs.capacity import Costs
from gateway import scrape
from tests.support import kubernetes_pods
from tests.support.kubernetes import Installation, Manifest, container, port_of
from tests.support.kubernetes_pods import drain_seconds, pods, pre_stop_seconds
from tests.support.promql import mistakes, row_of, rules_of

UNDERESTIMATED: Final = 1.36
"""How much more a gateway's memory may be than the model says: tests/unit/test_capacity.py."""
UNITS: Final = {"Mi": 2**20, "Gi": 2**30}
HEARTBEAT_SECONDS: Final = int(Settings.model_fields["heartbeat_seconds"].default)


@cache
def costs() -> Costs:
    return Costs.of(json.loads(generate.BENCHMARK.read_text("utf-8"))["scenarios"])


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def scaler_of(installation: Installation, deployment: Manifest) -> dict[str, Any]:
    name = deployment["metadata"]["name"]
    spec: dict[str, Any] = installation.one("HorizontalPodAutoscaler", name)["spec"]
    return spec


def labels_of(policy: Manifest) -> dict[str, str]:
    """Of the pods that it is about."""
    spec = policy["spec"]
    labels: dict[str, str] = spec.get("selector", spec.get("podSelector", {}))["matchLabels"]
    return labels


def disruption(installation: Installation) -> Iterator[str]:
    """A node can be emptied, and not all pods may go at once."""
    for each in installation.all("Deployment"):
        about = [
            budget["spec"]
            for budget in installation.all("PodDisruptionBudget")
            if each in installation.selected(labels_of(budget))
        ]
        if len(about) != 1:
            yield f"{len(about)} budgets for one Deployment"
            continue
        least = min(scaler_of(installation, each)["minReplicas"], each["spec"]["replicas"])
        kept = about[0].get("minAvailable", least - about[0].get("maxUnavailable", 0))
        if kept >= least:
            yield "no node can be emptied"
        if kept < 1:
            yield "all may be taken at once"
        if about[0]["unhealthyPodEvictionPolicy"] != "AlwaysAllow":
            yield "no node can be emptied while Redis is away"


def metrics(installation: Installation) -> Iterator[str]:
    """What the autoscalers ask is told by the adapter's rules, of metrics that there are."""
    rules = installation.adapter["rules"]
    names = {kind: {rule["name"]["as"] for rule in rules[kind]} for kind in ("custom", "external")}
    for rule in (*rules["custom"], *rules["external"]):
        series = rule["seriesQuery"].partition("{")[0]
        query = rule["metricsQuery"].replace("<<.Series>>", series)
        for each in (
            series,
            query.replace("by (<<.GroupBy>>)", "").replace("{<<.LabelMatchers>>}", ""),
        ):
            yield from (f"{rule['name']['as']}: {mistake}" for mistake in mistakes(each))
    for scaler in installation.all("HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Pods":
                name = metric["pods"]["metric"]["name"]
                row = row_of(name)
                if name not in names["custom"] or row is None or row.kind != "gauge":
                    yield f"nobody tells {name} of a pod"
            elif metric["type"] == "External":
                name = metric["external"]["metric"]["name"]
                if name not in names["external"]:
                    yield f"nobody tells {name}"


def shrinking(installation: Installation) -> Iterator[str]:
    """One after the other, and not for a short lull."""
    for each in installation.all("Deployment"):
        down = scaler_of(installation, each)["behavior"]["scaleDown"]
        (policy,) = down["policies"]
        drained = pre_stop_seconds(each) + drain_seconds(each)
        if policy["type"] != "Pods" or policy["value"] > 1 or policy["periodSeconds"] < drained:
            yield "it shrinks faster than one drains"
        if down["stabilizationWindowSeconds"] < 300:
            yield "it shrinks at once"


def sizes(installation: Installation) -> Iterator[str]:
    """Of a gateway by what a connection costs, of a worker by its places."""
    gateway = installation.one("Deployment", "runcast-gateway")
    scaler, resources = scaler_of(installation, gateway), container(gateway)["resources"]
    connections = int(scaler["metrics"][0]["pods"]["target"]["averageValue"])
    least = int(scaler["minReplicas"])
    if connections * least / (least - 1) > costs().most_connections:
        yield "too many for the others when one is lost"
    needed = (costs().process_bytes + connections * costs().connection_bytes) * UNDERESTIMATED
    if bytes_of(resources["requests"]["memory"]) < needed:
        yield f"{connections} connections take {needed / 2**20:.0f} MB"
    if bytes_of(resources["limits"]["memory"]) < 2 * needed:
        yield "slow clients have no room"
    if "cpu" in resources["limits"]:
        yield "gateways are throttled"
    worker = installation.one("Deployment", "runcast-worker")
    *_, option, places = container(worker)["command"]
    wanted = scaler_of(installation, worker)["metrics"][0]["external"]["target"]["averageValue"]
    if option == "--concurrency" and int(wanted) >= int(places):
        yield "workers are full before there are more"


def selectors(installation: Installation) -> Iterator[str]:
    """What is about pods is about some that there are, and about ports that they have."""
    for each in installation.all("Deployment"):
        if each not in installation.selected(each["spec"]["selector"]["matchLabels"]):
            yield "a Deployment does not know its own pods"
        spread = {
            constraint["topologyKey"]
            for constraint in pods(each)["topologySpreadConstraints"]
            if each in installation.selected(constraint["labelSelector"]["matchLabels"])
        }
        if spread != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield "all of them may be on one node"
    for service in installation.all("Service"):
        ports = [port["targetPort"] for port in service["spec"]["ports"]]
        yield from _unless_there(installation, service["spec"]["selector"], ports)
    for monitor in installation.all("PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        yield from _unless_there(installation, labels_of(monitor), [endpoint["port"]])
        if endpoint["path"] != scrape.PATH:
            yield f"no metrics at {endpoint['path']}"


def _unless_there(
    installation: Installation, labels: dict[str, str], ports: list[str]
) -> Iterator[str]:
    chosen = installation.selected(labels)
    for port in ports:
        if not chosen or any(port_of(each, port) is None for each in chosen):
            yield f"no pod has a port {port}"


def entrances(installation: Installation) -> Iterator[str]:
    """They lead to the Service, and let a socket be silent as long as a heartbeat takes."""
    service = installation.one("Service", "runcast-gateway")
    name, (port,) = service["metadata"]["name"], service["spec"]["ports"]
    ingress = installation.one("Ingress", "runcast")
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    if backend["service"] != {"name": name, "port": {"name": port["name"]}}:
        yield "the Ingress leads elsewhere"
    for word in ("read", "send"):
        said = ingress["metadata"]["annotations"][
            f"nginx.ingress.kubernetes.io/proxy-{word}-timeout"
        ]
        if int(said) < 2 * HEARTBEAT_SECONDS:
            yield f"proxy-{word}-timeout cuts silent sockets"
    (rule,) = installation.one("HTTPRoute", "runcast")["spec"]["rules"]
    if rule["backendRefs"] != [{"name": name, "port": port["port"]}]:
        yield "the HTTPRoute leads elsewhere"
    if rule["timeouts"] != {"request": "0s", "backendRequest": "0s"}:
        yield "the HTTPRoute cuts sockets"


def monitoring(installation: Installation) -> Iterator[str]:
    """Alerts name jobs, which are labels of the pods here; the key is the gateways' own."""
    jobs = {
        chosen["spec"]["template"]["metadata"]["labels"].get(monitor["spec"]["jobLabel"])
        for monitor in installation.all("PodMonitor")
        for chosen in installation.selected(labels_of(monitor))
    }
    queries = " ".join(rule["expr"] for rule in rules_of(generate.ALERTS))
    for job in re.findall(r'job="([^"]+)"', queries):
        if job not in jobs:
            yield f"no job {job}"
    monitor = installation.one("PodMonitor", "runcast-gateway")
    key = monitor["spec"]["podMetricsEndpoints"][0]["authorization"]["credentials"]
    if key["key"] not in installation.one("Secret", key["name"])["stringData"]:
        yield f"the Secret has no {key['key']}"


def network(installation: Installation) -> Iterator[str]:
    """What is not said is refused, and nobody else reaches Redis."""
    closed = installation.one("NetworkPolicy", "runcast-nothing-else")
    if closed["spec"]["policyTypes"] != ["Ingress", "Egress"] or "ingress" in closed["spec"]:
        yield "what is not said is allowed"
    if installation.selected(labels_of(closed)) != [*installation.all("Deployment")]:
        yield "some pods are not closed off"
    redis = installation.one("NetworkPolicy", "runcast-redis")
    for rule in redis["spec"]["ingress"]:
        for peer in rule.get("from", [{}]):
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            ours = labels == labels_of(redis) or len(installation.selected(labels)) == 1
            if not ours or peer.keys() != {"podSelector"}:
                yield "others reach Redis"


RULES: Final[tuple[Callable[[Installation], Iterator[str]], ...]] = (
    kubernetes_pods.images, kubernetes_pods.grace, kubernetes_pods.rollout, kubernetes_pods.probes,
    kubernetes_pods.settings, kubernetes_pods.commands, kubernetes_pods.security,
    disruption, metrics, shrinking, sizes, selectors, entrances, monitoring, network,
)  # fmt: skip


def faults(installation: Installation) -> list[str]:
    """RULE: what is wrong."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(installation)]
