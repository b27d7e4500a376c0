#!/bin/sh
# Prints a short digest of all that the packages are built from, except the wheels; with `list` the names of these files
# and folders.
set -eu
cd "$(dirname "$0")/.."
sources="stepaudiod packaging docs CHANGELOG.md LICENSE NOTICE README.md README.zh-CN.md SECURITY.md"
if [ "${1:-}" = list ]; then
  echo "$sources"
else
  find $sources -name __pycache__ -prune -o ! -type d -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
fi
