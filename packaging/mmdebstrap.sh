#!/bin/sh
# Builds the root of a supported release, also on another one: packaging/mmdebstrap.sh SUITE TARGET [mmdebstrap's options]
# Debian's packages come from the sources of this machine's apt if it is a Debian, otherwise from mmdebstrap's default
# mirror, as Ubuntu's do. Ubuntu's keys come from Debian's package ubuntu-keyring if this machine lacks them.
set -eu
suite=$1 target=$2; shift 2
export LC_ALL=C.UTF-8

# The Debian whose package ubuntu-keyring has the keys of the suites below.
keyring_suite=trixie
keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg

case $suite in
  noble | resolute)
    if [ ! -e "$keyring" ]; then
      extracted=$(mktemp -d)
      trap 'rm -rf "$extracted"' EXIT
      chmod 755 "$extracted"
      "$0" "$keyring_suite" "$extracted" --variant=extract --include=ubuntu-keyring
      keyring=$extracted$keyring
    fi
    mmdebstrap --components=main,universe --keyring="$keyring" "$@" "$suite" "$target"
    exit
    ;;
esac

host=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
  awk -v host="$host" -v suite="$suite" '
    $2 == host || $2 == host "-updates" || $2 == host "-security" {
      line = "deb " $1 " " suite substr($2, length(host) + 1) " " $3
      if (!seen[line]++) print line
    }')
if [ -n "$sources" ]; then
  printf '%s\n' "$sources" | mmdebstrap "$@" "$suite" "$target" -
else
  mmdebstrap "$@" "$suite" "$target"
fi
