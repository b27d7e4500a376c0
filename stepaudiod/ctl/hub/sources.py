"""The interface of a model hub. The clients are in their own modules, which are slow to import.

Source
├── huggingface.HuggingFace     the client huggingface_hub
└── modelscope.ModelScope       the client modelscope-hub
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stepaudiod.ctl.errors import HubRefused, Unreachable
from stepaudiod.ctl.hub.digests import Digest

TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
MIRRORS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}

Received = Callable[[int], None]
"""Called with the number of bytes of a file that have been received."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    path: str
    size_bytes: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a revision, which is the commit if the hub reports it, else the requested one."""

    revision: str
    files: tuple[RemoteFile, ...]


class Source(Protocol):
    """A model hub. Errors are `CtlError`s, those of the disk `OSError`s."""

    name: str
    endpoint: str

    def list(self, repository: str, revision: str | None) -> Listing:
        """List the files of a revision; None is the newest one."""

    def partial_bytes(self, file: RemoteFile, scratch: Path) -> int:
        """The size of the file's part that an earlier pull has left in the scratch folder."""

    def fetch(
        self, repository: str, revision: str, file: RemoteFile, scratch: Path, received: Received
    ) -> Path:
        """Download one file to the scratch folder, resuming an earlier pull; return its path."""


def unreachable(source: Source, error: BaseException) -> Unreachable:
    return Unreachable(
        f"{source.endpoint} can't be reached ({_first_line(error)}). Behind a proxy, set HTTPS_PROXY. To use "
        f"a mirror, set {MIRRORS[source.name]} or --endpoint; if Hugging Face is slow or blocked, try --from "
        "modelscope. The downloaded part is kept: run the same command to continue."
    )


def refused(source: Source, repository: str, status: int | None, error: BaseException) -> HubRefused:
    token = TOKENS[source.name]
    if status in (401, 403):
        advice = (
            f"It needs an access token: set {token}. If the repository is gated, accept its terms on the "
            "site first."
        )
    elif status == 404:
        advice = "Check the --revision, and whether this server has the repository."
    elif status == 429:
        advice = f"Too many requests: wait, or set {token} to an access token."
    else:
        advice = f"The server's message: {_first_line(error)}."
    answer = f"status {status}" if status else "an error"
    return HubRefused(f"{source.endpoint} answered {answer} for {repository}. {advice}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
