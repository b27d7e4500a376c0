#!/bin/sh
# Builds /build/wheel/av-*.whl from the sources in /build: packaging/av/build.sh runs it in a new Debian. The same sources
# give the same bits: the paths are always these, and the time is that of PyAV's release.
set -eux
cd /build
export LC_ALL=C.UTF-8 TZ=UTC PYTHONDONTWRITEBYTECODE=1
tar xf ffmpeg_*.tar.xz
tar xf av-*.tar.gz
pyav=$(echo /build/av-*/)
export SOURCE_DATE_EPOCH=$(stat --format=%Y "$pyav/setup.py")

# Everything for sound, and nothing for moving pictures; JPEG and PNG are the cover of a recording. Some decoders of
# sound stand among those of pictures in FFmpeg's list. LAME, Opus and zlib are Debian's. Playlists are not read.
(
  cd ffmpeg-*/
  names() { sed -n "/^\/\* audio codecs/,/^\/\* subtitles/s/.* ff_\(\w*\)_$1;/\1/p" libavcodec/allcodecs.c | paste -sd,; }
  filters=$(sed -n 's/.* ff_\(af\|asrc\|asink\)_\(\w*\);/\2/p' libavfilter/allfilters.c | paste -sd,)
  LD_RUN_PATH='$ORIGIN' ./configure --prefix=/build/ffmpeg --disable-everything --disable-autodetect --disable-network \
    --disable-programs --disable-doc --disable-debug --disable-static --enable-shared \
    --enable-libmp3lame --enable-libopus --enable-zlib \
    --enable-demuxers --disable-demuxer=concat,hls --enable-muxers --enable-parsers --enable-bsfs \
    --enable-protocol=file,pipe,data --enable-filter="$filters,concat" \
    --enable-decoder="$(names decoder),comfortnoise,dvaudio,eightsvx_exp,eightsvx_fib,libopus,rka,s302m,speex,mjpeg,png" \
    --enable-encoder="$(names encoder),libmp3lame,libopus,mjpeg,png"
  LD_RUN_PATH='$ORIGIN' make --silent -j"$(nproc)" install
)

# FFmpeg's libraries are shared ones beside PyAV's modules, so that another build of them can take their place.
mkdir tools "$pyav/av/libs"
for name in avcodec avdevice avfilter avformat avutil swresample swscale; do
  soname=$(objdump -p ffmpeg/lib/lib$name.so | sed -n 's/ *SONAME *//p')
  cp -L "ffmpeg/lib/$soname" "$pyav/av/libs"
done
cp ffmpeg-*/COPYING.LGPLv2.1 "$pyav/COPYING.FFmpeg.LGPLv2.1"
cp ffmpeg-*/LICENSE.md "$pyav/LICENSE.FFmpeg.md"
for wheel in *-none-any.whl; do
  python3 -m zipfile -e "$wheel" tools
done

cd "$pyav"
sed -i 's,^setup($,package_data["av"].append("libs/*")\n&,' setup.py
sed -i 's/^license = .*/license = "BSD-3-Clause AND LGPL-2.1-or-later"/' pyproject.toml
sed -i "s/^__version__ = .*/__version__ = \"$(sed s/.*==// ../requirement.txt)\"/" av/about.py
printf '[build_ext]\nparallel = %s\n' "$(nproc)" >> setup.cfg
PYTHONPATH=/build/tools PKG_CONFIG_PATH=/build/ffmpeg/lib/pkgconfig LD_RUN_PATH='$ORIGIN/libs:$ORIGIN/../libs' \
  CFLAGS='-g0 -O2' python3 -c 'from setuptools import build_meta; build_meta.build_wheel("/build/wheel")'
