"""Hugging Face and its mirrors, through the client huggingface_hub."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

from stepaudiod import __version__
from stepaudiod.ctl.errors import CtlError, HubRefused, IncompleteModel
from stepaudiod.ctl.hub.digests import Digest
from stepaudiod.ctl.hub.sources import Listing, Received, RemoteFile, Source, refused, unreachable

PARTIAL = ".part"
LISTING_TIMEOUT_S = 60.0


class HuggingFace(Source):
    """The hub.

    The client's `hf_hub_download` keeps nothing of an interrupted download: each attempt begins a new file
    (huggingface_hub 2.4). Its `http_get`, which is below that, goes on from an offset; it is also plain HTTP,
    which every mirror and proxy has, where the client would otherwise ask for Xet.

    Args:
        endpoint: another server; None leaves it to the client, which reads HF_ENDPOINT.
    """

    name = "huggingface"

    def __init__(self, endpoint: str | None) -> None:
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        disable_progress_bars()
        self._api = HfApi(endpoint=endpoint, library_name="stepaudioctl", library_version=__version__)
        self.endpoint = self._api.endpoint

    def list(self, repository: str, revision: str | None) -> Listing:
        """What is there."""
        try:
            info = self._api.model_info(
                repository, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT_S
            )
        except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
            raise self._said(repository, error) from None
        except (httpx2.InvalidURL, ImportError, ValueError) as error:
            # an address or a proxy that can't be one, or a proxy's protocol whose package is missing
            raise unreachable(self, error) from None
        files = []
        for sibling in info.siblings or []:
            if sibling.size is None:
                raise HubRefused(
                    f"{self.endpoint} lists {repository} without sizes: it isn't a whole mirror. Take "
                    "another --endpoint."
                )
            digest = Digest("git", sibling.blob_id) if sibling.blob_id else None
            if sibling.lfs:
                # git's name is that of a pointer to the file then
                digest = Digest("sha256", sibling.lfs.sha256)
            files.append(RemoteFile(sibling.rfilename, sibling.size, digest))
        return Listing(info.sha or revision or "main", tuple(files))

    def partial_bytes(self, file: RemoteFile, scratch: Path) -> int:
        """How much is here."""
        path = _partial(file, scratch)
        return path.stat().st_size if path.exists() else 0

    def fetch(
        self, repository: str, revision: str, file: RemoteFile, scratch: Path, received: Received
    ) -> Path:
        """Fetch one file."""
        path = _partial(file, scratch)
        path.parent.mkdir(parents=True, exist_ok=True)
        url = hf_hub_url(repository, file.path, revision=revision, endpoint=self.endpoint)
        headers = build_hf_headers(library_name="stepaudioctl", library_version=__version__)
        try:
            with _Counted(path, received) as partial:
                size_bytes = partial.seek(0, os.SEEK_END)
                if size_bytes > file.size_bytes:
                    # it can't be the beginning of that file
                    partial.truncate(0)
                    size_bytes = partial.seek(0)
                http_get(
                    url,
                    partial,
                    resume_size=size_bytes,
                    headers=headers,
                    expected_size=file.size_bytes,
                )
        except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
            raise self._said(repository, error) from None
        except OSError as error:
            if error.errno is not None:
                raise
            # how the client says that the connection gave another number of bytes than the listing
            path.unlink()
            raise IncompleteModel(
                f"{file.path} of {repository} came with another size than the {file.size_bytes} bytes that "
                f"{self.endpoint} lists; it was thrown away. Run the same command again."
            ) from None
        return path

    def _said(self, repository: str, error: Exception) -> CtlError:
        """The client's error as ours."""
        if isinstance(error, HfHubHTTPError):
            return refused(self, repository, error.response.status_code, error)
        return unreachable(self, error)


class _Counted(io.BufferedRandom):
    """A partial file that says how long it is.

    Args:
        path: the file, made where it is missing.
        received: takes its length.
    """

    def __init__(self, path: Path, received: Received) -> None:
        path.touch()
        super().__init__(io.FileIO(path, "r+b"))
        self._received = received

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Keep the next bytes on the disk, not in the buffer: an interruption may come at any moment."""
        written = super().write(data)
        self.flush()
        self._received(self.tell())
        return written


def _partial(file: RemoteFile, scratch: Path) -> Path:
    """Its name has the digest in it: another revision of the file begins anew."""
    mark = file.digest.value[:16] if file.digest else str(file.size_bytes)
    return scratch / f"{file.path}.{mark}{PARTIAL}"
