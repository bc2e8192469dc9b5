#!/usr/bin/env bash
# What the tests of Docker need where no registry is reachable: an image, runcast-test/debian, with
# the distribution's own Python, Redis, HAProxy and Prometheus, and another, runcast-test/build, with
# Python, a compiler and the wheels that Runcast's image is built from. Folders and owners are laid
# out as the official images have them.
#
#   tests/support/images.sh prepare      make its parts, in build/images; needs a Debian mirror and PyPI
#   tests/support/images.sh load         into the engine that answers; needs no network
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
parts=build/images
version=$(sha256sum "${BASH_SOURCE[0]}" | head -c 12)
system=$parts/debian-$version.tar
builder=$parts/build-$version.tar
packages=$parts/packages-$(cat pyproject.toml constraints.txt "${BASH_SOURCE[0]}" | sha256sum | head -c 12)
python=${PYTHON:-python3}
[[ ! -x .venv/bin/python ]] || python=.venv/bin/python

debian() { # tar packages option…
  [[ ! -s $1 ]] || return 0
  echo "Making a Debian of packages: some 40 seconds …" >&2
  local tar=$1 packages=$2 work=$parts
  rm -f "${tar%-*}"-*
  [[ ! -w /dev/shm ]] || work=/dev/shm # without waiting for the disk after each package
  TMPDIR=$work mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/javascript/*' --dpkgopt='path-exclude=/usr/share/nodejs/*' \
    "${@:3}" bookworm "$tar.new"
  mv "$tar.new" "$tar"
}

prepare() {
  mkdir -p "$parts"
  debian "$system" python3,python3-venv,redis-server,redis-sentinel,haproxy,prometheus \
    --customize-hook='mkdir -p "$1/data" "$1/prometheus" && chown 999:999 "$1/data" && chown 65534:65534 "$1/prometheus"'
  debian "$builder" python3,python3-venv,python3-dev,gcc,libc6-dev
  if [[ ! -d $packages ]]; then
    echo "Fetching wheels …" >&2
    rm -rf "$parts"/packages-*
    mkdir -p "$packages.new/etc" "$packages.new/wheels"
    "$python" - >"$parts/requirements.txt" <<'END'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
print(*project["build-system"]["requires"], *project["project"]["dependencies"], sep="\n")
print("async-timeout")  # of redis, for the distribution's Python 3.11.2
END
    "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version 3.11 \
      -c constraints.txt -r "$parts/requirements.txt" -d "$packages.new/wheels"
    printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$packages.new/etc/pip.conf"
    mv "$packages.new" "$packages"
  fi
}

load() {
  local container
  docker import "$system" runcast-test/debian >/dev/null
  docker import "$builder" runcast-test/build >/dev/null
  container=$(docker create runcast-test/build true)
  tar --create --directory "$packages" . | docker cp - "$container:/"
  docker commit "$container" runcast-test/build >/dev/null
  docker rm "$container" >/dev/null
}

"$1"
