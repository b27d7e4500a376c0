#!/bin/sh
# Prints a short digest of all that determines the contents of the runtimes and the voices: see packaging/lock.sh. With
# `check`, compares it with the one of their version instead.
set -eu
cd "$(dirname "$0")/.."
digest=$(cat packaging/lock/*.txt packaging/av/*.txt packaging/av/inside.sh packaging/debian/venv.sh \
  stepaudiod/engines/kokoro/voices/*.bin | sha256sum | cut -c1-16)
if [ "${1:-}" != check ]; then
  echo "$digest"
elif [ "$digest" != "$(cut -d' ' -f2 packaging/lock/version)" ]; then
  echo "The contents of the runtimes or the voices have changed: run \`make lock-deb\`, which gives them a new version." >&2
  exit 1
fi
