#!/bin/sh
# Collects the files of the release that is checked out in build/release: packaging/release-files.sh "SUITE..." KEY [URL]
#   stepaudiod-x.y.z.tar.gz   the sdist
#   SUITE/                    the packages of that release of Debian or Ubuntu, as a signed repository for apt
#   SHA256SUMS
# KEY is a folder of gpg with a secret key whose name contains "stepaudiod"; one is made where there is none. URL is where
# build/release will be; it goes into SUITE/stepaudiod.sources, with the public key. The packages of the suites must be built.
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

for suite in $suites; do
  ln -s "$(realpath "$key")" "$output/$suite.key"
  packaging/apt-repo.sh "$output/$suite" "build/deb/$suite"/*.deb
  rm "$output/$suite.key"
  rm -f "$output/$suite/stepaudiod.sources"
  if [ "$url" ]; then
    cat > "$output/$suite/stepaudiod.sources" <<SOURCES
Types: deb
URIs: ${url%/}/$suite
Suites: stable
Components: main
Signed-By:
$(gpg --homedir "$key" --batch --armor --export stepaudiod | sed 's/^$/./; s/^/ /')
SOURCES
  fi
done

(cd "$output" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)

cat <<TEXT

stepaudiod $version is in build/release. Nothing has been published. To publish it:

  git push origin HEAD v$version
  rsync -a --delete build/release/ HOST:FOLDER/          the folder that ${url:-URL (make release-files URL=...)} serves
  gh release create v$version build/release/*.tar.gz build/release/SHA256SUMS     where the repository is on GitHub

Keep the signing key, $key: apt trusts only packages that it has signed.
To install it then, on each suite ($suites):

  sudo curl -sSfo /etc/apt/sources.list.d/stepaudiod.sources ${url:-URL}/SUITE/stepaudiod.sources
  sudo apt update && sudo apt install stepaudiod
TEXT
