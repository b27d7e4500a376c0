"""The functions that one streamed speech request passes through: `python -m tests.bench.passage`.

A real daemon with an embedded voice serves one request under `sys.setprofile`, in the front from its route
handler on, and in the worker. The request's text and the audio made from it are followed through arguments,
returned and yielded values. A function of the package is a stop on their way when it

- passes them to another stop, or to a function outside of the package that returns nothing: it sends or
  queues them,
- keeps them: a constructor, or a call of a method of a socket or a deque,
- yields them, or returns an iterator that holds them,
- returns them without having them from its caller: it reads them from somewhere.

A generator or a coroutine gets its arguments once: continuing or closing it passes nothing.

A function that only computes something for its caller (a check, the text's normalization, the encoding of a
frame) is none. Left out are what reads the body before the route handler has it, middleware, and what an
engine does inside its method. The script knows no function by name.
"""

from __future__ import annotations

import dis
import gc
import inspect
import os
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import AsyncGeneratorType as AsyncGenerator
from types import CodeType, FrameType
from types import GeneratorType as Generator

from tests.activation import DaemonProcess

CHECKOUT = Path(__file__).parent.parent.parent
PACKAGE = str(CHECKOUT / "stepaudiod") + os.sep
ROUTING = os.path.join("starlette", "routing.py")
HOOK = "from tests.bench.passage import record\n\nrecord()\n"

FOLDER_VARIABLE = "PASSAGE_FOLDER"
"""Names the folder into which each process writes its list."""

TEXTS = ("The birch canoe slid on the smooth planks.", "Glue the sheet to the dark blue background.")
"""The first loads the engine, the second is recorded."""

MARK = "dark blue"
"""Only the recorded text has it."""

AUDIO_BYTES = 256
"""A shorter buffer is the header of a frame or of a file."""

ENGINE_FOLDERS = ("engines", "editx", "audio", "text")
GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
DEPTH = 4
"""So many containers deep the text or the audio is looked for."""


class Recorder:
    """Profiles a process, and writes its list anew whenever it may have changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_on = False
        self._handler: CodeType | None = None
        self._takers: set[CodeType] = set()
        self._passes: dict[CodeType, set[CodeType | None]] = {}
        """To which functions; None makes a function a stop by itself."""

    def profile(self, frame: FrameType, event: str, value: object) -> None:
        """Look at one call, return or yield."""
        code, caller = frame.f_code, frame.f_back
        if code.co_name.startswith("<"):  # a comprehension is a part of its function
            return
        if event == "c_call":
            if code in self._takers and isinstance(getattr(value, "__self__", None), deque | socket.socket):
                self._note(frame, None)
        elif event == "call" and (_is_ours(frame) or _is_ours(caller)) and not _is_resumed(frame):
            if self._is_carried(frame, *_arguments(frame)):
                self._takers.add(code)
                self._note(frame, *([None] if code.co_name == "__init__" else []))
                self._note(caller, *([code] if _is_ours(frame) else []))
        elif event == "return" and _is_ours(frame):
            if self._is_carried(frame, value):
                is_passed = code.co_flags & GENERATORS or isinstance(value, Generator | AsyncGenerator)
                self._note(frame, *([None] if is_passed or code not in self._takers else []))
        elif event == "return" and value is None and code in self._takers:
            is_generated = code.co_filename == "<string>"  # the constructor of a dataclass
            self._note(
                caller, *([] if is_generated or not self._is_carried(frame, *_arguments(frame)) else [None])
            )

    def _is_carried(self, frame: FrameType, *values: object) -> bool:
        """Whether one of them is on its way. The request's text, in a route handler, starts the recording."""
        if not any(_holds(value, DEPTH, self._is_on) for value in values):
            return False
        self._handler = self._handler or _handler(frame)
        self._is_on = self._is_on or "starlette" not in sys.modules or self._handler is not None
        return self._is_on

    def _note(self, frame: FrameType | None, *passed: CodeType | None) -> None:
        while frame is not None and frame.f_code.co_name.startswith("<"):
            frame = frame.f_back
        if frame is None or not _is_ours(frame) or frame.f_code in passed:
            return
        known = self._passes.setdefault(frame.f_code, set())
        if not known.issuperset(passed):
            known.update(passed)
            self._path.write_text("\n".join(map(_name, self._stops())))

    def _stops(self) -> list[CodeType]:
        """In the order of their first event."""
        stops: set[CodeType | None] = {None}
        while more := {code for code, passed in self._passes.items() if passed & stops} - stops:
            stops |= more
        found = [
            code for code in self._passes if code in stops and ".__call__.<locals>." not in code.co_qualname
        ]
        if self._handler in found:
            found = found[found.index(self._handler) :]
        engine = next((code for code in found if _folder(code) == "engines"), None)
        return [code for code in found if code is engine or _folder(code) not in ENGINE_FOLDERS]


def record() -> None:
    """Profile this process from now on, in every thread."""
    recorder = Recorder(Path(os.environ[FOLDER_VARIABLE], str(os.getpid())))
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)


def functions() -> tuple[list[str], list[str]]:
    """The functions in the front and in the worker, as `module:name`, in the order of their first call."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hook").mkdir()
        (folder / "hook/sitecustomize.py").write_text(HOOK)
        environ = {"PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{CHECKOUT}", FOLDER_VARIABLE: name}
        (folder / "daemon").mkdir()
        daemon = DaemonProcess(folder / "daemon", {}, environ=environ)
        try:
            daemon.notify.wait_for("READY=1")
            with daemon.client() as client:
                for text in TEXTS:
                    body = {"model": "hibari", "voice": "heart", "input": text, "response_format": "pcm"}
                    client.post("/v1/audio/speech", json=body).raise_for_status()
            front, worker = (folder / str(pid) for pid in (daemon.process.pid, daemon.worker_pid()))
        finally:
            daemon.end()
        return front.read_text().splitlines(), worker.read_text().splitlines()


def _name(code: CodeType) -> str:
    module = Path(code.co_filename).relative_to(CHECKOUT).with_suffix("")
    return f"{'.'.join(module.parts)}:{code.co_qualname}"


def _is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def _handler(frame: FrameType | None) -> CodeType | None:
    """The route handler on the stack."""
    while frame is not None:
        if _is_ours(frame) and frame.f_back is not None and frame.f_back.f_code.co_filename.endswith(ROUTING):
            return frame.f_code
        frame = frame.f_back
    return None


def _folder(code: CodeType) -> str:
    """The folder of the package that a function is in."""
    return Path(code.co_filename).relative_to(PACKAGE).parts[0]


def _is_resumed(frame: FrameType) -> bool:
    """Whether a generator or a coroutine continues, or is closed: it has got its arguments before."""
    return frame.f_lasti > _begin(frame.f_code)


@cache
def _begin(code: CodeType) -> int:
    """The offset of a function's first instruction after its prologue."""
    return next(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")


def _arguments(frame: FrameType) -> list[object]:
    """The arguments of a call, without the object that has the method."""
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [values[name] for name in names if name not in ("self", "cls") and name in values]


def _holds(value: object, depth: int, is_audio_due: bool) -> bool:
    """Whether the text of the recorded request, or audio, is in there."""
    match value:
        case str():
            return MARK in value
        case bytes() | bytearray():
            return MARK.encode() in value or (is_audio_due and len(value) >= AUDIO_BYTES)
        case memoryview():
            return is_audio_due and value.nbytes >= AUDIO_BYTES
    if type(value).__name__ == "ndarray":
        return is_audio_due
    return depth > 0 and any(_holds(part, depth - 1, is_audio_due) for part in _parts(value))


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Generator):
        return value.gi_frame.f_locals.values() if value.gi_frame else ()
    if isinstance(value, AsyncGenerator):
        return value.ag_frame.f_locals.values() if value.ag_frame else ()
    if type(value).__name__ == "async_generator_wrapped_value":  # what an asynchronous generator yields
        return gc.get_referents(value)
    if type(value).__module__.startswith("stepaudiod"):
        names = getattr(type(value), "__slots__", None) or vars(value)
        return [getattr(value, name) for name in names if hasattr(value, name)]
    return ()


if __name__ == "__main__":
    for process, names in zip(("front", "worker"), functions(), strict=True):
        print(f"{len(names)} in the {process}:", *names, sep="\n  ")
