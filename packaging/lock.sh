#!/bin/sh
# Writes packaging/lock/*.txt: for each list.in the exact files that pip selects, with their digests; those of alone.in
# are added to the runtimes' lists. Versions are from constraints.txt. If anything changes, the runtimes and voices get a
# new version (packaging/lock/version).
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lock() { # LIST CONSTRAINTS [pip's options]: resolve LIST.in to LIST.txt
  list=$1 constraints=$2; shift 2
  /usr/bin/python3 -m pip install --quiet --dry-run --ignore-installed --target "$work/nowhere" "$@" \
    --constraint "$constraints" --requirement "packaging/lock/$list.in" --report "$work/$list.json"
  /usr/bin/python3 - "$work/$list.json" > "packaging/lock/$list.txt" <<'PYTHON'
import hashlib, json, sys, urllib.parse, urllib.request

def digest_of(info):
    """The index's digest, or that of a local file."""
    if hashes := info["archive_info"].get("hashes"):
        return hashes["sha256"]
    path = urllib.request.url2pathname(urllib.parse.urlsplit(info["url"]).path)
    return hashlib.file_digest(open(path, "rb"), "sha256").hexdigest()

print("# Written by `make lock-deb`.")
for item in sorted(json.load(open(sys.argv[1]))["install"], key=lambda item: item["metadata"]["name"].lower()):
    digest = digest_of(item["download_info"])
    name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
    # === matches only this build: 2.13.0 alone also matches 2.13.0+cpu
    equals = "===" if name == "torch" and "+" not in version else "=="
    print(f"{name}{equals}{version} --hash=sha256:{digest}")
PYTHON
}

lock_runtime() { # LIST CONSTRAINTS [pip's options]: lock a runtime, with the packages of alone.in
  lock "$@" && sed '/^#/d' "$work/alone.txt" >> "packaging/lock/$1.txt"
}

lock voices constraints.txt --no-deps
lock alone constraints.txt --no-deps
mv packaging/lock/alone.txt "$work"
lock_runtime lite constraints.txt

# torch without CUDA, from a source in pip's configuration or else from PyTorch's own index: both are the same file.
sed 's/^torch==.*/&+cpu/' constraints.txt > "$work/cpu"
lock_runtime cpu "$work/cpu" || lock_runtime cpu "$work/cpu" --extra-index-url https://download.pytorch.org/whl/cpu

# torch with CUDA, as in the package index, without pip's configuration, which may have other builds of it. This downloads
# gigabytes, since the index lacks the metadata of NVIDIA's packages; so only if CUDA is set.
sed 's/^torch==/torch===/' constraints.txt > "$work/cuda"
if [ "${CUDA:-}" ] || [ ! -e packaging/lock/cuda.txt ]; then
  PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' lock_runtime cuda "$work/cuda"
fi

# The same contents keep their version, so that apt doesn't download them when only the daemon changes.
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
