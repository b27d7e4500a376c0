#!/bin/sh
# Prints a short digest of all that determines the contents of the runtimes and the voices: see packaging/lock.sh.
set -eu
cd "$(dirname "$0")/.."
cat packaging/lock/*.txt packaging/av/*.txt packaging/av/inside.sh packaging/debian/venv.sh stepaudiod/engines/kokoro/voices/*.bin | sha256sum | cut -c1-16
