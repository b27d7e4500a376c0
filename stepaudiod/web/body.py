"""A request's body: read within its limits, checked against its schema, mistakes named by field.

The files of a multipart form are spooled to disk and are gone when the request is. `inline.py` reads JSON.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepaudiod.config import Settings
from stepaudiod.errors import Busy, InvalidRequest, TooLarge
from stepaudiod.temp_dirs import TempDir, sweep
from stepaudiod.web.upload_slots import GIVES_WAY_S, Arrival, UploadSlots

TRIES = 10
"""How often a place is asked for, each `GIVES_WAY_S` after the last time."""
DISCARD = 64
"""This many times the limit is read and dropped, so that a client which still sends hears the refusal."""
DISCARD_BYTES = 1 << 28
"""And never more than this beyond it."""
MAX_FILES = 8
MAX_FIELDS = 128

SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")

SPOOL = "stepaudiod-"
SPOOLS = re.compile(r"stepaudiod-[a-z0-9_]{8}")
SPOOLED = re.compile(r"\d+\.[a-z0-9]{1,5}")

Form = TypeVar("Form", bound=BaseModel)


class Upload(NamedTuple):
    """A file of a form.

    Attributes:
        path: where it lies.
        filename: what the client calls it.
        size_bytes: its length.
    """

    path: Path
    filename: str
    size_bytes: int


@dataclass(slots=True, eq=False)
class Spool:
    """The files of one request, in a folder of their own."""

    places: UploadSlots
    arrival: Arrival | None = None
    folder: TempDir | None = None
    uploads: dict[str, Upload] = field(default_factory=dict)
    is_open: bool = False

    async def open(self) -> None:
        """Have a place for files; while bodies still come, one of them may stop and give way.

        Raises:
            Busy: too many others have one, and none gave way within a second.
        """
        for _ in range(TRIES):
            with suppress(Busy):
                self._take()
                return
            if not self.places.are_coming:
                break
            await asyncio.sleep(GIVES_WAY_S)
        self._take()

    def _take(self) -> None:
        if not self.is_open:
            assert self.arrival is not None
            self.places.take(self, self.arrival)
            self.is_open = True

    def new_path(self, filename: str) -> Path:
        """Where a file of that name goes; only its suffix is kept of it.

        Raises:
            Busy: too many others have files.
        """
        self._take()
        if self.folder is None:
            self.folder = TempDir(Path(tempfile.gettempdir()), SPOOL)
        suffix = Path(filename).suffix.lower()
        return self.folder.path / f"{len(self.uploads)}{suffix if SUFFIX.fullmatch(suffix) else '.bin'}"

    def close(self) -> None:
        """Remove them."""
        if self.folder is not None:
            self.folder.close()
            self.folder = None
        if self.is_open:
            self.places.give_back(self)
            self.is_open = False


class FormParser(MultiPartParser):
    """Starlette's, in bounded memory, that knows whether the form came to its end."""

    spool_max_size = 64 * 1024
    has_ended = False
    _fields_bytes = 0

    def on_end(self) -> None:
        """The closing boundary has come."""
        self.has_ended = True

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """The limit for one field holds for all of them together."""
        if self._current_part.file is None:
            self._fields_bytes += end - start
            if self._fields_bytes > self.max_part_size:
                raise MultiPartException(f"its fields have more than {self.max_part_size:,} bytes")
        super().on_part_data(data, start, end)


def sweep_spools() -> None:
    """Remove the files of requests that a killed process had; other users share the folder."""
    with suppress(OSError):  # no folder for temporary files: the first request with a recording says so
        sweep(Path(tempfile.gettempdir()), SPOOLS, _is_spool)


def _is_spool(path: Path) -> bool:
    """Whether a folder has nothing in it but what `Spool.new_path` names."""
    with os.scandir(path) as entries:
        return all(e.is_file(follow_symlinks=False) and SPOOLED.fullmatch(e.name) for e in entries)


class SpoolUploads:
    """Gives every request a spool, and empties it when its response begins.

    By then the worker has read the files, and a client that is slow to take the response keeps no place.
    """

    def __init__(self, app: ASGIApp, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._places = UploadSlots(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve with a spool."""
        spool = Spool(self._places)
        scope.setdefault("state", {})["spool"] = spool

        async def send_and_empty(message: Message) -> None:
            if message["type"] == "http.response.start":
                spool.close()
            await send(message)

        try:
            await self._app(scope, receive, send_and_empty)
        finally:
            spool.close()


def check(schema: type[Form], body: bytes | dict[str, object]) -> Form:
    """JSON, or a form's fields, as one of our schemas.

    Raises:
        InvalidRequest: a field is missing or wrong; `param` is the first at fault.
    """
    try:
        return schema.model_validate_json(body) if isinstance(body, bytes) else schema.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(*_explain(error)) from None


async def read_multipart(
    request: Request, schema: type[Form], settings: Settings, files: tuple[str, ...]
) -> tuple[Form, dict[str, Upload]]:
    """A multipart body: its fields as one of our schemas, its files on disk until the response begins.

    Args:
        request: what came.
        schema: of the fields.
        settings: for the limits.
        files: the names of the fields that hold files.

    Raises:
        InvalidRequest: it isn't multipart, or a field is missing or wrong.
        TooLarge: more bytes than `limits.max_upload`.
        TooSlow: it stopped coming for `timeouts.body` seconds, or took `timeouts.upload` in all.
        Busy: too many others send recordings; what comes is dropped, so that the client hears of it.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidRequest("Send this as multipart/form-data, with the recording as a file.")
    spool: Spool = request.scope["state"]["spool"]
    limits = settings.limits
    pieces = body_pieces(
        request, settings, limits.max_upload, "limits.max_upload). Send a shorter recording."
    )
    try:
        await spool.open()
    except Busy:
        async for _ in pieces:
            pass
        raise
    parser = FormParser(
        request.headers, pieces, max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=limits.max_body
    )
    try:
        parsed = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The form can't be read: {error.message}") from None
    except UnicodeError:
        raise InvalidRequest("The form's text isn't in the charset that it names. Send UTF-8.") from None
    given: dict[str, list[str]] = {}
    try:
        if not parser.has_ended:
            raise InvalidRequest("The form breaks off: its closing boundary is missing. Send it whole.")
        for name, value in parsed.multi_items():
            if name not in files:
                _add(given, name, value, schema)
            elif not isinstance(value, UploadFile):
                raise InvalidRequest(f"{name!r} is no file: send it with a file name.", name)
            elif name in spool.uploads:
                raise InvalidRequest(f"{name!r} is there twice.", name)
            else:
                spool.uploads[name] = await asyncio.to_thread(_keep, value, spool)
    finally:
        await parsed.close()
    return check(schema, dict(_fields(given, schema))), spool.uploads


def required(uploads: dict[str, Upload], name: str) -> Upload:
    """A file that must be there.

    Raises:
        InvalidRequest: it isn't, or it is empty.
    """
    if name not in uploads:
        raise InvalidRequest(f"{name!r} is required: a recording, as a file.", name)
    if not uploads[name].size_bytes:
        raise InvalidRequest(f"{name!r} is empty.", name)
    return uploads[name]


def check_length(text: str, settings: Settings, param: str = "input") -> None:
    """Refuse a text that is longer than the configuration allows.

    Raises:
        InvalidRequest: it is.
    """
    limit = settings.limits.max_text
    if len(text) > limit:
        message = f"{param!r} has {len(text):,} characters; at most {limit:,} are allowed (limits.max_text)."
        raise InvalidRequest(f"{message} Send it in parts.", param)


def _add(given: dict[str, list[str]], name: str, value: UploadFile | str, schema: type[BaseModel]) -> None:
    """One value of a field; an empty one is absent, and of a file, only the name is taken."""
    plain = name.removesuffix("[]")
    if isinstance(value, UploadFile):
        if plain in schema.model_fields:
            raise InvalidRequest(f"{name!r} is a file: send it without a file name.", name)
        value = "a file"
    if value:
        given.setdefault(plain, []).append(value)


def _fields(given: dict[str, list[str]], schema: type[BaseModel]) -> Iterator[tuple[str, object]]:
    """Each field with its value, or with all of them where it is a list."""
    for name, values in given.items():
        field = schema.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            yield name, values
        elif field is not None and len(values) > 1:
            raise InvalidRequest(f"{name!r} is there twice.", name)
        else:
            yield name, values[0]


def _keep(file: UploadFile, spool: Spool) -> Upload:
    """Put a file where the worker can read it."""
    filename = file.filename or ""
    path = spool.new_path(filename)
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)
    return Upload(path, filename, path.stat().st_size)


def body_pieces(
    request: Request, settings: Settings, limit: int, setting: str
) -> AsyncGenerator[bytes, None]:
    """The body's bytes, as long as they keep coming and aren't too many."""
    state = request.scope["state"]
    state["spool"].arrival = Arrival(state["share"], settings)
    return _pieces(request.stream(), state["spool"].arrival, limit, setting)


async def _pieces(
    stream: AsyncGenerator[bytes, None], arrival: Arrival, limit: int, setting: str
) -> AsyncGenerator[bytes, None]:
    size = 0
    while size <= min(DISCARD * limit, limit + DISCARD_BYTES):
        try:
            piece = await arrival.next_piece(stream)
        except StopAsyncIteration:
            break
        except ClientDisconnect:
            raise InvalidRequest("The client left before its request was complete.") from None
        size += len(piece)
        if size <= limit:
            yield piece
    if size > limit:
        raise TooLarge(f"The body is larger than {limit:,} bytes ({setting}")


def _explain(error: ValidationError) -> tuple[str, str | None]:
    """What is wrong with which field; the first mistake decides `param`."""
    item = error.errors()[0]
    if item["type"] == "json_invalid" or not item["loc"]:
        half = any(word in item["msg"] for word in ("surrogate", "hex escape"))
        hint = (
            r" An escape of \ud800 to \udfff is half a character: send both halves, or none." if half else ""
        )
        return f"The body isn't a JSON object: {item['msg']}.{hint}", None
    names = [str(part) for part in item["loc"] if part not in ("str", "VoiceId")]
    param = ".".join(names) or "body"
    if item["type"] == "missing":
        return f"{param!r} is required.", param
    return f"{param!r}: {item['msg']}.", param
