"""Plays audio with a program that reads its standard input."""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
from dataclasses import dataclass

from stepaudiod.ctl.errors import PlayerMissing

BUFFERED_CHUNKS = 1024
"""Received chunks that may wait for the player, at most 64 KiB each: over 20 minutes of audio."""


@dataclass(frozen=True, slots=True)
class Player:
    """A program that plays its standard input, which is `wav` or `pcm` (24 kHz, 16 bit, mono)."""

    program: str
    arguments: tuple[str, ...]
    format: str


PLAYERS = (
    Player("pw-play", ("-",), "wav"),
    Player(
        "paplay", ("--raw", "--format=s16le", "--rate=24000", "--channels=1", "--latency-msec=200"), "pcm"
    ),
    Player("aplay", ("-q", "-t", "raw", "-f", "S16_LE", "-r", "24000", "-c", "1", "-"), "pcm"),
    Player("ffplay", ("-nodisp", "-autoexit", "-loglevel", "error", "-i", "-"), "wav"),
    Player("mpv", ("--no-video", "--really-quiet", "--no-terminal", "-"), "wav"),
)
"""In order of preference."""


def find_player(wanted: str | None = None) -> Player:
    """Find the wanted player, or the first that is installed; else raise `PlayerMissing`."""
    for player in PLAYERS:
        if wanted in (None, player.program) and shutil.which(player.program):
            return player
    names = wanted or ", ".join(player.program for player in PLAYERS)
    raise PlayerMissing(f"No player is installed ({names}). Install one, or write to a file: -o speech.mp3.")


class Playback:
    """A running player, started with the first chunk.

    A thread feeds it from a queue, so that the daemon doesn't have to wait for the playback.
    """

    def __init__(self, player: Player) -> None:
        self._player = player
        self._process: subprocess.Popen[bytes] | None = None
        self._chunks: queue.Queue[bytes | None] = queue.Queue(BUFFERED_CHUNKS)
        self._has_stopped = False
        self._feeder = threading.Thread(target=self._feed, name="player", daemon=True)

    def write(self, data: bytes) -> bool:
        """Queue audio; return whether the player wants more."""
        if self._process is None:
            command = [self._player.program, *self._player.arguments]
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            except OSError as error:
                raise PlayerMissing(f"{self._player.program} can't be started: {error.strerror}.") from None
            self._feeder.start()
        if not self._has_stopped:
            self._chunks.put(data)
        return not self._has_stopped

    def finish(self) -> None:
        """Wait for the end of the playback; if it failed, raise `PlayerMissing`."""
        if self._process is None:
            return
        self._chunks.put(None)
        self._feeder.join()
        if status := self._process.wait():
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            others = ", ".join(p.program for p in PLAYERS if p is not self._player)
            raise PlayerMissing(
                f"{self._player.program} could not play the audio ({how}). "
                f"Choose another with --player ({others}), or write to a file: -o speech.mp3."
            )

    def abort(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._chunks.put(None)
            self._feeder.join()
            self._process.wait()

    def _feed(self) -> None:
        """Write the chunks to the player; once it has exited, discard them, so that `write` never blocks."""
        assert self._process is not None
        assert self._process.stdin is not None
        while (data := self._chunks.get()) is not None:
            if not self._has_stopped:
                try:
                    self._process.stdin.write(data)
                    self._process.stdin.flush()
                except OSError:
                    self._has_stopped = True
        try:
            self._process.stdin.close()
        except OSError:
            self._has_stopped = True
