#!/bin/sh
# Builds the packages for another release, in a root of it that is discarded: packaging/deb-suite.sh SUITE [PACKAGE...]
# They go to build/deb/SUITE. PACKAGE... is what the build needs; RUNTIMES is as for packaging/deb.sh.
set -eu
cd "$(dirname "$0")/.."
packaging/contents-digest.sh check
suite=$1; shift
output=$PWD/build/deb/$suite
wheels=$PWD/build/wheelhouse
inside=/srv/stepaudiod
mkdir -p "$output" "$wheels"
packaging/av/build.sh

built_from=$(packaging/version.sh --line)
built=$output/.built-$( (echo "$built_from ${RUNTIMES:-lite}"; packaging/sources-digest.sh) | sha256sum | cut -c1-16)
if [ -e "$built" ]; then
  ls -l "$output"/*.deb
  exit
fi
rm -f "$output"/.built-*

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
mkdir -p "$tree/build/deb"
cp -a $(packaging/sources-digest.sh list) "$tree"
echo "$built_from" > "$tree/stepaudiod/commit"
# Packages whose contents have not changed are kept.
find "$output" -maxdepth 1 -type f -exec cp -al {} "$tree/build/deb" ';'

# pip reaches the package index as it does here: its variables are inherited, and the certificates are copied.
unset PIP_FIND_LINKS
set -- --include="$(echo "$*" | tr ' ' ,)"
if [ -n "${PIP_CERT:-}" ]; then
  set -- "$@" --customize-hook="mkdir -p \"\$1$(dirname "$PIP_CERT")\" && cp \"$PIP_CERT\" \"\$1$PIP_CERT\""
fi
packaging/mmdebstrap.sh "$suite" /dev/null --quiet --variant=minbase --aptopt='Acquire::Languages "none"' "$@" \
  --customize-hook="mkdir -p \"\$1$inside\"" \
  --customize-hook="sync-in '$tree' $inside" \
  --customize-hook="mkdir -p \"\$1$inside/build/wheelhouse\"" \
  --customize-hook="sync-in '$wheels' $inside/build/wheelhouse" \
  --customize-hook="chroot \"\$1\" env HOME=/root RUNTIMES='${RUNTIMES:-lite}' $inside/packaging/deb.sh" \
  --customize-hook="sync-out $inside/build/wheelhouse '$wheels'" \
  --customize-hook="find \"\$1$inside/build/deb\" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +" \
  --customize-hook="find '$output' -mindepth 1 -delete" \
  --customize-hook="sync-out $inside/build/deb '$output'"
touch "$built"
ls -l "$output"/*.deb
