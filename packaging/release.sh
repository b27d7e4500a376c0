#!/bin/sh
# Makes the commit and the tag of a release: packaging/release.sh x.y.z
# The version goes into stepaudiod/__init__.py, and the changelog's heading "Unreleased" becomes the version and the date.
set -eu
cd "$(dirname "$0")/.."
version=${1:-}

fail() { echo "$*" >&2; exit 1; }

number='(0|[1-9][0-9]*)'
case $version in *[!0-9.]*) number=never ;; esac  # grep looks at each line
echo "$version" | grep -Eqx "$number\.$number\.$number" ||
  fail "The version must be x.y.z, found '$version': make release VERSION=x.y.z"
[ -e .git ] || fail "A release is made in a clone of the repository."
[ -z "$(git status --porcelain)" ] || fail "The tree has changes. Commit them or put them away: git status"
git show-ref --quiet --verify "refs/tags/v$version" &&
  fail "The tag v$version exists. Build its files with: git checkout v$version && make release-files"
for tag in $(git tag --list 'v[0-9]*'); do
  dpkg --compare-versions "${tag#v}" lt "$version" ||
    fail "$tag is a release already, and $version isn't later. Take a later version."
done

# What stands between the first heading of a version and the next one.
heading=$(grep -m1 '^## ' CHANGELOG.md || true)
case $heading in
  '## Unreleased' | '## Unreleased: '*) ;;
  *) fail "The first heading of CHANGELOG.md must be '## Unreleased', found '$heading'." ;;
esac
awk '/^## / { part++ } part == 1 && /^- / { found = 1 } END { exit !found }' CHANGELOG.md ||
  fail "CHANGELOG.md lists nothing below '$heading'. Write what users notice."

sed -i "s/^__version__ = .*/__version__ = \"$version\"/" stepaudiod/__init__.py
sed -i "0,/^## Unreleased.*/s//## Unreleased\n\n## $version - $(date -u +%Y-%m-%d)/" CHANGELOG.md
git commit --quiet --message="Version $version" stepaudiod/__init__.py CHANGELOG.md
git tag --annotate --message="stepaudiod $version" "v$version"
echo "The commit and the tag v$version are made here, and nothing is pushed. To undo both: git tag -d v$version && git reset --hard HEAD~1"
