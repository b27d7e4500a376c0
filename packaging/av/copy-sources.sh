#!/bin/sh
# Copies the files of sources.txt from one folder to another: copy-sources.sh SOURCES FROM TO. Those of Debian's archive are
# downloaded if they are lacking. A hook of mmdebstrap, whose apt is that of the new system. Debian removes old versions;
# ffmpeg.org keeps them, and Debian's "orig" files are the same as its releases.
set -eu
sources=$1 from=$2 to=$3
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1 | sed 's,/*$,,')
grep -v '^#' "$sources" | while read -r kind path digest; do
  file=$from/$(basename "$path")
  if [ "$kind" = debian ] && ! echo "$digest  $file" | sha256sum --check --status 2>/dev/null; then
    release=$(basename "$path" | sed 's/_/-/; s/\.orig//')
    /usr/lib/apt/apt-helper download-file "$archive/pool/main/$path" "$file" "SHA256:$digest" ||
      /usr/lib/apt/apt-helper download-file "https://ffmpeg.org/releases/$release" "$file" "SHA256:$digest"
  fi
  cp "$file" "$to"
done
