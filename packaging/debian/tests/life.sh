# Functions for the tests, which source this file. It sets an idle timeout of one second.
unit=stepaudiod.service
url=http://127.0.0.1:7860

echo 'idle_timeout = 1' > /etc/stepaudiod/conf.d/90-autopkgtest.toml
trap 'rm -f /etc/stepaudiod/conf.d/90-autopkgtest.toml' EXIT

fail() { journalctl --no-pager -u "$unit" -n 50 >&2; echo "$1" >&2; exit 1; }

show() { systemctl show --property="$1" --value "$unit"; }

is_asleep() { [ "$(show ActiveState)" = inactive ]; }

fall_asleep() {
  tries=0
  until is_asleep; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "the daemon doesn't exit when idle"
    sleep 0.2
  done
}

speak() { # [curl's options]
  curl --silent --show-error --fail "$@" "$url/v1/audio/speech" -o "$AUTOPKGTEST_TMP/said.wav" \
    -d '{"model": "tts-1", "voice": "alloy", "input": "I was asleep until you called.", "response_format": "wav"}'
  [ "$(head -c 4 "$AUTOPKGTEST_TMP/said.wav")" = RIFF ] || fail "the response isn't WAV"
  [ "$(stat -c %s "$AUTOPKGTEST_TMP/said.wav")" -gt 20000 ] || fail "the audio is too short"
}
