"""ModelScope, through the client modelscope-hub."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path

from stepaudiod.ctl.errors import CtlError, IncompleteModel
from stepaudiod.ctl.hub.digests import Digest
from stepaudiod.ctl.hub.sources import Listing, Received, RemoteFile, Source, refused, unreachable

# The client reads these when it is imported: no progress bars, and more than its hour for a file, which is
# too short for seven gigabytes. A download that stalls is ended by its other timeouts.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT", str(7 * 24 * 3600))

from modelscope_hub import HubApi, HubConfig, ProgressCallback
from modelscope_hub.errors import APIError, FileIntegrityError, HubError
from requests import RequestException

PARTIAL = ".incomplete"
"""The client's suffix of files that it can resume."""


class Config(HubConfig):
    """The client's settings, without the id that it would store on the disk and send with every request."""

    def get_session_id(self) -> str:
        return uuid.uuid4().hex


class ModelScope(Source):
    name = "modelscope"

    def __init__(self, endpoint: str | None) -> None:
        logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
        # the client accepts the second name too, with a deprecation warning
        named = endpoint or os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
        config = Config(endpoint=named or None)
        self._api = HubApi(config)
        self.endpoint = str(config.endpoint)

    def list(self, repository: str, revision: str | None) -> Listing:
        """List the files; the revision stays a name, since the hub reports no commit."""
        try:
            found = self._api.list_repo_files(repository, "model", revision=revision)
        except HubError as error:
            raise self._convert(repository, error) from None
        except (RequestException, ValueError) as error:
            # an invalid address or proxy, or a proxy protocol whose package is missing
            raise unreachable(self, error) from None
        files = [
            RemoteFile(file.path, file.size or 0, Digest("sha256", file.sha256) if file.sha256 else None)
            for file in found
            if file.type != "tree"
        ]
        return Listing(revision or "master", tuple(files))

    def partial_bytes(self, file: RemoteFile, scratch: Path) -> int:
        for path in (scratch / file.path, scratch / f"{file.path}{PARTIAL}"):
            if path.exists():
                return min(path.stat().st_size, file.size_bytes)
        return 0

    def fetch(
        self, repository: str, revision: str, file: RemoteFile, scratch: Path, received: Received
    ) -> Path:
        class Counted(ProgressCallback):
            size_bytes = 0

            def update(self, size: int) -> None:
                self.size_bytes += size
                received(self.size_bytes)

        try:
            return Path(
                self._api.downloader.download_file(
                    repository,
                    "model",
                    file.path,
                    revision=revision,
                    cache_dir=scratch / ".client",
                    local_dir=scratch,
                    expected_sha256=file.digest.value if file.digest else None,
                    file_size=file.size_bytes or None,
                    progress_callbacks=[Counted],
                )
            )
        except FileIntegrityError as error:
            raise IncompleteModel(
                f"{file.path} of {repository} was received damaged from {self.endpoint} more than once "
                f"({error.message}). It was deleted. Run the same command again; if it fails again, try the "
                "other hub (--from)."
            ) from None
        except HubError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                # an error of the disk, which the client reports as one of the network
                raise error.__cause__ from None
            raise self._convert(repository, error) from None
        except RequestException as error:
            raise unreachable(self, error) from None

    def _convert(self, repository: str, error: HubError) -> CtlError:
        if isinstance(error, APIError):
            return refused(self, repository, error.status_code, error)
        return unreachable(self, error)
