#!/bin/sh
# Builds the wheel of PyAV that the packages contain, into build/wheelhouse: with FFmpeg for audio only, under the LGPL. The
# wheels in the package index have x264 and x265, which are under the GPL.
#
# It is built in a Debian 12, so that it runs on all later releases. Its version (requirement.txt) has a local part, which
# the index can't have. The sources (sources.txt) stay in build/av: the LGPL wants them passed on with the packages.
set -eu
cd "$(dirname "$0")/../.."
export LC_ALL=C.UTF-8
here=packaging/av
wheels=$PWD/build/wheelhouse
sources=$PWD/build/av

recipe=$(cat $here/*.txt $here/inside.sh | sha256sum | cut -c1-16)
built=$wheels/.av-$recipe
[ ! -e "$built" ] || exit 0
mkdir -p "$wheels" "$sources"
rm -f "$wheels"/.av-* "$wheels"/av-*+stepaudiod*.whl

/usr/bin/python3 $here/download.py $here/sources.txt "$sources"

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
log=$sources/build.log
# Hooks run outside of the new system, except in its chroot; "$1" is its folder. apt-helper uses its configuration.
$as_root packaging/mmdebstrap.sh bookworm /dev/null --quiet --variant=minbase --dpkgopt=force-unsafe-io \
  --aptopt='Acquire::Languages "none"' \
  --include=gcc,libc6-dev,libmp3lame-dev,libopus-dev,make,nasm,pkg-config,python3-dev,xz-utils,zlib1g-dev \
  --customize-hook="mkdir \"\$1/build\" && cp $here/inside.sh $here/requirement.txt \"\$1/build\"" \
  --customize-hook="$here/copy-sources.sh $here/sources.txt \"$sources\" \"\$1/build\"" \
  --customize-hook='chroot "$1" /bin/sh /build/inside.sh' \
  --customize-hook="cp \"\$1\"/build/wheel/*.whl \"$wheels\"" > "$log" 2>&1 || {
  tail -n 40 "$log" >&2
  echo "The wheel of PyAV can't be built; all of the output is in $log." >&2
  exit 1
}
[ -z "$as_root" ] || sudo chown "$(id -u):$(id -g)" "$wheels"/av-*+stepaudiod*.whl "$sources"/*
touch "$built"
