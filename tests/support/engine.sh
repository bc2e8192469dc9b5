#!/usr/bin/env bash
# Runs a command where `docker` answers.
#
#   tests/support/engine.sh COMMAND…
#
# With an engine that answers already, the command is simply run. Else, as root on Linux with dockerd,
# it gets an engine of its own, in network, mount and process namespaces that both share: no port, no
# bridge, no firewall rule of the machine's is touched, and all of it ends with the command, however that
# ends. There is no way to a registry from there: images.sh loads images made here beforehand.
#
# Exit status: the command's; 77 when no engine can be had, and the reason on standard error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ready_seconds=60

none() { # reason
  echo "No Docker engine: none answers, and none can be started here: $1." >&2
  exit 77
}

start() { # command…: process 1 of the namespaces
  local deadline=$((SECONDS + ready_seconds)) engine log=$folder/dockerd.log
  ip link set lo up
  export DOCKER_HOST=unix://$folder/docker.sock
  # What runs there ends with the engine, and its Redis is that of the image.
  export TESTCONTAINERS_RYUK_DISABLED=true REDIS_IMAGE=${REDIS_IMAGE:-runcast-test/debian}
  dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
    --host "$DOCKER_HOST" --cgroup-parent "$cgroup" >"$log" 2>&1 </dev/null &
  engine=$!
  until docker info >/dev/null 2>&1; do
    kill -0 "$engine" 2>/dev/null || none "dockerd ended: $(tail -n 1 "$log")"
    ((SECONDS < deadline)) || none "dockerd was not ready within $ready_seconds s: $(tail -n 1 "$log")"
    sleep 0.1
  done
  "$here/images.sh" load
  local status=0
  "$@" || status=$?
  kill "$engine" # softly: it takes containers and mounts with it
  wait "$engine" || true
  return "$status"
}

if [[ ${1-} == --within ]]; then
  shift
  start "$@"
  exit
fi

if docker info >/dev/null 2>&1; then exec "$@"; fi
[[ $(uname -s) == Linux ]] || none "that takes Linux"
((EUID == 0)) || none "that takes root"
for program in docker dockerd ip unshare mmdebstrap; do
  command -v "$program" >/dev/null || none "$program is missing"
done
unshare --net --mount --pid --fork true 2>/dev/null || none "this machine gives no namespaces"
"$here/images.sh" prepare

folder=$(mktemp -d "${TMPDIR:-/tmp}/runcast-engine-XXXXXX")
cgroup=${folder##*/}
export folder cgroup
namespaces=
end() {
  [[ -z $namespaces ]] || kill -KILL "$namespaces" 2>/dev/null || true # takes all that is within along
  wait 2>/dev/null || true
  find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null || true
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
unshare --net --mount --pid --fork --kill-child --mount-proc "${BASH_SOURCE[0]}" --within "$@" <&0 &
namespaces=$!
wait "$namespaces"
