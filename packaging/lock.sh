#!/bin/sh
# Writes packaging/lock/*.txt: for each list.in the exact files that pip takes for it, with their digests; those of
# alone.in become a part of lite.txt. Versions come from constraints.txt. What changes there gives the runtimes and voices a new version (packaging/lock/version).
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lock() { # LIST [pip's options]: resolve LIST.in to LIST.txt
  list=$1; shift
  /usr/bin/python3 -m pip install --quiet --dry-run --ignore-installed --target "$work/nowhere" "$@" \
    --constraint constraints.txt --requirement "packaging/lock/$list.in" --report "$work/$list.json"
  /usr/bin/python3 - "$work/$list.json" > "packaging/lock/$list.txt" <<'PYTHON'
import json, sys
print("# Written by `make lock-deb`.")
for item in sorted(json.load(open(sys.argv[1]))["install"], key=lambda item: item["metadata"]["name"].lower()):
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    print(f"{item['metadata']['name'].lower()}=={item['metadata']['version']} --hash=sha256:{digest}")
PYTHON
}

lock lite
lock alone --no-deps
sed '/^#/d' packaging/lock/alone.txt >> packaging/lock/lite.txt
rm packaging/lock/alone.txt
lock voices --no-deps

# The same contents keep their version: apt then leaves the heavy packages alone when only the daemon changes.
digest=$(packaging/contents-digest.sh)
read -r version known < packaging/lock/version || { version=0; known=; }
if [ "$digest" != "$known" ]; then
  today=$(date -u +%Y.%m.%d)
  case $version in
    "$today") version=$today.1 ;;
    "$today".*) version=$today.$((${version##*.} + 1)) ;;
    *) version=$today ;;
  esac
  echo "$version $digest" > packaging/lock/version
fi
