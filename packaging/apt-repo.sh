#!/bin/sh
# Makes a signed apt repository in a folder: packaging/apt-repo.sh FOLDER [PACKAGE.deb...]
# Existing packages are kept, so that a machine can return to an earlier version. The signing key is made at first use,
# in FOLDER.key, and signs only this repository.
set -eu
export LC_ALL=C.UTF-8
umask 022
folder=$(realpath -m "$1"); shift
key=$folder.key
keyring=$folder/stepaudiod-archive-keyring.gpg
mkdir -p "$folder/pool" "$folder/dists/stable/main/binary-amd64" "$key"
chmod 700 "$key"

gpg() { command gpg --homedir "$key" --batch --quiet --no-tty "$@"; }
# Otherwise the agent would keep running.
trap 'gpgconf --homedir "$key" --kill all' EXIT

if ! gpg --list-secret-keys stepaudiod >/dev/null 2>&1; then
  gpg --passphrase '' --quick-generate-key 'stepaudiod (packages built here)' ed25519 sign never
fi
gpg --export stepaudiod > "$keyring"

for package in "$@"; do
  ln -f "$package" "$folder/pool/" 2>/dev/null || cp -f "$package" "$folder/pool/"
done
chmod a+r "$folder"/pool/*

cd "$folder"
apt-ftparchive packages pool > dists/stable/main/binary-amd64/Packages
gzip -9nkf dists/stable/main/binary-amd64/Packages
apt-ftparchive -o APT::FTPArchive::Release::Origin=stepaudiod -o APT::FTPArchive::Release::Label=stepaudiod \
  -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename=stable \
  -o APT::FTPArchive::Release::Architectures=amd64 -o APT::FTPArchive::Release::Components=main \
  release dists/stable > Release.new
mv Release.new dists/stable/Release
gpg --yes --clearsign --output dists/stable/InRelease dists/stable/Release
gpg --yes --armor --detach-sign --output dists/stable/Release.gpg dists/stable/Release

cat > stepaudiod.sources <<SOURCES
Types: deb
URIs: file:$folder
Suites: stable
Components: main
Architectures: amd64
Signed-By: $keyring
SOURCES

# apt reads as the user _apt, which can't enter folders that are closed to other users.
closed=
at=$folder
while [ "$at" != / ]; do
  case $(stat --format=%A "$at") in ?????????[xt]) ;; *) closed="$at $closed" ;; esac
  at=$(dirname "$at")
done
[ -z "$closed" ] || printf '\napt reads as the user _apt, which may not enter these folders. To allow it:\n\n  chmod o+x %s\n' "$closed"
