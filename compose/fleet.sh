#!/usr/bin/env bash
# A fleet on this machine: one Redis, three gateways, two workers, each a process of its own, started
# by the same commands as in production. Ctrl-C drains and stops all of it.
#
#   compose/fleet.sh [MODULE:WORKER]        default: agents_sdk.demo:worker
#
#   FLEET_PORTS="8081 8082 8083"            one gateway on each
#   FLEET_WORKERS=2
#   FLEET_RUNCAST="runcast"                 default: .venv/bin/runcast of this checkout, or runcast on PATH
#   RUNCAST_…                               settings for all processes; RUNCAST_REDIS_URL: use that Redis
#
# Its own Redis has the three users of compose/redis/users.acl, each with a new password.
set -euo pipefail

target=${1:-agents_sdk.demo:worker}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
read -ra ports <<<"${FLEET_PORTS:-8081 8082 8083}"
workers=${FLEET_WORKERS:-2}
ready_seconds=60 # of a part; a machine that has much to do takes its time

if [[ -n ${FLEET_RUNCAST:-} ]]; then
  read -ra runcast <<<"$FLEET_RUNCAST"
elif [[ -x $root/.venv/bin/runcast ]]; then
  runcast=("$root/.venv/bin/runcast")
elif command -v runcast >/dev/null; then
  runcast=(runcast)
else
  echo "There is no runcast here. Install it first: make -C $root run ARGS=--once" >&2
  exit 1
fi

export RUNCAST_JWT_SECRET=${RUNCAST_JWT_SECRET:-$(head -c 48 /dev/urandom | base64 -w 0)}
export RUNCAST_OPERATOR_KEY=${RUNCAST_OPERATOR_KEY:-$(head -c 24 /dev/urandom | base64 -w 0)}
export RUNCAST_DRAIN_SECONDS=${RUNCAST_DRAIN_SECONDS:-5}

folder=$(mktemp -d "${TMPDIR:-/tmp}/runcast-fleet-XXXXXX")
redis_pid=
declare -A names=()

set -m # each process is a job of its own, so that Ctrl-C reaches only this script
tether=()
if setpriv --pdeathsig TERM true 2>/dev/null; then
  tether=(setpriv --pdeathsig TERM) # should this script be killed, they end as well
fi

start() { # name, arguments of runcast: sets $started
  local name=$1
  shift
  "${tether[@]}" "${runcast[@]}" "$@" >"$folder/$name.out" 2>"$folder/$name.log" </dev/null &
  started=$!
}

stop_all() {
  trap '' INT TERM
  echo
  echo "Draining …"
  if ((${#names[@]})); then
    kill -TERM "${!names[@]}" 2>/dev/null || true
    for pid in "${!names[@]}"; do wait "$pid" 2>/dev/null || true; done
  fi
  if [[ -n $redis_pid ]]; then # last: what drains still writes to it
    kill -TERM "$redis_pid" 2>/dev/null || true
    wait "$redis_pid" 2>/dev/null || true
  fi
  rm -rf "$folder"
  echo "All stopped."
}

fail() { # name, what it does not do
  echo "$1 ${2:-does not run}. It wrote:" >&2
  tail -q -n 15 "$folder/$1.out" "$folder/$1.log" >&2
  exit 1
}

await() { # name, pid, condition…; whichever part has ended meanwhile is the one to tell of
  local name=$1 pid=$2 each deadline=$((SECONDS + ready_seconds))
  shift 2
  until "$@"; do
    for each in "$pid" "${!names[@]}"; do
      kill -0 "$each" 2>/dev/null || fail "${names[$each]:-$name}"
    done
    ((SECONDS < deadline)) || fail "$name" "is not ready after $ready_seconds s"
    sleep 0.1
  done
}

answers_ready() { # port: GET /readyz is 200; another program may hold the port, and say nothing
  local status=
  { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  read -t 2 -r status <&3 || true
  exec 3>&-
  [[ $status == *" 200 "* ]]
}

guard() { # port: gives the server its users, and sets $gateway_url, $sweeper_url and $worker_url
  local line user password reply
  exec 3<>"/dev/tcp/127.0.0.1/$1"
  while read -r line; do
    read -r _ user _ <<<"$line"
    password=$(head -c 24 /dev/urandom | base64 -w 0 | tr '+/' '-_')
    line=${line#user }
    printf 'ACL SETUSER %s\r\n' "${line/>*_PASSWORD/>$password}" >&3
    read -t "$ready_seconds" -r reply <&3 || reply="no answer within $ready_seconds s"
    [[ $reply == +OK* ]] || {
      echo "Redis refused the rights of $user: $reply" >&2
      exit 1
    }
    declare -g "${user}_url=redis://$user:$password@127.0.0.1:$1/0"
  done <"$root/compose/redis/users.acl"
  exec 3>&-
}

trap stop_all EXIT
trap 'exit 0' INT TERM

if [[ -z ${RUNCAST_REDIS_URL:-} ]]; then
  start redis redis --port 0 --data-dir "$folder/data"
  redis_pid=$started
  await redis "$redis_pid" test -s "$folder/redis.out"
  address=$(head -n 1 "$folder/redis.out")
  port=${address##*:}
  guard "${port%%/*}"
  echo "redis      $address   pid $redis_pid"
else
  gateway_url=$RUNCAST_REDIS_URL worker_url=$RUNCAST_REDIS_URL sweeper_url=${RUNCAST_SWEEPER_REDIS_URL:-}
  echo "redis      given by RUNCAST_REDIS_URL"
fi

export RUNCAST_REDIS_URL=$gateway_url RUNCAST_SWEEPER_REDIS_URL=$sweeper_url
for port in "${ports[@]}"; do
  start "gateway-$port" gateway --host 127.0.0.1 --port "$port"
  names[$started]="gateway-$port"
done
export RUNCAST_REDIS_URL=$worker_url RUNCAST_SWEEPER_REDIS_URL=
for ((number = 1; number <= workers; number++)); do
  start "worker-$number" worker "$target"
  names[$started]="worker-$number"
done
for pid in "${!names[@]}"; do
  name=${names[$pid]}
  if [[ $name == gateway-* ]]; then
    await "$name" "$pid" answers_ready "${name#gateway-}"
  else
    await "$name" "$pid" test -s "$folder/$name.out"
  fi
done
for pid in $(printf '%s\n' "${!names[@]}" | sort -n); do
  name=${names[$pid]}
  if [[ $name == gateway-* ]]; then
    echo "gateway    ws://127.0.0.1:${name#gateway-}/ws   pid $pid"
  else
    echo "worker     $(head -n 1 "$folder/$name.out")   pid $pid"
  fi
done

cat <<END

logs       $folder
For another terminal:
  export RUNCAST_JWT_SECRET='$RUNCAST_JWT_SECRET'
  export RUNCAST_OPERATOR_KEY='$RUNCAST_OPERATOR_KEY'
  ${runcast[*]} chat --url ws://127.0.0.1:${ports[0]}/ws --user alice "12 15 11"
  ${runcast[*]} tail --url ws://127.0.0.1:${ports[-1]}/ws --user alice
A token for alice, valid for an hour:
$("${runcast[@]}" token --user alice)
Ctrl-C drains and stops all of it.
END

ended=
wait -n -p ended "${!names[@]}" ${redis_pid:+"$redis_pid"} || true
fail "${names[$ended]:-redis}"
