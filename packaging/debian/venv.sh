#!/bin/sh
# Installs locked packages into a package's staging folder, without a network: debian/venv.sh venv|folder LIST STAGE
#   venv    a virtual environment in /usr/lib/stepaudiod/venv that sees /usr/lib/stepaudiod too, with bytecode
#   folder  plain files in /usr/lib/stepaudiod/LIST; the postinst compiles them
# $WHEELS is the folder of wheels that packaging/deb.sh has filled, each checked against packaging/lock/LIST.txt.
set -eu
kind=$1 list=$2 stage=$(realpath "$3")

# Debian's interpreter: PATH may have another one, which the target machine lacks.
python=$(readlink -e /usr/bin/python3)
library=/usr/lib/stepaudiod

# The wheel of PyAV is built here, so that its digest is not locked.
locked=$(mktemp)
trap 'rm -f "$locked"' EXIT
digest=$(find "$WHEELS/" -name 'av-*+stepaudiod*.whl' -exec sha256sum {} + | cut -d' ' -f1)
sed "s/^av==.*/& --hash=sha256:$digest/" "packaging/lock/$list.txt" > "$locked"

install() { # [pip's options]
  "$python" -m pip "$@" --quiet --no-index --find-links "$WHEELS" --no-deps --no-compile --no-build-isolation \
    --ignore-requires-python --require-hashes --requirement "$locked"
}

case $kind in
  venv)
    venv=$stage$library/venv
    "$python" -m venv --without-pip "$venv"
    install --python "$venv/bin/python3" install --root-user-action=ignore
    packages=$(echo "$venv"/lib/python3.*/site-packages)
    # Only the interpreter in bin/: the scripts of other packages are unused and contain the build folder's path.
    rm -rf "$venv/bin" "$venv/include" "$venv/.gitignore"
    mkdir "$venv/bin"
    ln -s "$python" "$venv/bin/python3"
    sed -i -e '/^command = /d' -e '/^executable = /d' "$venv/pyvenv.cfg"
    printf '%s\n' "$library" "$library/voices" > "$packages/stepaudiod.pth"
    ;;
  folder)
    packages=$stage$library/$list
    install install --root-user-action=ignore --target "$packages"
    rm -rf "$packages/bin"
    ;;
esac

"$python" packaging/inventory/inventory.py copyright "$packages" "${packages#"$stage/"}" > "$stage.copyright"

# Remove what only developers of the packages use: the installation time depends on the number of files.
cd "$packages"
find . -type d '(' -name tests -o -name test -o -name __pycache__ ')' -prune -exec rm -rf {} +
find . -type f ! -path './triton/*' '(' -name '*.py[xi]' -o -name '*.pxd' -o -name '*.pyc' -o -name '*.a' -o -name '*.lib' -o -name '*.h' \
  -o -name py.typed -o -name '*.c' -o -name '*.cpp' ')' -delete
find . -path '*.dist-info/*' '(' -name RECORD -o -name INSTALLER -o -name REQUESTED -o -name direct_url.json ')' -delete
# Duplicates of libraries: lib64/ is unused, and liba.so, liba.so.0 and liba.so.0.9 become links to one file.
rm -rf lib64
find . -name '*.so' -type f | while read -r library_file; do
  for copy in "$library_file".*; do
    if cmp -s "$library_file" "$copy"; then ln -sf "$(basename "$library_file")" "$copy"; fi
  done
done
# Debugging symbols: 67 of ctranslate2's 68 MB.
find . -name '*.so*' -type f | while read -r library_file; do
  if readelf --section-headers --wide "$library_file" | grep -q ' \.debug_info '; then strip --strip-debug "$library_file"; fi
done
find . -name '*_tests.*.so' -delete
# Modules aren't programs.
find . -type f ! -name '*.so*' -exec chmod a-x {} +
find . -name '*.py' -exec sed -i '1{/^#!/d}' {} +
rm -rf onnxruntime/tools onnxruntime/transformers onnxruntime/quantization onnxruntime/datasets
rm -rf torch/include torch/share
# Of torch's programs, only one is needed when torch is imported.
if [ -d torch/bin ]; then
  find torch/bin -type f ! -name torch_shm_manager -delete
  chmod a+x torch/bin/torch_shm_manager
fi
# Triton compiles with its own headers and programs.
find triton/backends -path '*/bin/*' -type f -exec chmod a+x {} + 2>/dev/null || true
# Parts of gradio's front end that the page doesn't load: video editing, bokeh plots, rendering by node (ssr_mode is
# off), examples.
rm -rf gradio/templates/frontend/static/ffmpeg gradio/templates/frontend/static/bokeh gradio/templates/node gradio/media_assets
# For a newer Python, and used by torch's tests only.
rm -f torch/testing/_internal/py312_intrinsics.py
find . -type d -empty -delete

if [ "$kind" = venv ]; then
  # unchecked-hash: a package manager doesn't preserve the sources' modification times.
  "$python" -m compileall -q -j0 --invalidation-mode unchecked-hash -s "$stage" -p / "$packages"
fi
