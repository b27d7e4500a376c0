"""A request's body: read within its limits and validated; errors name the field.

The files of a multipart form are spooled to disk until the response begins. `inline.py` reads JSON.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepaudiod.config import Settings
from stepaudiod.errors import Busy, InvalidRequest, TooLarge
from stepaudiod.temp_dirs import TempDir, sweep
from stepaudiod.web.schemas import Form
from stepaudiod.web.upload_slots import GIVES_WAY_S, Arrival, UploadSlots

TRIES = 10
"""How often a slot is requested, `GIVES_WAY_S` apart."""
DISCARD = 64
"""This many times the limit is read and dropped, so that a client that is still sending gets the refusal."""
DISCARD_BYTES = 1 << 28
"""Never more than this is dropped beyond the limit."""
MAX_FILES = 8
MAX_FIELDS = 128

SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")

SPOOL = "stepaudiod-"
SPOOLS = re.compile(r"stepaudiod-[a-z0-9_]{8}")
SPOOLED = re.compile(r"\d+\.[a-z0-9]{1,5}")

F = TypeVar("F", bound=Form)


@dataclass(slots=True, eq=False)
class Spool:
    """The files of one request, in a temporary directory.

    Attributes:
        uploads: each file's path, by the name of its field.
        refused: why a recording in base64 can't be used, by its field's name; an error only if it is used.
    """

    places: UploadSlots
    arrival: Arrival
    folder: TempDir | None = None
    uploads: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    is_open: bool = False

    async def open(self) -> None:
        """Take an upload slot; a slow upload may lose its own to this one.

        Raises:
            Busy: no slot became free within a second.
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
            self.places.take(self, self.arrival)
            self.is_open = True

    def new_path(self, filename: str) -> Path:
        """A path for a file of that name, of which only the suffix is kept.

        Raises:
            Busy: no upload slot is free.
        """
        self._take()
        if self.folder is None:
            self.folder = TempDir(Path(tempfile.gettempdir()), SPOOL)
        suffix = Path(filename).suffix.lower()
        return self.folder.path / f"{len(self.uploads)}{suffix if SUFFIX.fullmatch(suffix) else '.bin'}"

    def close(self) -> None:
        if self.folder is not None:
            self.folder.close()
            self.folder = None
        if self.is_open:
            self.places.give_back(self)
            self.is_open = False


class FormParser(MultiPartParser):
    """Starlette's parser, in bounded memory; knows whether the form is complete."""

    spool_max_size = 64 * 1024
    has_ended = False
    _fields_bytes = 0

    def on_end(self) -> None:
        self.has_ended = True

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Apply the limit of one field to all of them together."""
        if self._current_part.file is None:
            self._fields_bytes += end - start
            if self._fields_bytes > self.max_part_size:
                raise MultiPartException(f"its fields have more than {self.max_part_size:,} bytes")
        super().on_part_data(data, start, end)


def sweep_spools() -> None:
    """Remove the files that a killed process left; other programs share the directory."""
    with suppress(OSError):  # without a temporary directory, the first upload reports the error
        sweep(Path(tempfile.gettempdir()), SPOOLS, _is_spool)


def _is_spool(path: Path) -> bool:
    """Whether a directory contains only files that `Spool.new_path` names."""
    with os.scandir(path) as entries:
        return all(e.is_file(follow_symlinks=False) and SPOOLED.fullmatch(e.name) for e in entries)


class SpoolUploads:
    """Middleware with a spool for every request, which is emptied when the response begins.

    The worker has read the files by then, so a client that reads slowly keeps no slot.
    """

    def __init__(self, app: ASGIApp, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._places = UploadSlots(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        spool = state["spool"] = Spool(self._places, Arrival(state["share"], self._settings()))

        async def send_and_empty(message: Message) -> None:
            if message["type"] == "http.response.start":
                spool.close()
            await send(message)

        with closing(spool):
            await self._app(scope, receive, send_and_empty)


def check(schema: type[F], body: bytes | dict[str, object], part: str | None = None) -> F:
    """Validate JSON or a form's fields; `part` is the form's field that holds the JSON.

    Raises:
        InvalidRequest: a field is missing or wrong; `param` names the first.
    """
    try:
        return schema.model_validate_json(body) if isinstance(body, bytes) else schema.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(*_explain(error, schema, part)) from None


async def read_multipart(request: Request, schema: type[F]) -> tuple[F, dict[str, Path]]:
    """Read a multipart body: its validated fields and its files, which are kept until the response begins.

    Raises:
        InvalidRequest: it is not multipart, or a field or file is missing or wrong.
        TooLarge: more bytes than `limits.max_upload`.
        TooSlow: it stopped for `timeouts.body` seconds, or took `timeouts.upload` in all.
        Busy: no upload slot is free. The body is read and dropped, so that the client gets the answer.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidRequest("Send this as multipart/form-data, with the recording as a file.")
    spool: Spool = request.scope["state"]["spool"]
    settings: Settings = request.app.state.settings()
    limits = settings.limits
    pieces = body_pieces(request, settings)
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
    given: dict[str, Any] = {}
    try:
        if not parser.has_ended:
            raise InvalidRequest("The form breaks off: its closing boundary is missing. Send it whole.")
        for written, value in parsed.multi_items():
            name = schema.aliases.get(written, written)
            name = name if name in schema.files else written
            if name not in schema.files:
                _add(given, name, value, schema)
            elif not isinstance(value, UploadFile):
                raise InvalidRequest(f"{name!r} is no file: send it with a file name.", name)
            elif name in spool.uploads:
                raise InvalidRequest(f"{name!r} is there twice.", name)
            else:
                spool.uploads[name] = await asyncio.to_thread(_keep, value, spool)
    finally:
        await parsed.close()
    form = check(schema, given)
    for name, is_required in schema.files.items():
        if name in spool.uploads:
            if not spool.uploads[name].stat().st_size:
                raise InvalidRequest(f"{name!r} is empty.", name)
        elif is_required:
            raise InvalidRequest(f"{name!r} is required: a recording, as a file.", name)
    return form, spool.uploads


def check_length(text: str, settings: Settings, param: str = "input") -> None:
    """Raise `InvalidRequest` for a text longer than `limits.max_text`."""
    limit = settings.limits.max_text
    if len(text) > limit:
        message = f"{param!r} has {len(text):,} characters; at most {limit:,} are allowed (limits.max_text)."
        raise InvalidRequest(f"{message} Send it in parts.", param)


def _add(given: dict[str, Any], name: str, value: UploadFile | str, schema: type[Form]) -> None:
    """Add one value of a field; an empty value is absent, and a file in an unknown field is only named."""
    plain = name.removesuffix("[]")
    if isinstance(value, UploadFile):
        if plain in schema.model_fields:
            raise InvalidRequest(f"{name!r} is a file: send it without a file name.", name)
        value = "a file"
    field = schema.model_fields.get(plain)
    if value and _is_list(field):
        given.setdefault(plain, []).append(value)
    elif value and field is not None and plain in given:
        raise InvalidRequest(f"{plain!r} is there twice.", plain)
    elif value:
        given[name if field is None else plain] = value


def _keep(file: UploadFile, spool: Spool) -> Path:
    path = spool.new_path(file.filename or "")
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)
    return path


async def body_pieces(request: Request, settings: Settings) -> AsyncGenerator[bytes, None]:
    """The body in pieces, within its deadlines and `limits.max_upload`."""
    arrival, stream = request.scope["state"]["spool"].arrival, request.stream()
    limit, size = settings.limits.max_upload, 0
    while size <= min(DISCARD * limit, limit + DISCARD_BYTES):
        try:
            piece = await arrival.next_piece(stream)
        except StopAsyncIteration:
            break
        except ClientDisconnect:
            raise InvalidRequest("The client disconnected before its request was complete.") from None
        size += len(piece)
        if size <= limit:
            yield piece
    if size > limit:
        raise TooLarge(
            f"The body is larger than {limit:,} bytes (limits.max_upload). Send a shorter recording."
        )


def _is_list(field: FieldInfo | None) -> bool:
    """Whether a form has a field several times, as `name[]`."""
    return field is not None and get_origin(field.annotation) is list


def _explain(error: ValidationError, schema: type[Form], part: str | None) -> tuple[str, str | None]:
    """The message and the parameter of the first error."""
    first, *others = error.errors()
    # of the errors of a union, a missing field tells the most
    lacking = (each for each in others if each["type"] == "missing" and each["loc"][:1] == first["loc"][:1])
    item = next(lacking, first)
    if item["type"] == "json_invalid" or not item["loc"]:
        half = any(word in item["msg"] for word in ("surrogate", "hex escape"))
        hint = (
            r" An escape of \ud800 to \udfff is half a character: send both halves, or none." if half else ""
        )
        what = "The body" if part is None else repr(part)
        return f"{what} isn't a JSON object: {item['msg']}.{hint}", part
    names = [str(name) for name in item["loc"] if name not in ("str", "VoiceId")]
    if _is_list(schema.model_fields.get(names[0])):
        names = [f"{names[0]}[]"]
    param = ".".join(names)
    if item["type"] == "missing":
        return f"{param!r} is required.", param
    return f"{param!r}: {item['msg'].removeprefix('Value error, ')}.", param
