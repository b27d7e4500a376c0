#!/bin/sh
# Prints the version of this tree, as Debian's packages have it: packaging/version.sh [--line | --package SUFFIX]
#   0.1.0                              the commit that has the tag v0.1.0
#   0.1.0~git20261128.153012.7348fce   a commit before it, by its UTC time
#   0.1.0+git20261129.101500.1a2b3c4   a commit after it
#   ...+dirty                          the same with changes, or with files that git does not know
# --line prints the commit, its time in seconds and the version: the line that a package and an sdist have in
# stepaudiod/commit. Where that file is, it is printed, and git isn't needed.
# --package prints the version with a suffix for a release of Debian or Ubuntu; without the "+", 0.1.0~deb13 would be earlier
# than 0.1.0~git20261128.153012.7348fce~deb13:
#   0.1.0+~deb13
set -eu
cd "$(dirname "$0")/.."

git() { GIT_OPTIONAL_LOCKS=0 command git -c safe.directory='*' -c log.showSignature=false "$@"; }

if [ -e stepaudiod/commit ]; then
  read -r commit seconds version < stepaudiod/commit
elif [ -e .git ]; then
  commit=$(git rev-parse HEAD)
  seconds=$(git log -1 --format=%ct)
  version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' stepaudiod/__init__.py)
  changes=$(git status --porcelain)
  tag=refs/tags/v$version
  if ! git show-ref --quiet --verify "$tag" || ! git merge-base --is-ancestor "$tag" HEAD; then
    joint='~'
  elif [ "$(git rev-parse "$tag^{commit}")" != "$commit" ]; then
    joint='+'
  else
    joint=
  fi
  # The time orders the commits of one day.
  [ -z "$joint" ] || version=$version${joint}git$(date -u -d "@$seconds" +%Y%m%d.%H%M%S).$(echo "$commit" | cut -c1-7)
  [ -z "$changes" ] || commit=$commit-dirty version=$version+dirty
else
  echo "The version is unknown: this folder is neither a git repository nor an sdist. Clone the repository." >&2
  exit 1
fi

case ${1:-} in
  --line) echo "$commit $seconds $version" ;;
  --package)
    case $version in *git*) ;; *) version=$version+ ;; esac
    echo "$version$2"
    ;;
  *) echo "$version" ;;
esac
