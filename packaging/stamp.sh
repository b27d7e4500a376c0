#!/bin/sh
# Marks a copy of the tree with what it is built from: packaging/stamp.sh FOLDER "COMMIT SECONDS VERSION" [DISTRIBUTION]
# Writes stepaudiod/commit and debian/changelog, and gives every file the commit's time.
set -eu
folder=$1 line=$2 distribution=${3:-unstable}
seconds=$(echo "$line" | cut -d' ' -f2)
version=$(echo "$line" | cut -d' ' -f3)

echo "$line" > "$folder/stepaudiod/commit"
cat > "$folder/debian/changelog" <<CHANGELOG
stepaudiod ($version) $distribution; urgency=medium

  * CHANGELOG.md in the source lists what has changed.

 -- $(sed -n 's/^Maintainer: //p' "$folder/debian/control")  $(date --utc --rfc-email --date="@$seconds")
CHANGELOG
find "$folder" -exec touch --no-dereference --date="@$seconds" {} +
