#!/bin/sh
# Makes a signed apt repository in a folder: packaging/apt-repo.sh FOLDER SUITE [PACKAGE.deb...]
# Each suite has its own packages, since apt would otherwise select those of the newest release. Existing packages are
# kept, so that a machine can return to an earlier version. The signing key is made at first use, in FOLDER.key, and signs
# only this repository. FOLDER/stepaudiod-SUITE.sources contains the public key: once it is in /etc/apt, only root can
# exchange the key.
set -eu
export LC_ALL=C.UTF-8
umask 022
folder=$(realpath -m "$1") suite=$2; shift 2
architecture=$(dpkg --print-architecture)
pool=pool/$suite dist=dists/$suite
key=$folder.key
mkdir -p "$folder/$pool" "$folder/$dist/main/binary-$architecture" "$key"
chmod 700 "$key"

gpg() { command gpg --homedir "$key" --batch --quiet --no-tty "$@"; }
# Otherwise the agent would keep running.
trap 'gpgconf --homedir "$key" --kill all' EXIT

if ! gpg --list-secret-keys stepaudiod >/dev/null 2>&1; then
  gpg --passphrase '' --quick-generate-key 'stepaudiod (packages built here)' ed25519 sign never
fi

for package in "$@"; do
  ln -f "$package" "$folder/$pool/" 2>/dev/null || cp -f "$package" "$folder/$pool/"
done
chmod a+r "$folder/$pool"/*.deb

cd "$folder"
apt-ftparchive packages "$pool" > "$dist/main/binary-$architecture/Packages"
gzip -9nkf "$dist/main/binary-$architecture/Packages"
apt-ftparchive -o APT::FTPArchive::Release::Origin=stepaudiod -o APT::FTPArchive::Release::Label=stepaudiod \
  -o "APT::FTPArchive::Release::Suite=$suite" -o "APT::FTPArchive::Release::Codename=$suite" \
  -o "APT::FTPArchive::Release::Architectures=$architecture" -o APT::FTPArchive::Release::Components=main \
  release "$dist" > Release.new
mv Release.new "$dist/Release"
gpg --yes --clearsign --output "$dist/InRelease" "$dist/Release"
gpg --yes --armor --detach-sign --output "$dist/Release.gpg" "$dist/Release"

cat > "stepaudiod-$suite.sources" <<SOURCES
Types: deb
URIs: file:$folder
Suites: $suite
Components: main
Architectures: $architecture
Signed-By:
$(gpg --armor --export stepaudiod | sed -e 's/^$/./' -e 's/^/ /')
SOURCES

# apt reads as the user _apt, which can't enter folders that are closed to other users.
closed=
at=$folder
while [ "$at" != / ]; do
  case $(stat --format=%A "$at") in ?????????[xt]) ;; *) closed="$at $closed" ;; esac
  at=$(dirname "$at")
done
[ -z "$closed" ] || printf '\napt reads as the user _apt, which may not enter these folders. To allow it:\n\n  chmod o+x %s\n' "$closed"
