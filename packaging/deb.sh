#!/bin/sh
# Builds the Debian packages into build/deb. Wheels come from the package index once, each checked against its locked
# digest, and are kept in build/wheels; packages whose contents have not changed since the last time are kept too.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

read -r version digest < packaging/lock/version
if [ "$(packaging/contents-digest.sh)" != "$digest" ]; then
  echo "What the runtimes or the voices are made of has changed: run \`make lock-deb\`, which gives them a new version." >&2
  exit 1
fi

WHEELS=$PWD/build/wheels
export WHEELS
output=build/deb
work=$output/work
mkdir -p "$WHEELS" "$output"

for list in lite voices; do
  fetched=$WHEELS/.$list-$(sha256sum < "packaging/lock/$list.txt" | cut -c1-16)
  if [ ! -e "$fetched" ]; then
    /usr/bin/python3 -m pip wheel --quiet --no-deps --no-build-isolation --require-hashes \
      --wheel-dir "$WHEELS" --requirement "packaging/lock/$list.txt"
    touch "$fetched"
  fi
done

# A copy: the build writes into its folder, and packaging/debian has links to the units.
rm -rf "$work"
mkdir -p "$work/source"
cp -a stepaudiod packaging LICENSE NOTICE README.md "$work/source"
find "$work/source" -name __pycache__ -prune -exec rm -rf {} +
cp -aL packaging/debian "$work/source/debian"

# The heavy packages, as they are decided by their recipe alone.
recipe=$(cd packaging/debian && cat ../contents-digest.sh ../lock/version control rules venv.sh copyright \
  stepaudiod-runtime-lite.* stepaudiod-voices.* ../../NOTICE | sha256sum | cut -c1-16)
kept=$output/.kept-$recipe
if [ -e "$kept" ]; then
  export DH_OPTIONS="-Nstepaudiod-runtime-lite -Nstepaudiod-voices"
else
  rm -f "$output"/*.deb
fi
rm -f "$output"/.kept-* "$output"/stepaudiod_*.deb

(cd "$work/source" && dpkg-buildpackage --build=binary --no-sign > ../build.log 2>&1) || {
  tail -n 60 "$work/build.log" >&2
  exit 1
}
mv "$work"/*.deb "$output"
touch "$kept"
ls -l "$output"/*.deb
