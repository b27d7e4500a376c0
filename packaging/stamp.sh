#!/bin/sh
# Marks a copy of the tree with what it is built from: packaging/stamp.sh FOLDER "COMMIT SECONDS VERSION" [DISTRIBUTION]
# Writes stepaudiod/commit and the changelogs, and gives every file the commit's time. The runtimes and the voices, which
# have a version of their own, have its date, so that they don't differ between commits.
set -eu
folder=$1 line=$2 distribution=${3:-unstable}
seconds=$(echo "$line" | cut -d' ' -f2)
version=$(echo "$line" | cut -d' ' -f3)

echo "$line" > "$folder/stepaudiod/commit"

changelog() { # VERSION DATE WHAT
  printf 'stepaudiod (%s) %s; urgency=medium\n\n  * %s\n\n -- %s  %s\n' "$1" "$distribution" "$3" \
    "$(sed -n 's/^Maintainer: //p' "$folder/debian/control")" "$(date --utc --rfc-email --date="$2")"
}
changelog "$version" "@$seconds" 'CHANGELOG.md in the source lists what has changed.' > "$folder/debian/changelog"
lock=$(cut -d' ' -f1 "$folder/packaging/lock/version")
for package in runtime-lite runtime-cpu runtime-cuda voices; do
  changelog "$lock" "@$("$folder/packaging/lock-time.sh")" 'The versions of packaging/lock.' \
    > "$folder/debian/stepaudiod-$package.changelog"
done
find "$folder" -exec touch --no-dereference --date="@$seconds" {} +
