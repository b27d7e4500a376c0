"""Programs that play sound from their standard input, and one of them at work."""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
from dataclasses import dataclass

from stepaudiod.ctl.errors import PlayerMissing

BUFFERED_CHUNKS = 1024
"""What may have been received and not played yet, at most 64 KiB each: over 20 minutes of sound."""


@dataclass(frozen=True, slots=True)
class Player:
    """A program and how it is called.

    Attributes:
        program: its name on the PATH.
        arguments: make it play what comes on standard input.
        format: what it is given, `wav` or `pcm` (24 kHz, 16 bit, mono).
    """

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
"""The first that is installed plays."""


def find_player(wanted: str | None = None) -> Player:
    """The first player of this machine, or the one that is wanted.

    Raises:
        PlayerMissing: there is none.
    """
    for player in PLAYERS:
        if wanted in (None, player.program) and shutil.which(player.program):
            return player
    names = wanted or ", ".join(player.program for player in PLAYERS)
    raise PlayerMissing(f"There is no player here ({names}). Install one, or write to a file: -o speech.mp3.")


class Playback:
    """A player at work. Sound starts with the first chunk; what comes faster than it is played waits here.

    A thread of its own feeds the player, so that the daemon isn't held up by sound that takes its time.

    Args:
        player: which; it is started by the first chunk.
    """

    def __init__(self, player: Player) -> None:
        self._player = player
        self._process: subprocess.Popen[bytes] | None = None
        self._chunks: queue.Queue[bytes | None] = queue.Queue(BUFFERED_CHUNKS)
        self._has_stopped = False
        self._feeder = threading.Thread(target=self._feed, name="player", daemon=True)

    def write(self, data: bytes) -> bool:
        """Take audio; says whether the player wants more."""
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
        """Wait for the last sound.

        Raises:
            PlayerMissing: the player failed.
        """
        if self._process is None:
            return
        self._chunks.put(None)
        self._feeder.join()
        if status := self._process.wait():
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            others = ", ".join(p.program for p in PLAYERS if p is not self._player)
            raise PlayerMissing(
                f"{self._player.program} could not play this ({how}). "
                f"Choose another with --player ({others}), or write to a file: -o speech.mp3."
            )

    def abort(self) -> None:
        """Silence, now."""
        if self._process is not None:
            self._process.terminate()
            self._chunks.put(None)
            self._feeder.join()
            self._process.wait()

    def _feed(self) -> None:
        """Hand the chunks on; when the player has gone, take them all the same: nobody waits for room."""
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
