#!/usr/bin/env bash
# The secrets of compose/docker-compose.yml, in compose/secrets, or the folder that SECRETS names:
#
#   keys/…                  each a new random one, kept when it is there
#   *.toml, *.acl, *.conf   made of them anew each time, as the containers read them
#
# To change one, delete it below keys/, run this again and start the containers anew. Nobody but you
# can enter the folder; the files in it are for the users of the containers.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${SECRETS:-$here/secrets}
umask 022
mkdir -p "$folder/keys"
chmod 700 "$folder"

key() { # name: its secret, without a newline at the end
  local file=$folder/keys/$1
  [[ -s $file ]] || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file"
  cat "$file"
}

hashed() { key "$1" | sha256sum | cut -d' ' -f1; } # name: for Redis, which needs no more

write() { cat >"$folder/$1"; } # name: what comes in, into the same file, for mounts of it

runcast() { # user, scheme, servers: the settings with a password in them
  echo "redis_url = \"$2://$1:$(key "redis_$1")@$3\""
  [[ $1 == gateway ]] || return 0
  echo "sweeper_redis_url = \"$2://sweeper:$(key redis_sweeper)@$3\""
  echo "jwt_secret = \"$(key jwt_secret)\""
  echo "operator_key = \"$(key operator_key)\""
  echo "worker_key = \"$(key worker_key)\""
  echo "metrics_key = \"$(key runcast_metrics_key)\""
}

for role in gateway worker; do
  runcast "$role" redis redis:6379 | write "$role.toml"
  runcast "$role" redis+sentinel sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/runcast |
    write "$role-sentinel.toml"
done

{
  while read -r line; do
    read -r _ role _ <<<"$line"
    hash=
    [[ $line != *_PASSWORD* ]] || hash=$(hashed "redis_$role")
    echo "${line/>*_PASSWORD/#$hash}"
  done <"$here/redis/users.acl"
  echo "user admin on #$(hashed redis_admin) ~* &* +@all"
  echo "user replica on #$(hashed redis_replica) +ping +psync +replconf"
  echo "user sentinel on #$(hashed redis_sentinel) allchannels +multi +exec +slaveof +ping +info +role +publish +subscribe" \
    "+config|rewrite +client|setname +client|kill +script|kill"
  echo "user health on nopass +ping"
} | write redis_users.acl

write redis_replication.conf <<END
masteruser replica
masterauth $(key redis_replica)
END

write sentinel.conf <<END
port 26379
dir /data
sentinel monitor runcast MASTER 6379 2
sentinel auth-user runcast sentinel
sentinel auth-pass runcast $(key redis_sentinel)
sentinel down-after-milliseconds runcast 5000
sentinel failover-timeout runcast 30000
END
key grafana_admin_password >/dev/null
echo "Secrets in $folder."
