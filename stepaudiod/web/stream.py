"""Responses that are sent while they are made. They stop the work when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stepaudiod.errors import StepaudiodError
from stepaudiod.speech import Facts
from stepaudiod.worker.process import Audio, Result

log = logging.getLogger(__name__)

FACT_PREFIX = "X-StepAudio-"


class StreamedResponse(Response):
    """Pieces sent as they are made. Stops the work when the client goes, cuts the connection when it fails.

    An error before the first piece is raised, and answered with its status. After it, the only honest sign
    that HTTP/1.1 has is a body without its end: the client sees that what it has isn't complete.

    Args:
        pieces: the work's results.
        media_type: of the body.
        headers: more of them; facts that come before the first sound join them.
    """

    def __init__(self, pieces: AsyncIterator[Result], media_type: str, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the last piece, or until the client is gone."""
        work = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _send(self, send: Send) -> None:
        """The body, piece by piece."""
        async with contextlib.aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            first = await anext(pieces, None)
            while isinstance(first, Facts):
                self._tell(first)
                first = await anext(pieces, None)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                if first is not None:
                    await send(_part(self.body_of(first)))
                async for piece in pieces:
                    if body := self.body_of(piece):
                        await send(_part(body))
            except StepaudiodError as error:
                log.warning("a response was cut off after it had begun: %s", error)
                return
        await send({"type": "http.response.body", "body": self.last(), "more_body": False})

    def _tell(self, facts: Facts) -> None:
        """Put facts into headers: `reference_stretch` is `X-StepAudio-Reference-Stretch`."""
        for name, value in facts.values.items():
            title = "-".join(word.capitalize() for word in name.split("_"))
            self.headers[FACT_PREFIX + title] = quote(str(value), safe=" ,;:./-+()[]'")

    def body_of(self, piece: Result) -> bytes:
        """The bytes of one piece."""
        return piece.data if isinstance(piece, Audio) else b""

    def last(self) -> bytes:
        """The bytes behind the last piece."""
        return b""


def _part(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
