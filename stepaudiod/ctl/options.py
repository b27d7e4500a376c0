"""The options of every command: the daemon's address and how to communicate with it."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from stepaudiod.ctl.errors import WrongUsage

ACCOUNT = "_stepaudio"
"""The daemon's user, and the group that may use its unix socket."""

DEFAULT_SOCKET = "/run/stepaudiod.sock"
INSTANCE = re.compile(r"[A-Za-z0-9:_.\\-]+")
"""The name of an instance, as systemd.unit(5) escapes it."""
NO_URL = "{!r} isn't the URL of a server. Write it as http://127.0.0.1:7860."
DEFAULT_TIMEOUT_S = 600.0
"""The first audio may have to wait until a large model is read from a slow disk."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of every command; `socket` is unused if there is a URL.

    `instance` is the name of a daemon in place of an address, None for the daemon without a name.
    """

    socket: str
    url: str | None
    api_key: str | None
    timeout_s: float
    instance: str | None = None
    is_address_given: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
        """Read the command line, then the environment; an invalid address is `WrongUsage`."""
        given = vars(arguments)
        socket, url, instance = given.get("socket"), given.get("url"), given.get("instance")
        if sum(map(bool, (socket, url, instance))) > 1:
            raise WrongUsage("--socket, --url and --instance can't be used together. Give one of them.")
        if not (socket or url or instance):
            socket, url = environ.get("STEPAUDIOCTL_SOCKET"), environ.get("STEPAUDIOCTL_URL")
            instance = None if socket or url else environ.get("STEPAUDIOCTL_INSTANCE")
        if instance and not INSTANCE.fullmatch(instance):
            raise WrongUsage(
                f"{instance!r} isn't the name of an instance. Write it as in stepaudiod@NAME.socket."
            )
        api_key = given.get("api_key") or environ.get("STEPAUDIOCTL_API_KEY") or None
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise WrongUsage("The API key has characters that HTTP can't send: only ASCII, no line breaks.")
        return cls(
            socket=socket or (f"/run/stepaudiod-{instance}.sock" if instance else DEFAULT_SOCKET),
            url=_checked(url) if url else None,
            api_key=api_key,
            timeout_s=given.get("timeout", DEFAULT_TIMEOUT_S),
            instance=instance or None,
            is_address_given=bool(socket or url),
        )

    @property
    def unit(self) -> str:
        """The socket unit of the daemon."""
        return f"stepaudiod@{self.instance}.socket" if self.instance else "stepaudiod.socket"

    @property
    def where(self) -> str:
        return self.url or self.socket


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # rejects invalid names: "a..b", too long ones
    except ValueError:
        is_valid = False
    if not is_valid:
        raise WrongUsage(NO_URL.format(url))
    return url.rstrip("/")


def number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} isn't a number")
    return value


def seconds(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} isn't a number of seconds above 0")
    return value


def word(text: str) -> str:
    """Accept a name that can be sent as UTF-8, for argparse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't UTF-8") from None
    return text


def global_options() -> argparse.ArgumentParser:
    """The options as a parent parser: they are accepted before and after the command."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("options of every command")
    group.add_argument(
        "--socket", metavar="PATH", help=f"unix socket (default: $STEPAUDIOCTL_SOCKET or {DEFAULT_SOCKET})"
    )
    group.add_argument(
        "--url", metavar="URL", help="a TCP server, as http://host:port (default: $STEPAUDIOCTL_URL)"
    )
    group.add_argument(
        "--instance",
        type=word,
        metavar="NAME",
        help="the daemon stepaudiod@NAME (default: $STEPAUDIOCTL_INSTANCE, or the daemon without a name, or, "
        "if that is off, the instance that serves the API)",
    )
    group.add_argument(
        "--api-key", metavar="KEY", help="sent as a bearer token (better: $STEPAUDIOCTL_API_KEY)"
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help=f"seconds to wait for the next bytes from the daemon (default: {DEFAULT_TIMEOUT_S:g})",
    )
    group.add_argument(
        "--json", action="store_true", help="JSON on standard output; errors as JSON on standard error"
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no notes")
    return parser
