"""The voice library on disk: voices that people made from recordings. Knows no engine and no HTTP.

    voices/
      aunt-mei/
        voice.json            name, transcript, description, language, gender, consent, created, owner
        reference.wav         the recording, in whatever container it came
        <key>.safetensors     what an engine made of it, named by content and checkpoint

A voice is written beside its place and then moved there, so that nobody ever sees half of one.
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
from stepaudiod.temp_dirs import LEAVING, UNFINISHED, TempDir

log = logging.getLogger(__name__)

ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
METADATA = "voice.json"
REFERENCE = "reference"
"""The recording's file name, before its suffix."""


class StoredVoice(NamedTuple):
    """A voice of the library.

    Attributes:
        id: the name of its folder, and the name that requests use.
        name: what people call it.
        transcript: what the recording says; "" where nobody knows.
        consent: who agreed that this voice is used, in the words of whoever made it.
        created: seconds since the epoch.
        description: one line for a person who chooses.
        language: BCP 47 tag; "" where it isn't known.
        gender: "female", "male" or "".
        owner: the name of the API key that it is for alone; "" is for every caller.
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
    """The voices below one folder.

    Args:
        root: the folder; it is made when the first voice is.
        caller: the name of an API key, or "" for none, where a voice is for the key alone that made it;
            voices of other keys don't exist for it, and those that it makes are its own. None sees all.
    """

    def __init__(self, root: Path, caller: str | None = None) -> None:
        self.root = root
        self._caller = caller

    def list(self) -> list[StoredVoice]:
        """Every voice, by id. What isn't a whole voice is left out.

        Raises:
            OSError: the folder may not be read.
        """
        return sorted(self._voices(), key=lambda voice: voice.id)

    def _voices(self) -> Iterator[StoredVoice]:
        """Read each folder that holds a voice."""
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:  # made with the first voice
            return
        for name in names:
            if ID.fullmatch(name):
                path = self.root / name / METADATA
                try:
                    voice = _read(path)
                except (FileNotFoundError, NotADirectoryError):  # no voice, or deleted since it was listed
                    continue
                except (OSError, ValueError, TypeError) as error:
                    log.warning("%s is no voice: %s", path, error)
                else:
                    if self._sees(voice):
                        yield voice

    def _sees(self, voice: StoredVoice) -> bool:
        return self._caller is None or voice.owner in ("", self._caller)

    def get(self, id: str) -> StoredVoice:
        """The voice of that id.

        Raises:
            NotFound: there is none.
        """
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
                    raise self._absent(id) from None  # it may be another key's
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
        """The voice's recording.

        Raises:
            NotFound: there is no such voice, or its recording is gone.
        """
        self.get(id)
        for path in sorted((self.root / id).glob(f"{REFERENCE}.*")):
            return path
        raise NotFound(
            f"The recording of the voice {id!r} is gone. Delete the voice and make it again.", "voice"
        )

    def require_free(self, name: str) -> str:
        """The id that a new voice of that name would have.

        A key's own voice has a random end: its id is never another key's, and doesn't tell of one.

        Raises:
            InvalidRequest: there is no letter and no digit in the name, or it is taken.
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
        """Make a voice from a recording, which is copied.

        Args:
            name: what people call it; the id is made from it.
            recording: the file, with the suffix of its container.
            transcript: what it says, or "".
            consent: who agreed, in words; it is asked for because a voice is somebody's.
            description: one line for a person who chooses.
            language: BCP 47 tag.
            gender: "female", "male" or "".

        Raises:
            InvalidRequest: there is no name, it is taken, or there is no consent.
        """
        id = self.require_free(name)
        if not consent.strip():
            raise InvalidRequest("A voice needs consent: say who agreed that it is used.", "consent")
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
        except FileExistsError as error:  # mkdir's word for something that is there and isn't a folder
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
                    os.fsync(file.fileno())  # or a power cut could leave the name without the contents
            os.rename(unfinished, self.root / id)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise InvalidRequest(f"There is a voice {id!r} already. Choose another name.", "name") from None
        finally:
            scratch.close()
        return voice

    def delete(self, id: str) -> None:
        """Remove a voice and everything that was made of it.

        Raises:
            NotFound: there is none.
        """
        self.get(id)
        with TempDir(self.root, LEAVING) as leaving:
            try:
                os.rename(self.root / id, leaving / id)
            except FileNotFoundError:
                raise NotFound(f"The voice {id!r} has just been deleted.", "voice") from None
            shutil.rmtree(leaving / id)


def make_id(name: str) -> str:
    """A folder's name from what people call a voice: Aunt Mei is `aunt-mei`.

    Letters that a folder's name can't have are told apart by a digest: 小美 is `voice-` and eight digits.

    Raises:
        InvalidRequest: there is no letter and no digit in it.
    """
    if not any(c.isalnum() for c in name):
        raise InvalidRequest(f"{name[:80]!r} names nobody: a voice's name needs a letter or a digit.", "name")
    id = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    if all(c.isascii() for c in name if c.isalnum()):
        return id
    return f"{id or 'voice'}-{hashlib.sha256(name.strip().encode()).hexdigest()[:8]}"


def _read(path: Path) -> StoredVoice:
    """One voice's metadata; the folder's name is its id, whatever the file says."""
    return StoredVoice(**json.loads(path.read_text(encoding="utf-8")) | {"id": path.parent.name})
