"""The one typed model of the configuration, and where it is read from.

Later wins: defaults < `stepaudiod.toml` < `conf.d/*.toml` beside it, by name < `STEPAUDIOD_*` < command line.
Every mistake is reported with the file (or variable, or option) it stands in and the path of its key.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepaudiod.byte_sizes import MemorySize, memory_bytes
from stepaudiod.errors import ConfigError

DEFAULT_PATH = Path("/etc/stepaudiod/stepaudiod.toml")
ENV_PREFIX = "STEPAUDIOD_"
NESTED = "__"

KEYS_PATH = Path("/etc/stepaudiod/api-keys")

Seconds = Annotated[float, Field(allow_inf_nan=False)]
HostName = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:.]+)$")]
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?$")]


class Section(BaseModel):
    """A table of the file: a key nobody knows is a mistake, not a wish."""

    # Settings validates all tables; the validator of one alone is built at its first use, defer_build
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Listen(Section):
    """Where to listen when started by hand; under systemd the socket units say it.

    Each entry is `address:port`, `[v6 address]:port`, or the path of a unix socket.
    """

    http: tuple[str, ...] = Field(("127.0.0.1:7860",), description="the page and the API")
    api: tuple[str, ...] = Field((), description="the API only")
    page: tuple[str, ...] = Field((), description="the page and what it needs")


class Limits(Section):
    """How much is too much; each is answered with a clear error."""

    max_text: int = Field(100_000, ge=1, description="characters of one request's text")
    max_body: int = Field(1_048_576, ge=1024, description="bytes of one JSON request")
    max_queue: int = Field(64, ge=0, description="requests that wait for their turn; more get 429")
    concurrency: int = Field(8, ge=1, description="requests that are worked on in turn, a chunk each")
    max_paused: int = Field(
        64, ge=1, description="responses whose client does not read; beyond it the oldest is cut off"
    )
    max_connections: int = Field(
        1000, ge=8, description="open connections; at most half of the process's descriptors"
    )
    min_rate: float = Field(
        3000, gt=0, allow_inf_nan=False, description="bytes a second that a client must send or take"
    )
    max_upload: int = Field(104_857_600, ge=1024, description="bytes of one request with a recording in it")
    max_audio: Seconds = Field(600, gt=0, description="seconds of a recording")
    max_channels: int = Field(8, ge=1, description="channels of a recording; they are mixed to one")
    max_sample_rate: int = Field(192_000, ge=8_000, description="samples a second of a recording")

    def recordings(self) -> dict[str, float]:
        """What `audio.decode.Limits` takes."""
        return {
            "max_seconds": self.max_audio,
            "max_channels": self.max_channels,
            "max_sample_rate": self.max_sample_rate,
        }


class Timeouts(Section):
    """How long to wait for others, in seconds."""

    header: Seconds = Field(10, gt=0, description="a connection's request line and headers")
    body: Seconds = Field(30, gt=0, description="the next piece of a request's body")
    upload: Seconds = Field(600, gt=0, description="a request's whole body")
    request: Seconds = Field(
        3600, gt=0, description="the whole work of one request, with its wait for a turn"
    )
    client: Seconds = Field(60, gt=0, description="a client that has stopped reading its audio")
    keep_alive: Seconds = Field(15, gt=0, description="a quiet connection between two requests")
    fetch: Seconds = Field(30, gt=0, description="a recording behind a URL, all of it")
    drain: Seconds = Field(30, ge=0, description="requests in flight when the daemon is told to stop")
    heartbeat: Seconds = Field(30, gt=0, description="a worker that gives no sign of life")
    stall: Seconds = Field(120, gt=0, description="a worker that lives and makes no progress with its work")
    load: Seconds = Field(600, gt=0, description="a worker that makes no progress with loading")


class Access(Section):
    """Who may call over TCP; the unix socket is for whom its permissions let in."""

    auth: Literal["auto", "keys", "none"] = Field(
        "auto",
        description='who needs an API key: "auto" whoever calls from the network, "keys" all, "none" none',
    )
    keys_file: Path | Literal["auto"] = Field(
        "auto",
        description='name:sha256-hex lines; "auto": the credential api-keys, or /etc/stepaudiod/api-keys',
    )
    hosts: tuple[HostName, ...] = Field(
        (), description="names and addresses by which this machine is called, beside localhost"
    )
    origins: tuple[Origin, ...] = Field(
        (), description='other sites whose pages may call, as "https://example.org"'
    )
    private_voices: bool = Field(
        False, description="whether only the API key that made a voice may use it; otherwise every caller may"
    )

    @property
    def keys_path(self) -> Path:
        """Where the keys are; "auto" prefers a credential that the unit passes, systemd.exec(5)."""
        if isinstance(self.keys_file, Path):
            return self.keys_file
        if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
            passed = Path(folder) / "api-keys"
            if passed.exists():
                return passed
        return KEYS_PATH


class PageSettings(Section):
    """What people see at `/`."""

    keep_results: Seconds = Field(
        3600, gt=0, description="seconds that a browser keeps what was made on the page"
    )


class Marking(Section):
    """How synthetic sound is marked."""

    metadata: bool = Field(
        True, description="whether a file's metadata and a response's header say that sound is synthetic"
    )


class StepAudio(Section):
    """The engine step-audio-editx."""

    device: str = Field(
        "auto", description='"auto" takes a GPU where there is one; or "cpu", "cuda", "cuda:1"'
    )
    dtype: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="the language model's arithmetic")
    quantization: Literal["none", "int8", "int4"] = Field("none", description="fewer bits for its weights")
    gpu_memory: MemorySize = Field(
        "auto",
        description='what it may use of a GPU, as "9.5G"; "auto" is what is good, as far as it is free',
    )
    check_output: bool = Field(
        True, description="notice speech that is silent, runs on or stops short, and try another seed"
    )

    @property
    def gpu_memory_bytes(self) -> int | None:
        """The size in bytes; None is "auto"."""
        return None if self.gpu_memory == "auto" else memory_bytes(self.gpu_memory)


class Settings(BaseModel):
    """The whole configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    engine: str = Field("auto", description='"auto" takes the best that is installed; or an engine by name')
    idle_timeout: Annotated[Seconds, Field(ge=0)] | Literal["never"] = Field(
        300, description='seconds without work until the daemon exits; "never" keeps it resident'
    )
    preload: Literal["page", "work", "start"] = Field(
        "page",
        description="when the model is loaded: as somebody opens the page, for the first work, at the start",
    )
    threads: int = Field(
        0, ge=0, le=256, description="processor threads for the engine; 0 takes what the machine has, up to 4"
    )
    cache_dir: Path | Literal["auto"] = Field(
        "auto", description='files to be made again; "auto": /var/cache/stepaudiod, or ~/.cache by hand'
    )
    data_dir: Path | Literal["auto"] = Field(
        "auto", description='models and voices; "auto": /var/lib/stepaudiod, or ~/.local/share by hand'
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what the journal gets"
    )
    allow_url_fetch: bool = Field(
        False, description="whether recordings may be given as URLs, which the daemon then fetches"
    )
    listen: Listen = Listen.model_construct()
    limits: Limits = Limits.model_construct()
    timeouts: Timeouts = Timeouts.model_construct()
    access: Access = Access.model_construct()
    page: PageSettings = PageSettings.model_construct()
    marking: Marking = Marking.model_construct()
    step_audio: StepAudio = StepAudio.model_construct()

    @property
    def idle_timeout_s(self) -> float | None:
        """Seconds without work until exit; None is never."""
        return None if self.idle_timeout == "never" else float(self.idle_timeout)

    @property
    def cache_path(self) -> Path:
        """Where files that can be made again go."""
        return _folder(self.cache_dir, "CACHE_DIRECTORY", "/var/cache", "XDG_CACHE_HOME", ".cache")

    @property
    def data_path(self) -> Path:
        """Where models and voices are: `models` and `voices` below it."""
        return _folder(self.data_dir, "STATE_DIRECTORY", "/var/lib", "XDG_DATA_HOME", ".local/share")

    @property
    def worker_threads(self) -> int:
        """Threads that the engine may use."""
        return self.threads or min(len(os.sched_getaffinity(0)), 4)


def _folder(setting: Path | str, unit: str, system: str, user: str, home: str) -> Path:
    """The configured folder, or for "auto" the unit's own (systemd.exec(5)), root's, or the user's."""
    if isinstance(setting, Path):
        return setting
    if unit in os.environ:
        return Path(os.environ[unit])
    if os.geteuid() == 0:
        return Path(system) / "stepaudiod"
    return Path(os.environ.get(user, Path.home() / home)) / "stepaudiod"


def load(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the configuration.

    Args:
        path: the file; None is `/etc/stepaudiod/stepaudiod.toml`, which may be absent.
        overrides: what the command line says, as nested tables.
        environ: the process environment.

    Raises:
        ConfigError: names every mistake with where it stands.
    """
    layers = [*_file_layers(path), *_environment_layers(environ)]
    if overrides:
        layers.append(("the command line", dict(overrides)))
    merged: dict[str, Any] = {}
    for _, table in layers:
        merged = _merge(merged, table)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, layers))) from None


Layer = tuple[str, dict[str, Any]]


def _file_layers(path: Path | None) -> list[Layer]:
    """The file and its drop-ins, in the order they apply."""
    main = path or DEFAULT_PATH
    drop_ins = main.parent / "conf.d"
    try:
        paths = [main] if main.name in os.listdir(main.parent) else []
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise ConfigError(f"{main.parent}: can't be read: {error.strerror}") from None
    if path is not None and not paths:
        raise ConfigError(f"{path}: there is no such file. Name another with --config, or leave it out.")
    try:
        paths += sorted(drop_ins / name for name in os.listdir(drop_ins) if name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ConfigError(f"{drop_ins}: can't be read: {error.strerror}") from None
    return [(str(p), _read(p)) for p in paths]


def _read(path: Path) -> dict[str, Any]:
    """One file's table."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this isn't TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None


def _environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """One layer a variable: STEPAUDIOD_LIMITS__MAX_QUEUE=8 is limits.max_queue."""
    layers: list[Layer] = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split(NESTED)
            layers.append((name, _nest(keys, _value(environ[name]))))
    return layers


def _value(text: str) -> Any:
    """A list where the text is one; everything else is text, which the model converts."""
    if text.startswith("["):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn the command line's `key=value` and `table.key=value` into nested tables.

    Raises:
        ConfigError: one of them has no `=`.
    """
    merged: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write it as key=value, for instance --set limits.max_queue=8")
        merged = _merge(merged, _nest(key.strip().split("."), _value(value.strip())))
    return merged


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    """['a', 'b'], 1 → {'a': {'b': 1}}."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = (
            _merge(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
        )
    return merged


def _explain(error: ValidationError, layers: list[Layer]) -> list[str]:
    """One line a mistake: where it stands, its key path, what is wrong."""
    lines: dict[str, None] = {}
    for item in error.errors():
        keys, found = _locate(item["loc"], layers)
        origin = next((name for name, table in reversed(layers) if _holds(table, keys)), "the configuration")
        if item["type"] == "extra_forbidden":
            lines[f"{origin}: {'.'.join(keys)}: there is no such key"] = None
        else:
            lines[f"{origin}: {'.'.join(keys)}: {item['msg']} (found {found!r})"] = None
    return list(lines)


def _locate(loc: tuple[int | str, ...], layers: list[Layer]) -> tuple[list[str], Any]:
    """The key path in pydantic's location (which also names union members), and the value there."""
    table: Any = {}
    for _, layer in layers:
        table = _merge(table, layer)
    keys: list[str] = []
    for part in loc:
        if not (isinstance(table, dict) and part in table):
            break
        keys.append(str(part))
        table = table[part]
    return keys, table


def _holds(table: Any, keys: list[str]) -> bool:
    """Whether that key path stands in the table."""
    for key in keys:
        if not (isinstance(table, dict) and key in table):
            return False
        table = table[key]
    return True
