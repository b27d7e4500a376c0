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

    The client's `hf_hub_download` can't resume an interrupted download: each attempt begins a new file
    (huggingface_hub 2.4). Its lower-level `http_get` resumes from an offset, and uses plain HTTP, which every
    mirror and proxy supports, instead of Xet.
    """

    name = "huggingface"

    def __init__(self, endpoint: str | None) -> None:
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        disable_progress_bars()
        self._api = HfApi(endpoint=endpoint, library_name="stepaudioctl", library_version=__version__)
        self.endpoint = self._api.endpoint

    def list(self, repository: str, revision: str | None) -> Listing:
        try:
            info = self._api.model_info(
                repository, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT_S
            )
        except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
            raise self._convert(repository, error) from None
        except (httpx2.InvalidURL, ImportError, ValueError) as error:
            # an invalid address or proxy, or a proxy protocol whose package is missing
            raise unreachable(self, error) from None
        files = []
        for sibling in info.siblings or []:
            if sibling.size is None:
                raise HubRefused(
                    f"{self.endpoint} lists {repository} without sizes: it isn't a complete mirror. Use "
                    "another --endpoint."
                )
            digest = Digest("git", sibling.blob_id) if sibling.blob_id else None
            if sibling.lfs:
                # the blob is only a pointer to the file
                digest = Digest("sha256", sibling.lfs.sha256)
            files.append(RemoteFile(sibling.rfilename, sibling.size, digest))
        return Listing(info.sha or revision or "main", tuple(files))

    def partial_bytes(self, file: RemoteFile, scratch: Path) -> int:
        path = _partial(file, scratch)
        return path.stat().st_size if path.exists() else 0

    def fetch(
        self, repository: str, revision: str, file: RemoteFile, scratch: Path, received: Received
    ) -> Path:
        path = _partial(file, scratch)
        path.parent.mkdir(parents=True, exist_ok=True)
        url = hf_hub_url(repository, file.path, revision=revision, endpoint=self.endpoint)
        headers = build_hf_headers(library_name="stepaudioctl", library_version=__version__)
        try:
            with _Counted(path, received) as partial:
                size_bytes = partial.seek(0, os.SEEK_END)
                if size_bytes > file.size_bytes:
                    # it can't be a part of that file
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
            raise self._convert(repository, error) from None
        except OSError as error:
            if error.errno is not None:
                raise
            # the client's error if the size differs from the listing
            path.unlink()
            raise IncompleteModel(
                f"{file.path} of {repository} was received with another size than the {file.size_bytes} "
                f"bytes that {self.endpoint} lists; it was deleted. Run the same command again."
            ) from None
        return path

    def _convert(self, repository: str, error: Exception) -> CtlError:
        if isinstance(error, HfHubHTTPError):
            return refused(self, repository, error.response.status_code, error)
        return unreachable(self, error)


class _Counted(io.BufferedRandom):
    """A partial file, created if missing, that reports its size."""

    def __init__(self, path: Path, received: Received) -> None:
        path.touch()
        super().__init__(io.FileIO(path, "r+b"))
        self._received = received

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write through the buffer, so that an interrupted download loses nothing."""
        written = super().write(data)
        self.flush()
        self._received(self.tell())
        return written


def _partial(file: RemoteFile, scratch: Path) -> Path:
    """The path has the digest in it, so that another revision of the file is not resumed."""
    mark = file.digest.value[:16] if file.digest else str(file.size_bytes)
    return scratch / f"{file.path}.{mark}{PARTIAL}"
