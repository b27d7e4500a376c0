"""API keys: how one is made, how it is stored, whose it is. Knows no HTTP.

The file has one key a line, `name:digest`, the digest being SHA-256 in hexadecimal; `#` begins a comment.
Keys are random and 256 bits long, so that a plain digest of one can't be turned back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from stepaudiod.errors import ConfigError

PREFIX = "sk-stepaudio-"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LINE = re.compile(rf"(?P<name>{NAME.pattern}):(?P<digest>[0-9a-f]{{64}})")
HOW_TO = "stepaudioctl keys add NAME"


class ApiKeys(NamedTuple):
    """The keys that are good.

    Attributes:
        digests: of each key, by its name.
        problem: why there is none; "" where there is nothing wrong.
        is_absent: whether that is because there is no file.
    """

    digests: dict[str, bytes]
    problem: str = ""
    is_absent: bool = False

    def name_of(self, key: bytes) -> str | None:
        """Whose key it is; None where it is nobody's. Takes the same time for every wrong one."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def new_key() -> str:
    """A key that nobody has yet."""
    return PREFIX + secrets.token_urlsafe(32)


def line_of(name: str, key: str) -> str:
    """What the file keeps of a key."""
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


def parse(text: str, origin: str) -> dict[str, bytes]:
    """The digests of a file, by name.

    Args:
        text: the file's.
        origin: its path, for messages.

    Raises:
        ConfigError: a line is no key, or a name is there twice; names the file and the line.
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


def read(path: Path) -> ApiKeys:
    """The keys of a file; where it isn't there or can't be used there are none, and `problem` says why."""
    try:
        return ApiKeys(parse(path.read_text(), str(path)))
    except FileNotFoundError:
        return ApiKeys({}, f"{path}: there is no such file", is_absent=True)
    except (OSError, UnicodeDecodeError) as error:
        return ApiKeys({}, f"{path}: can't be read: {getattr(error, 'strerror', None) or error}")
    except ConfigError as error:
        return ApiKeys({}, error.message)
