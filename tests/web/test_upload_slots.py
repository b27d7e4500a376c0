"""An upload slot is taken from a body that arrives too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stepaudiod.config import Limits, Settings, Timeouts
from stepaudiod.errors import TooSlow
from stepaudiod.web.upload_slots import Arrival, UploadSlots


async def _nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


def test_a_body_loses_its_slot_even_at_the_moment_of_its_deadline() -> None:
    async def body() -> None:
        settings = Settings(limits=Limits(concurrency=1, max_queue=0), timeouts=Timeouts(upload=0.3))
        places = UploadSlots(lambda: settings)
        slow, other = Arrival("slow", settings), Arrival("other", settings)
        places.take(slow, slow)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take() -> None:
            try:
                places.take(other, other)
            except Exception as error:
                taken.set_exception(error)
            else:
                taken.set_result(None)

        ending = asyncio.create_task(slow.next_piece(_nothing()))
        await asyncio.sleep(0)  # its deadline comes first
        asyncio.get_running_loop().call_at(slow._deadline, take)
        await taken
        with pytest.raises(TooSlow):
            await ending

    asyncio.run(body())
