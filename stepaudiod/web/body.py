"""A request's JSON body: read within its limits, checked against its schema, mistakes named by field."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from stepaudiod.config import Settings
from stepaudiod.errors import InvalidRequest, TooLarge, TooSlow

DISCARD = 64
"""This many times the limit is read and dropped, so that a client which still sends hears the refusal."""

Form = TypeVar("Form", bound=BaseModel)


async def read_form(request: Request, schema: type[Form], settings: Settings) -> Form:
    """The body as one of our schemas.

    Raises:
        InvalidRequest: it isn't JSON, or a field is missing, unknown or wrong; `param` is the first at fault.
        TooLarge: more bytes than `limits.max_body`.
        TooSlow: it stopped coming for `timeouts.body` seconds.
    """
    body = await _read(request, settings)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(*_explain(error)) from None


async def _read(request: Request, settings: Settings) -> bytes:
    """Every byte, as long as they keep coming and aren't too many."""
    limit = settings.limits.max_body
    body, size = bytearray(), 0
    stream = request.stream()
    while size <= DISCARD * limit:
        try:
            async with asyncio.timeout(settings.timeouts.body):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise TooSlow(f"The body stopped coming for {settings.timeouts.body:g} s.") from None
        except ClientDisconnect:
            raise InvalidRequest("The client left before its request was complete.") from None
        size += len(piece)
        if size <= limit:
            body += piece
    if size > limit:
        raise TooLarge(f"The body is larger than {limit:,} bytes (limits.max_body). Send the text in parts.")
    return bytes(body)


def _explain(error: ValidationError) -> tuple[str, str | None]:
    """What is wrong with which field; the first mistake decides `param`."""
    item = error.errors()[0]
    if item["type"] in ("json_invalid", "model_type"):
        return f"The body isn't a JSON object: {item['msg']}.", None
    names = [str(part) for part in item["loc"] if part not in ("str", "VoiceId")]
    param = ".".join(names) or "body"
    if item["type"] == "missing":
        return f"{param!r} is required.", param
    if item["type"] == "extra_forbidden":
        return f"There is no field {param!r}.", param
    return f"{param!r}: {item['msg']}.", param
