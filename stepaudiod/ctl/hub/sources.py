"""What a model hub is to us: a listing, and bytes from an offset on. The clients are in their own modules.

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

NAMES = ("huggingface", "modelscope")
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
MIRRORS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}

Received = Callable[[int], None]
"""Takes how many bytes of a file are here now."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a listing; the digest is None where the hub tells none."""

    path: str
    size_bytes: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one revision.

    Attributes:
        revision: the commit where the hub tells it, else what was asked for.
        files: all of them.
    """

    revision: str
    files: tuple[RemoteFile, ...]


class Source(Protocol):
    """A model hub. What goes wrong is a `CtlError`; a full disk is an `OSError`."""

    name: str
    endpoint: str

    def list(self, repository: str, revision: str | None) -> Listing:
        """What is there; None is the newest revision."""

    def partial_bytes(self, file: RemoteFile, scratch: Path) -> int:
        """How much of the file an earlier pull has left in the scratch folder."""

    def fetch(
        self, repository: str, revision: str, file: RemoteFile, scratch: Path, received: Received
    ) -> Path:
        """Fetch one file into the scratch folder, from where an earlier pull stopped; returns where it is."""


def unreachable(source: Source, error: BaseException) -> Unreachable:
    """Nobody answers there, or not to the end."""
    return Unreachable(
        f"{source.endpoint} can't be reached ({_first_line(error)}). Behind a proxy, set HTTPS_PROXY. A "
        f"mirror is named by {MIRRORS[source.name]} or --endpoint; where Hugging Face is far, try --from "
        "modelscope. What has come is kept: the same command goes on from there."
    )


def refused(source: Source, repository: str, status: int | None, error: BaseException) -> HubRefused:
    """The hub answered with an error."""
    token = TOKENS[source.name]
    if status in (401, 403):
        advice = (
            f"It wants to know who asks: put an access token into {token}. Where the repository is gated, "
            "accept its terms on the site first."
        )
    elif status == 404:
        advice = "Is the --revision right, and does this server have the repository?"
    elif status == 429:
        advice = f"It has had too many requests: wait, or put an access token into {token}."
    else:
        advice = f"It said: {_first_line(error)}."
    answer = f"status {status}" if status else "an error"
    return HubRefused(f"{source.endpoint} answered {answer} for {repository}. {advice}")


def _first_line(error: BaseException) -> str:
    """An error's own words, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
