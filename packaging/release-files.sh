#!/bin/sh
# Collects the files of the release that is checked out in build/release: packaging/release-files.sh "SUITE..." KEY [URL]
#   stepaudiod-x.y.z.tar.gz   the sdist
#   apt/                      the packages of each suite, as a signed repository for apt
#   sbom/                     a bill of materials for each package with packages of others
#   sources/                  of FFmpeg and PyAV, which the LGPL wants with the packages
#   SHA256SUMS
# KEY is a folder of gpg with a secret key whose name contains "stepaudiod"; one is made where there is none. URL is where
# build/release/apt will be; it goes into apt/stepaudiod-SUITE.sources. The packages of the suites must be built.
set -eu
cd "$(dirname "$0")/.."
suites=$1 key=$2 url=${3:-}
version=$(packaging/version.sh)
case $version in
  *[!0-9.]*)
    echo "This is $version, and no release. Check one out (git checkout vX.Y.Z), or make one: make release VERSION=x.y.z" >&2
    exit 1
    ;;
esac

output=$PWD/build/release
rm -rf "$output"
mkdir -p "$output"
mkdir -p -m 700 "$key"
/usr/bin/python3 setup.py --quiet sdist --dist-dir "$output"

# apt-repo.sh looks for the key here.
ln -s "$(realpath "$key")" "$output/apt.key"
for suite in $suites; do
  packaging/apt-repo.sh "$output/apt" "$suite" "build/deb/$suite"/*.deb
  mkdir -p "$output/sbom/$suite"
  cp "build/deb/$suite"/*.cdx.json "$output/sbom/$suite"
done
rm "$output/apt.key"
mkdir "$output/sources"
cp build/av/*.tar.* "$output/sources"
if [ "$url" ]; then
  sed -i "s|^URIs: .*|URIs: $url|" "$output"/apt/*.sources
else
  rm "$output"/apt/*.sources
fi
(cd "$output" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)

cat <<TEXT

stepaudiod $version is in build/release. Nothing has been published. To publish it:

  git push origin HEAD v$version
  gh release create v$version build/release/*.tar.gz build/release/SHA256SUMS     where the repository is on GitHub
  rsync -a build/release/apt/ HOST:FOLDER/     the folder that ${url:-URL} serves

Keep the signing key, $key: apt takes only packages that it has signed.
TEXT
if [ "$url" ]; then
  printf '\nTo install it then, on each of %s:\n\n' "$suites"
  printf '  sudo curl -sSfo /etc/apt/sources.list.d/stepaudiod.sources %s/stepaudiod-SUITE.sources\n' "$url"
  printf '  sudo apt update && sudo apt install stepaudiod\n\n'
else
  printf '\nFiles that tell apt where the repository is are made with its address: make release-files URL=...\n\n'
fi
