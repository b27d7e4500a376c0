"""Recordings inside JSON: base64 strings, decoded to files while the body is received.

A recording in base64 is too large to be kept in memory. The text between the quotes of each of `FIELDS` is
decoded to a file as it arrives, and an empty string takes its place. The rest is JSON of an ordinary size.

    {"input": "Hi", "step_audio": {"input_audio_base64": "UklGRiQAAABXQVZF...", "mode": "vad"}}
                                                          └─ to a file ──────┘
"""

from __future__ import annotations

import asyncio
import binascii
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from pathlib import Path
from typing import IO

from starlette.requests import Request

from stepaudiod.config import Settings
from stepaudiod.errors import StepaudiodError, TooLarge
from stepaudiod.web.body import Spool, body_pieces

ABOVE = "step_audio."
"""The path of the object with the fields, for errors and names."""
FIELDS = {name: ABOVE + name for name in ("prompt_audio_base64", "input_audio_base64")}
"""The fields, and the names of their recordings in the request's spool."""
OPENING = rb'"(%s)"\s{0,64}:\s{0,64}"'
"""The beginning of such a string. It can't match inside another string, where quotes are escaped."""
LONGEST_OPENING = 160
ESCAPE = re.compile(rb"\\(?:u00([0-9A-Fa-f]{2})|([/nrt]))")
LONGEST_ESCAPE = 6
DATA_URL = re.compile(rb"data:[^,]{0,200};base64,")
URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITESPACE = b" \t\r\n"
IN_MEMORY_BYTES = 64 * 1024
"""Of an unfinished body; the rest is kept on disk."""


async def read_json(request: Request, settings: Settings, fields: Mapping[str, str] = FIELDS) -> bytes:
    """A JSON body without its recordings, which are in the request's spool under the names of `fields`.

    Raises:
        TooLarge: it is larger than `limits.max_upload`, or without recordings than `limits.max_body`.
        TooSlow: it stopped for `timeouts.body` seconds.
        Busy: no upload slot is free.
    """
    spool: Spool = request.scope["state"]["spool"]
    return await JsonBody(spool, settings.limits.max_body, fields).read(body_pieces(request, settings))


async def cut(text: str, spool: Spool, settings: Settings) -> bytes:
    """The same for JSON that has been received."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield text.encode()

    return await JsonBody(spool, settings.limits.max_body, FIELDS).read(whole())


class Base64File:
    """Decodes base64 to a file, piece by piece.

    Accepts line breaks, the URL-safe alphabet, a `data:` URL, and missing padding.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._rest = b""
        self._has_begun = False
        self._has_ended = False
        self.is_valid = True
        self.size_bytes = 0

    def feed(self, text: bytes) -> None:
        self._rest += text.translate(URL_SAFE, WHITESPACE)
        if not self._has_begun:
            if b"data:".startswith(self._rest[:5]) and b"," not in self._rest and len(self._rest) < 256:
                return
            self._has_begun = True
            self._rest = DATA_URL.sub(b"", self._rest, count=1) if self._rest[:5] == b"data:" else self._rest
        whole = len(self._rest) // 4 * 4
        self._decode(self._rest[:whole])
        self._rest = self._rest[whole:]

    def close(self) -> None:
        self._decode(self._rest + b"=" * (-len(self._rest) % 4))
        self._file.close()

    def _decode(self, text: bytes) -> None:
        if not text or not self.is_valid:
            return
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            self.is_valid = False
            return
        self.is_valid = not self._has_ended
        self._has_ended = text.endswith(b"=")
        self.size_bytes += self._file.write(data)


class JsonBody:
    """A JSON body without its recordings, which are files of the request; the limit is `limits.max_body`."""

    def __init__(self, spool: Spool, limit: int, fields: Mapping[str, str]) -> None:
        self._opening = re.compile(OPENING % "|".join(fields).encode())
        self._fields = fields
        self._spool = spool
        self._limit = limit
        self._text = bytearray()
        self._from = 0
        self._held = b""
        self._name = ""
        self._path = Path()
        self._file: Base64File | None = None
        self._aside: IO[bytes] | None = None
        self._aside_bytes = 0

    async def read(self, pieces: AsyncIterable[bytes]) -> bytes:
        """Read all of it, see `read_json`.

        After an error the rest is read and dropped, so that a client that is still sending gets the answer.
        """
        failed: StepaudiodError | None = None
        try:
            async for piece in pieces:
                if failed is None:
                    try:
                        await self._add(piece)
                    except StepaudiodError as error:
                        failed = error
            if failed is not None:
                raise failed
            if self._aside is None:
                return bytes(self._text)
            self._aside.seek(0)
            return self._aside.read() + self._text
        finally:
            if self._file is not None:
                self._file.close()
            if self._aside is not None:
                self._aside.close()

    async def _add(self, piece: bytes) -> None:
        if self._file is None:
            self._text += piece
            piece = self._begin()
        if self._file is not None:
            await asyncio.to_thread(self._feed, piece)
        if len(self._text) > IN_MEMORY_BYTES:
            await self._set_aside()
        if self._aside_bytes + len(self._text) > self._limit:
            raise TooLarge(
                f"The body is larger than {self._limit:,} bytes (limits.max_body) without its recordings. "
                "Send the text in parts."
            )

    async def _set_aside(self) -> None:
        """Write all but the end of the text to disk: many unfinished bodies would fill the memory."""
        await self._spool.open()
        if self._aside is None:
            self._aside = tempfile.TemporaryFile()  # noqa: SIM115 (read closes it)
        size = len(self._text) - LONGEST_OPENING
        await asyncio.to_thread(self._aside.write, self._text[:size])
        del self._text[:size]
        self._from = max(0, self._from - size)
        self._aside_bytes += size

    def _feed(self, piece: bytes) -> None:
        """Handle a piece that begins inside a recording."""
        while self._file is not None:
            self._text += self._into_file(self._file, piece)
            piece = self._begin() if self._file is None else b""
            if not piece:
                return

    def _begin(self) -> bytes:
        """Cut the text where a recording begins; returns the recording's bytes so far, or none."""
        opening = self._opening.search(self._text, self._from)
        self._from = max(self._from, len(self._text) - LONGEST_OPENING)
        if opening is None:
            return b""
        piece = bytes(self._text[opening.end() :])
        del self._text[opening.end() :]
        self._name = self._fields[opening[1].decode()]
        if self._name in self._spool.uploads:
            self._spool.refused[self._name] = f"{self._name!r} is there twice."
        self._path = self._spool.new_path("recording.bin")
        self._file = Base64File(self._path)
        return piece

    def _into_file(self, file: Base64File, piece: bytes) -> bytes:
        """Decode up to the closing quote; returns the rest, with the quote."""
        piece, self._held = self._held + piece, b""
        end = piece.find(b'"')
        text = piece if end < 0 else piece[:end]
        if b"\\" in text:
            if end < 0 and (at := text.rfind(b"\\")) > len(text) - LONGEST_ESCAPE:
                text, self._held = text[:at], text[at:]
            text = ESCAPE.sub(_unescape, text)
        file.feed(text)
        if end < 0:
            return b""
        self._file = None
        file.close()
        if not file.is_valid:
            self._spool.refused[self._name] = f"{self._name!r} isn't base64."
        if file.size_bytes or not file.is_valid:
            self._spool.uploads[self._name] = self._path
        self._from = len(self._text) + 1  # the quote that closes it opens nothing
        return piece[end:]


def _unescape(escape: re.Match[bytes]) -> bytes:
    """The character of a JSON escape; white space is dropped."""
    return bytes.fromhex(escape[1].decode()) if escape[1] else escape[2].strip(b"nrt")
