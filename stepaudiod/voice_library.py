"""The voice library on disk: voices made from recordings. Independent of engines and of HTTP.

    voices/
      aunt-mei/
        voice.json            name, transcript, description, language, gender, consent, created, owner
        reference.wav         the recording, in its original container
        <key>.safetensors     an engine's cache, named by content and checkpoint

A voice is written to a temporary folder and then renamed, so that readers never see a partial one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stepaudiod.errors import InvalidRequest, NotFound
from stepaudiod.obstacles import READ, Needed, explain
from stepaudiod.temp_dirs import LEAVING, UNFINISHED, TempDir

log = logging.getLogger(__name__)

ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
METADATA = "voice.json"
REFERENCE = "reference"
"""The recording's file name, before its suffix."""


class StoredVoice(NamedTuple):
    """A voice of the library.

    Attributes:
        id: the name of its folder, used in requests.
        name: the display name.
        consent: the statement that the speaker agreed to the use of the voice.
        created: seconds since the epoch.
        language: BCP 47 tag; "" if unknown.
        gender: "female", "male" or "".
        owner: the name of the only API key that may use it; "" is for every caller.
    """

    id: str
    name: str
    transcript: str
    consent: str
    created: int
    description: str = ""
    language: str = ""
    gender: str = ""
    owner: str = ""


class VoiceLibrary:
    """The voices below one folder, which is created with the first voice.

    The caller is the name of an API key, or "" for none: private voices of other keys are invisible, and new
    ones belong to this key. None sees all voices.
    """

    def __init__(self, root: Path, caller: str | None = None) -> None:
        self.root = root
        self._caller = caller

    def list(self) -> list[StoredVoice]:
        """Every complete voice, sorted by id; OSError if the folder can't be read."""
        return sorted(self._voices(), key=lambda voice: voice.id)

    def _voices(self) -> Iterator[StoredVoice]:
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:  # created with the first voice
            return
        for name in names:
            if ID.fullmatch(name):
                path = self.root / name / METADATA
                try:
                    voice = _read(path)
                except (FileNotFoundError, NotADirectoryError):  # not a voice, or deleted meanwhile
                    continue
                except PermissionError as error:
                    log.warning("%s", _unreadable(path, error))
                except (OSError, ValueError, TypeError) as error:
                    log.warning("%s is not a valid voice: %s", path, error)
                else:
                    if self._sees(voice):
                        yield voice

    def _sees(self, voice: StoredVoice) -> bool:
        return self._caller is None or voice.owner in ("", self._caller)

    def get(self, id: str) -> StoredVoice:
        path = self.root / id / METADATA
        if ID.fullmatch(id):
            try:
                voice = _read(path)
                if self._sees(voice):
                    return voice
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (OSError, ValueError, TypeError) as error:
                if self._caller is not None:
                    raise self._absent(id) from None  # it may belong to another key
                if isinstance(error, PermissionError):
                    raise NotFound(f"The voice {id!r}: {_unreadable(path, error)}", "voice") from None
                raise NotFound(
                    f"The voice {id!r} is damaged: {METADATA} can't be read ({type(error).__name__}). "
                    "Delete its folder and make it again.",
                    "voice",
                ) from None
        raise self._absent(id)

    def _absent(self, id: str) -> NotFound:
        known = ", ".join(voice.id for voice in self.list()) or "none yet"
        return NotFound(f"There is no voice {id[:80]!r} in the library. Voices here: {known}.", "voice")

    def recording(self, id: str) -> Path:
        """The path of the voice's recording; `NotFound` if it or the voice is missing."""
        self.get(id)
        for path in sorted((self.root / id).glob(f"{REFERENCE}.*")):
            return path
        raise NotFound(
            f"The recording of the voice {id!r} is missing. Delete the voice and make it again.", "voice"
        )

    def require_free(self, name: str) -> str:
        """The id for a new voice of this name.

        A private voice's id ends in random digits, so that it can't collide with, or reveal, another key's.

        Raises:
            InvalidRequest: the name has no letter and no digit, or it is taken.
        """
        id = make_id(name)
        if self._caller:
            same = (v.id for v in self.list() if v.owner == self._caller and make_id(v.name) == id)
            taken = next(same, None)
        elif not (self.root / id).exists():
            return id
        else:
            taken = id if self._caller is None or any(v.id == id for v in self.list()) else None
        if taken is not None:
            raise InvalidRequest(
                f"There is a voice {taken!r} already. Delete it first, or choose another name.", "name"
            )
        return f"{id[:50].rstrip('-')}-{secrets.token_hex(4)}"

    def create(
        self,
        name: str,
        recording: Path,
        transcript: str,
        consent: str,
        *,
        description: str = "",
        language: str = "",
        gender: str = "",
    ) -> StoredVoice:
        """Make a voice from a copy of a recording, a file with the suffix of its container.

        Raises:
            InvalidRequest: the name is invalid or taken, or there is no consent.
        """
        id = self.require_free(name)
        if not consent.strip():
            raise InvalidRequest("A voice needs consent: name the person that agreed to its use.", "consent")
        voice = StoredVoice(
            id,
            name.strip(),
            transcript.strip(),
            consent.strip(),
            int(time.time()),
            description,
            language,
            gender,
            self._caller or "",
        )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # from mkdir: the path exists and isn't a folder
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.root)) from error
        scratch = TempDir(self.root, UNFINISHED)
        unfinished = scratch.path
        try:
            shutil.copyfile(recording, unfinished / f"{REFERENCE}{recording.suffix or '.wav'}")
            (unfinished / METADATA).write_text(
                json.dumps(voice._asdict(), ensure_ascii=False, indent=1), encoding="utf-8"
            )
            for kept in unfinished.iterdir():
                with kept.open("rb") as file:
                    os.fsync(file.fileno())  # a power failure could leave the name without the contents
            os.rename(unfinished, self.root / id)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise InvalidRequest(f"There is a voice {id!r} already. Choose another name.", "name") from None
        finally:
            scratch.close()
        return voice

    def delete(self, id: str) -> None:
        """Remove a voice with its caches; `NotFound` if there is none."""
        self.get(id)
        with TempDir(self.root, LEAVING) as leaving:
            try:
                os.rename(self.root / id, leaving / id)
            except FileNotFoundError:
                raise NotFound(f"The voice {id!r} has just been deleted.", "voice") from None
            shutil.rmtree(leaving / id)


def make_id(name: str) -> str:
    """Make a folder name from a display name: Aunt Mei is `aunt-mei`.

    A name with other than ASCII letters gets a digest to be unique: 小美 is `voice-` and eight digits.

    Raises:
        InvalidRequest: the name has no letter and no digit.
    """
    if not any(c.isalnum() for c in name):
        raise InvalidRequest(f"{name[:80]!r} can't be a voice's name: it needs a letter or a digit.", "name")
    id = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    if all(c.isascii() for c in name if c.isalnum()):
        return id
    return f"{id or 'voice'}-{hashlib.sha256(name.strip().encode()).hexdigest()[:8]}"


def _unreadable(path: Path, error: PermissionError) -> str:
    return f"{path} can't be read: {error.strerror}.{explain(Needed(path, READ, path.parent, 'data'))}"


def _read(path: Path) -> StoredVoice:
    """Read one voice's metadata; its id is the folder's name, even if the file says otherwise."""
    return StoredVoice(**json.loads(path.read_text(encoding="utf-8")) | {"id": path.parent.name})
