#!/bin/sh
# Writes packaging/lock/*.txt: for each list.in the files that pip selects on every supported interpreter, with their
# digests. Versions are from constraints.txt; av is the wheel that packaging/av builds, without a digest. If anything
# changes, the runtimes and voices get a new version (packaging/lock/version). `packaging/lock.sh cpu` only adds torch for
# the processor on this machine's interpreter.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools=build/lock-tools

lock() { # LIST [uv's options]: resolve LIST.in, for every interpreter at once
  list=$1; shift
  "$tools/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --constraint constraints.txt "$@" \
    --format pylock.toml --output-file "$work/pylock.$list.toml" "packaging/lock/$list.in"
}
lines() { # LIST [PACKAGE...]: the lines of a resolution without these packages
  list=$1; shift
  "$tools/bin/python" packaging/lock_lines.py "$work/pylock.$list.toml" "$@"
}

if [ "${1:-}" != cpu ]; then
  [ -x "$tools/bin/uv" ] || /usr/bin/python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet uv packaging
  lock voices --no-deps
  lock alone --no-deps
  lock lite
  lock cuda
  lines voices > packaging/lock/voices.txt
  # misaki is in voices.txt
  lines alone misaki | sed '/^#/d' > "$work/alone.txt"
  for list in lite cuda; do
    lines "$list" | sed "s/^av==.*/$(cat packaging/av/requirement.txt)/" > "$work/$list.txt"
    cat "$work/$list.txt" "$work/alone.txt" > "packaging/lock/$list.txt"
  done
fi

# torch without CUDA is only in PyTorch's own index, unless pip's configuration has another source of it, and its files
# are not in the resolution: the digest of this machine's interpreter joins the known ones of the same version.
torch=$(sed -n 's/^torch==//p' constraints.txt)+cpu
known=$(sed -n "s/^torch==$torch //p" packaging/lock/cpu.txt 2>/dev/null || true)
ask() {
  printf 'torch==%s\n' "$torch" > "$work/torch"
  /usr/bin/python3 -m pip install --quiet --dry-run --ignore-installed --no-deps --target "$work/nowhere" "$@" \
    --requirement "$work/torch" --report "$work/torch.json"
}
ask || ask --index-url https://download.pytorch.org/whl/cpu
digest=$(/usr/bin/python3 - "$work/torch.json" <<'PYTHON'
import hashlib, json, sys, urllib.parse, urllib.request

info = json.load(open(sys.argv[1]))["install"][0]["download_info"]
hashes = info["archive_info"].get("hashes")
path = urllib.request.url2pathname(urllib.parse.urlsplit(info["url"]).path)
print(hashes["sha256"] if hashes else hashlib.file_digest(open(path, "rb"), "sha256").hexdigest())
PYTHON
)
case " $known " in *" --hash=sha256:$digest "*) ;; *) known="${known:+$known }--hash=sha256:$digest" ;; esac
sed -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton=/d' -e "s/^torch=.*/torch==$torch $known/" packaging/lock/cuda.txt \
  > "$work/cpu.txt"
mv "$work/cpu.txt" packaging/lock/cpu.txt

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
