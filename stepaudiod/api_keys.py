"""API keys: generating, storing and checking them.

The file has one key per line, `name:digest`, the digest being SHA-256 in hexadecimal; `#` begins a comment.
Keys are random and 256 bits long, so a plain digest can't be reversed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from stepaudiod.errors import ConfigError

DEFAULT_PATH = Path("/etc/stepaudiod/api-keys")

PREFIX = "sk-stepaudio-"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LINE = re.compile(rf"(?P<name>{NAME.pattern}):(?P<digest>[0-9a-f]{{64}})")
HOW_TO = "stepaudioctl keys add NAME"


class ApiKeys(NamedTuple):
    """The digest of each valid key by its name; `problem` says why no keys could be read."""

    digests: dict[str, bytes]
    problem: str = ""
    is_absent: bool = False

    def name_of(self, key: bytes) -> str | None:
        """Return the name of a key, None if it is unknown. Takes the same time for every unknown key."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def format_line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def parse(text: str, origin: str) -> dict[str, bytes]:
    """Parse a key file into digests by name; messages call it `origin`.

    Raises:
        ConfigError: a line is malformed or a name occurs twice; names the file and the line.
    """
    digests: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        found = LINE.fullmatch(entry)
        if found is None:
            raise ConfigError(f"{origin}:{number}: this isn't name:sha256-hex. {HOW_TO} writes such a line.")
        if found["name"] in digests:
            raise ConfigError(f"{origin}:{number}: there are two keys named {found['name']!r}. Rename one.")
        digests[found["name"]] = bytes.fromhex(found["digest"])
    return digests


def without(text: str, name: str) -> str:
    """The text of a key file without the line of this key; all other lines stay as they are."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith(f"{name}:"))


def read(path: Path) -> ApiKeys:
    """Read a key file; if it is missing or invalid there are no keys, and `problem` says why."""
    try:
        return ApiKeys(parse(path.read_text(), str(path)))
    except FileNotFoundError:
        return ApiKeys({}, f"{path}: there is no such file", is_absent=True)
    except (OSError, UnicodeDecodeError) as error:
        return ApiKeys({}, f"{path}: can't be read: {getattr(error, 'strerror', None) or error}")
    except ConfigError as error:
        return ApiKeys({}, error.message)
