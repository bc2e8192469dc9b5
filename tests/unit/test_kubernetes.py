"""The manifests of compose/kubernetes: by the schemas of Kubernetes, and by what Runcast needs."""

import shutil
import subprocess
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has none
import pytest
import yaml

from broker.config import load_settings
from broker.errors import ConfigurationError
from compose.kubernetes.alerts import RULES as ALERTS
from tests.support.kubernetes import (
    EXAMPLE_SECRETS,
    FOLDER,
    REMOVED,
    Installation,
    Manifest,
    environment,
    files,
    kustomizations,
)
from tests.support.kubernetes_fleet import RULES, faults

VERSIONS = ("1.30", "1.34", "1.37")
"""The oldest that knows all that is used (a preStop that sleeps), to the newest."""
FOREIGN = {
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
}
"""Kinds that are not Kubernetes' own."""
SHIPPED = Installation.shipped()
GATEWAY, WORKER = "Deployment runcast-gateway", "Deployment runcast-worker"
SCALER, WORKERS = (
    f"HorizontalPodAutoscaler {name}" for name in ("runcast-gateway", "runcast-worker")
)
BUDGET, MONITOR = "PodDisruptionBudget runcast-gateway", "PodMonitor runcast-gateway"
KEYS, SECRET = "Secret runcast-gateway", "Secret runcast-worker"
INGRESS, ROUTE = "Ingress runcast", "HTTPRoute runcast"
CLOSED, REDIS = "NetworkPolicy runcast-nothing-else", "NetworkPolicy runcast-redis"
POD = "/spec/template/spec"
FIRST = f"{POD}/containers/0"
ROLLING = "/spec/strategy/rollingUpdate"
SHRINK = "/spec/behavior/scaleDown"
BACKEND = "/spec/rules/0/http/paths/0/backend"
LABEL = "/matchLabels/app.kubernetes.io~1name"
NGINX = "/metadata/annotations/nginx.ingress.kubernetes.io~1"


def named(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", SHIPPED.manifests, ids=named)
def test_a_manifest_is_as_its_schema_says_and_has_nothing_beyond(
    manifest: Manifest, version: str
) -> None:
    if manifest["kind"] in FOREIGN:
        assert manifest["apiVersion"] == FOREIGN[manifest["kind"]]
        return
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_what_no_schema_knows_is_found() -> None:
    wrong = SHIPPED.broken(GATEWAY, f"{POD}/terminationGracePeriod", 45).one(*GATEWAY.split())
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_all_rules_hold() -> None:
    assert faults(SHIPPED) == []


BROKEN = [
    (GATEWAY, f"{FIRST}/image", "runcast-gateway:3.0.0", "images: nobody makes an image"),
    (WORKER, f"{POD}/securityContext/runAsGroup", 999, "images: the image is made for"),
    (GATEWAY, f"{POD}/terminationGracePeriodSeconds", 44, "grace: killed before the 45 s"),
    (GATEWAY, f"{FIRST}/env/0/value", "31", "grace: killed before the 46 s"),
    (WORKER, f"{POD}/terminationGracePeriodSeconds", 130, "grace: killed before the 140 s"),
    (GATEWAY, f"{ROLLING}/maxUnavailable", 1, "rollout: there are fewer than wanted"),
    (WORKER, f"{ROLLING}/maxSurge", 0, "rollout: there are fewer than wanted"),
    (GATEWAY, "/spec/minReadySeconds", 34, "rollout: two gateways send their clients away"),
    (GATEWAY, f"{FIRST}/lifecycle", REMOVED, "rollout: a gateway refuses clients"),
    (GATEWAY, f"{FIRST}/livenessProbe/httpGet/path", "/healthz", "probes: nothing answers at"),
    (GATEWAY, f"{FIRST}/readinessProbe/httpGet/path", "/livez", "probes: clients are sent to"),
    (GATEWAY, f"{FIRST}/startupProbe", REMOVED, "probes: no startupProbe"),
    (GATEWAY, f"{FIRST}/startupProbe/failureThreshold", 19, "probes: restarted while it waits"),
    (GATEWAY, f"{FIRST}/livenessProbe/httpGet/port", "web", "probes: no port web"),
    (GATEWAY, f"{FIRST}/ports/0/containerPort", 8000, "probes: it listens on 8080"),
    (WORKER, f"{FIRST}/env/1/value", "9109", "probes: it listens on 9109"),
    (WORKER, f"{FIRST}/readinessProbe", REMOVED, "probes: no readinessProbe"),
    ("settings", "/RUNCAST_DRAIN", "5", "settings: there is no setting RUNCAST_DRAIN"),
    ("settings", "/RUNCAST_WORKER_KEY", "k", "settings: RUNCAST_WORKER_KEY stands in the open"),
    ("settings", "/RUNCAST_REDIS_URL", "u", "settings: RUNCAST_REDIS_URL stands in the open"),
    (GATEWAY, f"{FIRST}/env/0/name", "DRAIN", "settings: there is no setting DRAIN"),
    (SECRET, "/stringData/RUNCAST_REDIS", "", "settings: there is no setting RUNCAST_REDIS"),
    (WORKER, f"{POD}/enableServiceLinks", REMOVED, "settings: Services become settings"),
    (WORKER, f"{FIRST}/envFrom/0/configMapRef/name", "s", "settings: it reads other settings"),
    (WORKER, f"{FIRST}/envFrom/1/secretRef/name", "s", "settings: no example of the Secret s"),
    (GATEWAY, f"{FIRST}/command/1", "serve", "commands: there is no command runcast serve"),
    (WORKER, f"{FIRST}/command/3", "--slots", "commands: runcast worker has no --slots"),
    (GATEWAY, f"{POD}/securityContext/runAsUser", 0, "security: it is root"),
    (GATEWAY, f"{POD}/securityContext/seccompProfile/type", "Unconfined", "security: every"),
    (GATEWAY, f"{FIRST}/securityContext/capabilities", {}, "security: it has rights"),
    (WORKER, f"{FIRST}/securityContext/readOnlyRootFilesystem", False, "security: it can change"),
    (WORKER, f"{POD}/automountServiceAccountToken", True, "security: it has a token"),
    (BUDGET, "/spec/maxUnavailable", 0, "disruption: no node can be emptied"),
    (BUDGET, "/spec/minAvailable", 3, "disruption: no node can be emptied"),
    (BUDGET, "/spec/maxUnavailable", 3, "disruption: all may be taken at once"),
    (BUDGET, f"/spec/selector{LABEL}", "other", "disruption: 0 budgets for one Deployment"),
    (BUDGET, "/spec/unhealthyPodEvictionPolicy", "", "disruption: no node can be emptied while"),
    (SCALER, "/spec/metrics/0/pods/metric/name", "runcast_sockets", "metrics: nobody tells"),
    (WORKERS, "/spec/metrics/0/external/metric/name", "runs", "metrics: nobody tells runs"),
    ("adapter", "/rules/custom/0/seriesQuery", "runcast_sockets{}", "metrics: runcast_connections"),
    ("adapter", "/rules/external/0/metricsQuery", "sum(runcast_queue)", "metrics: runcast_runs_w"),
    (SCALER, f"{SHRINK}/policies/0/periodSeconds", 30, "shrinking: it shrinks faster than one"),
    (WORKERS, f"{SHRINK}/policies/0/value", 2, "shrinking: it shrinks faster than one drains"),
    (SCALER, f"{SHRINK}/stabilizationWindowSeconds", 60, "shrinking: it shrinks at once"),
    (SCALER, "/spec/metrics/0/pods/target/averageValue", "12000", "sizes: too many for the others"),
    (GATEWAY, f"{FIRST}/resources/requests/memory", "96Mi", "sizes: 10000 connections take"),
    (GATEWAY, f"{FIRST}/resources/limits/memory", "192Mi", "sizes: slow clients have no room"),
    (GATEWAY, f"{FIRST}/resources/limits/cpu", "1", "sizes: gateways are throttled"),
    (WORKER, f"{FIRST}/command/4", "70", "sizes: workers are full before there are more"),
    (GATEWAY, f"/spec/selector{LABEL}", "other", "selectors: a Deployment does not know its own"),
    (GATEWAY, f"{POD}/topologySpreadConstraints/1", REMOVED, "selectors: all of them may be on"),
    ("Service runcast-gateway", "/spec/ports/0/targetPort", "web", "selectors: no pod has a port"),
    (MONITOR, "/spec/podMetricsEndpoints/0/port", "web", "selectors: no pod has a port web"),
    (MONITOR, "/spec/podMetricsEndpoints/0/path", "/", "selectors: no metrics at /"),
    (INGRESS, f"{BACKEND}/service/name", "runcast", "entrances: the Ingress leads elsewhere"),
    (INGRESS, f"{NGINX}proxy-read-timeout", "30", "entrances: proxy-read-timeout cuts"),
    (ROUTE, "/spec/rules/0/backendRefs/0/port", 8080, "entrances: the HTTPRoute leads elsewhere"),
    (ROUTE, "/spec/rules/0/timeouts/request", "60s", "entrances: the HTTPRoute cuts sockets"),
    (MONITOR, "/spec/jobLabel", "app", "monitoring: no job runcast-gateway"),
    (KEYS, "/stringData/RUNCAST_METRICS_KEY", REMOVED, "monitoring: the Secret has no"),
    (CLOSED, "/spec/policyTypes", ["Ingress"], "network: what is not said is allowed"),
    (CLOSED, f"/spec/podSelector{LABEL}", "runcast-worker", "network: some pods are not closed"),
    (REDIS, "/spec/ingress/0/from/0", {"podSelector": {}}, "network: others reach Redis"),
    (REDIS, "/spec/ingress/0/from/0/namespaceSelector", {}, "network: others reach Redis"),
    (REDIS, "/spec/ingress/1/from", REMOVED, "network: others reach Redis"),
]  # fmt: skip
"""Whose, where, what else stands there: and what the rules say then."""


@pytest.mark.parametrize(
    ("whose", "pointer", "value", "fault"), BROKEN, ids=[each[3] for each in BROKEN]
)
def test_a_rule_that_is_broken_is_told(whose: str, pointer: str, value: Any, fault: str) -> None:
    found = faults(SHIPPED.broken(whose, pointer, value))
    assert any(each.startswith(fault) for each in found), found


def test_every_rule_has_been_seen_to_be_broken() -> None:
    assert {fault.partition(":")[0] for *_, fault in BROKEN} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize("name", ["runcast-gateway", "runcast-worker"])
def test_a_deployment_starts_with_real_secrets_and_not_with_those_of_the_example(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {**SHIPPED.settings, **environment(SHIPPED.one("Deployment", name))}
    secret = SHIPPED.one("Secret", name)["stringData"]
    for key, value in said.items():
        monkeypatch.setenv(key, value)
    assert load_settings().host == "0.0.0.0"
    for key, value in secret.items():
        monkeypatch.setenv(key, value.replace("CHANGE", "x" * 40))
    load_settings()
    if name == "runcast-gateway":
        for key, value in secret.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(ConfigurationError, match="KEY"):
            load_settings()


def test_every_file_is_in_a_kustomization_but_for_the_secrets() -> None:
    listed = {
        (path.parent / name).resolve()
        for path in kustomizations()
        for name in yaml.safe_load(path.read_text("utf-8"))["resources"]
        if name.endswith(".yaml")
    }
    assert listed == {*files()} - {*kustomizations(), EXAMPLE_SECRETS}


def test_the_operator_gets_the_alerts_that_prometheus_gets() -> None:
    (made,) = SHIPPED.all("PrometheusRule")
    assert made["spec"] == yaml.safe_load(ALERTS.read_text("utf-8"))


def test_the_example_is_built_with_all_of_it() -> None:
    """By kustomize itself, where there is one that knows components."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH")
    done = subprocess.run(
        [kubectl, "kustomize", FOLDER / "example"], capture_output=True, text=True, check=False
    )
    if "components" in done.stderr and done.returncode:
        pytest.skip(f"kubectl is too old for components: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    built = {named(each): each for each in yaml.safe_load_all(done.stdout)}
    wanted = {
        named(each) for each in SHIPPED.manifests if each["kind"] not in ("Secret", "HTTPRoute")
    }
    (settings,) = (each for each in built.values() if each["kind"] == "ConfigMap")
    assert built.keys() - {named(settings)} == wanted
    assert settings["data"].keys() > SHIPPED.settings.keys()
    for each in built.values():
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "runcast"
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    deployment = built[GATEWAY]["spec"]
    assert "replicas" not in deployment
    (pod,) = deployment["template"]["spec"]["containers"]
    assert pod["envFrom"][0] == {"configMapRef": {"name": settings["metadata"]["name"]}}
