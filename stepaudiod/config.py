"""The configuration's model, and reading it from its sources.

Later sources override earlier ones: defaults, `stepaudiod.toml`, `conf.d/*.toml` beside it in the order of
their names, `STEPAUDIOD_*` variables, the command line. Every error names its source and the path of its key.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepaudiod import api_keys
from stepaudiod.byte_sizes import MemorySize, memory_bytes
from stepaudiod.errors import ConfigError
from stepaudiod.obstacles import READ, WRITE, Needed, explain

DEFAULT_PATH = Path("/etc/stepaudiod/stepaudiod.toml")
ENV_PREFIX = "STEPAUDIOD_"
NESTED = "__"

SYSTEM_CACHE = Path("/var/cache/stepaudiod")
SYSTEM_DATA = Path("/var/lib/stepaudiod")

Seconds = Annotated[float, Field(allow_inf_nan=False)]
HostName = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:.]+)$")]
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?$")]


class Section(BaseModel):
    """A table of the file; unknown keys are errors. The manual page prints the tables' docstrings."""

    # defer_build: Settings validates all tables, so the validator of a single one is rarely needed
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Listen(Section):
    """Addresses for a daemon started by hand; under systemd the socket units have them.

    Each entry is `address:port`, `[v6 address]:port`, or the path of a unix socket.
    """

    http: tuple[str, ...] = Field(("127.0.0.1:7860",), description="the page and the API")
    api: tuple[str, ...] = Field((), description="the API only")
    page: tuple[str, ...] = Field((), description="the page and the API calls that it needs")


class Limits(Section):
    """Limits; a request beyond a limit is answered with an error."""

    max_text: int = Field(100_000, ge=1, description="characters of one request's text")
    max_body: int = Field(1_048_576, ge=1024, description="bytes of one JSON request")
    max_queue: int = Field(64, ge=0, description="requests that wait in the queue; further ones get 429")
    concurrency: int = Field(16, ge=1, description="requests served at the same time")
    max_paused: int = Field(
        64, ge=1, description="responses whose client does not read; beyond this the oldest is cut off"
    )
    max_connections: int = Field(
        1000, ge=8, description="open connections; at most half of the process's descriptors"
    )
    min_rate: float = Field(
        3000, gt=0, allow_inf_nan=False, description="bytes per second that a client must send or read"
    )
    max_upload: int = Field(104_857_600, ge=1024, description="bytes of one request with a recording")
    max_audio: Seconds = Field(600, gt=0, description="seconds of a recording")
    max_channels: int = Field(8, ge=1, description="channels of a recording; they are mixed to one")
    max_sample_rate: int = Field(192_000, ge=8_000, description="samples per second of a recording")

    def recordings(self) -> dict[str, float]:
        """The arguments of `audio.decode.Limits`."""
        return {
            "max_seconds": self.max_audio,
            "max_channels": self.max_channels,
            "max_sample_rate": self.max_sample_rate,
        }


class Timeouts(Section):
    """Deadlines, in seconds."""

    header: Seconds = Field(10, gt=0, description="a connection's request line and headers")
    body: Seconds = Field(30, gt=0, description="the next piece of a request's body")
    upload: Seconds = Field(600, gt=0, description="a request's whole body")
    request: Seconds = Field(
        3600, gt=0, description="the whole work of one request, including its time in the queue"
    )
    client: Seconds = Field(60, gt=0, description="a client that has stopped reading its audio")
    keep_alive: Seconds = Field(15, gt=0, description="an idle connection between two requests")
    fetch: Seconds = Field(30, gt=0, description="fetching the whole recording of a URL")
    drain: Seconds = Field(30, ge=0, description="requests in flight when the daemon is stopped")
    heartbeat: Seconds = Field(30, gt=0, description="a worker that sends no heartbeat")
    stall: Seconds = Field(120, gt=0, description="a worker with heartbeats but no progress with its work")
    load: Seconds = Field(600, gt=0, description="loading without progress, or work waiting for GPU memory")


class Access(Section):
    """Access over TCP; access to the unix socket is controlled by its permissions."""

    auth: Literal["auto", "keys", "none"] = Field(
        "auto",
        description='which callers need an API key: "auto" those from the network, "keys" all, "none" none',
    )
    keys_file: Path | Literal["auto"] = Field(
        "auto",
        description='name:sha256-hex lines; "auto": the credential api-keys, or /etc/stepaudiod/api-keys',
    )
    hosts: tuple[HostName, ...] = Field(
        (), description="names and addresses of this machine that clients use, besides localhost"
    )
    origins: tuple[Origin, ...] = Field(
        (), description='other sites whose pages may call, as "https://example.org"'
    )
    private_voices: bool = Field(
        False, description="whether only the API key that made a voice may use it; otherwise every caller may"
    )

    @property
    def keys_path(self) -> Path:
        """The key file; "auto" prefers a credential that the unit passes, systemd.exec(5)."""
        if isinstance(self.keys_file, Path):
            return self.keys_file
        if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
            passed = Path(folder) / "api-keys"
            if passed.exists():
                return passed
        return api_keys.DEFAULT_PATH


class PageSettings(Section):
    """The page at `/`."""

    keep_results: Seconds = Field(
        3600, gt=0, description="seconds that a browser keeps the results made on the page"
    )


class Marking(Section):
    """The marking of synthetic audio."""

    metadata: bool = Field(
        True, description="whether file metadata and a response header say that audio is synthetic"
    )


class StepAudio(Section):
    """The engine step-audio-editx."""

    device: str = Field("auto", description='"auto" uses a GPU if there is one; or "cpu", "cuda", "cuda:1"')
    dtype: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="the language model's data type")
    quantization: Literal["none", "int8", "int4"] = Field("none", description="quantization of its weights")
    gpu_memory: MemorySize = Field(
        "auto",
        description='GPU memory that it may use, the driver included, as "9.5G"; "auto" is a good size',
    )
    doze_after: Annotated[Seconds, Field(gt=0)] | Literal["never"] = Field(
        60.0,  # no int: the serializer of a union warns of one
        description='seconds without work until the model leaves the GPU for the main memory; or "never"',
    )
    check_output: bool = Field(
        True, description="detect speech that is silent, too long or too short, and retry with another seed"
    )

    @property
    def gpu_memory_bytes(self) -> int | None:
        """None is "auto"."""
        return None if self.gpu_memory == "auto" else memory_bytes(self.gpu_memory)

    @property
    def doze_after_s(self) -> float | None:
        """Seconds without work until the model leaves the GPU; None is never."""
        return None if self.doze_after == "never" else float(self.doze_after)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    engine: str = Field("auto", description='"auto" selects the best installed engine; or the name of one')
    idle_timeout: Annotated[Seconds, Field(ge=0)] | Literal["never"] = Field(
        300, description='seconds without work until the daemon exits; "never" keeps it resident'
    )
    preload: Literal["page", "work", "start"] = Field(
        "page",
        description="when the model is loaded: when the page is opened, with the first work, or at the start",
    )
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads for the engine; 0 is the number of CPUs, at most 4"
    )
    cache_dir: Path | Literal["auto"] = Field(
        "auto", description='cache; "auto": /var/cache/stepaudiod, or ~/.cache when started by hand'
    )
    data_dir: Path | Literal["auto"] = Field(
        "auto", description='models and voices; "auto": /var/lib/stepaudiod, or ~/.local/share by hand'
    )
    models_dir: Path | Literal["auto"] = Field(
        "auto", description='models, which may be on another disk; "auto": the folder models in data_dir'
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level of journal messages"
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
        return _folder(self.cache_dir, "CACHE_DIRECTORY", SYSTEM_CACHE, "XDG_CACHE_HOME", ".cache")

    @property
    def data_path(self) -> Path:
        """The folder of `voices`, and of `models` unless `models_dir` is set."""
        return _folder(self.data_dir, "STATE_DIRECTORY", SYSTEM_DATA, "XDG_DATA_HOME", ".local/share")

    @property
    def models_path(self) -> Path:
        return self.models_dir if isinstance(self.models_dir, Path) else self.data_path / "models"

    @property
    def voices_path(self) -> Path:
        return self.data_path / "voices"

    @property
    def folders(self) -> tuple[Needed, ...]:
        """The folders that the daemon reads or writes."""
        models_top = self.models_path if self.models_dir != "auto" else self.data_path
        return (
            Needed(self.models_path, READ, models_top, "data"),
            Needed(self.voices_path, WRITE, self.data_path, "data"),
            Needed(self.cache_path, WRITE, self.cache_path, "cache"),
        )

    @property
    def worker_threads(self) -> int:
        return self.threads or min(len(os.sched_getaffinity(0)), 4)


def _folder(setting: Path | str, unit: str, system: Path, user: str, home: str) -> Path:
    """The configured folder; "auto" is the unit's (systemd.exec(5)), the system's for root, or the user's."""
    if isinstance(setting, Path):
        return setting
    if unit in os.environ:
        return Path(os.environ[unit])
    if os.geteuid() == 0:
        return system
    return Path(os.environ.get(user, Path.home() / home)) / "stepaudiod"


def load(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the configuration; the overrides are the command line's settings, as nested tables.

    Without a path, `/etc/stepaudiod/stepaudiod.toml` may be missing.

    Raises:
        ConfigError: lists every error with its source.
    """
    layers = [*((str(each), _read(each)) for each in files(path)), *_environment_layers(environ)]
    if overrides:
        layers.append(("the command line", dict(overrides)))
    merged: dict[str, Any] = {}
    for _, table in layers:
        merged = _merge(merged, table)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, layers, merged))) from None


Layer = tuple[str, dict[str, Any]]


def files(path: Path | None) -> list[Path]:
    """The file and its drop-ins, in the order in which they apply.

    Raises:
        ConfigError: a folder can't be read, or a given file is missing.
    """
    main = path or DEFAULT_PATH
    drop_ins = main.parent / "conf.d"
    try:
        paths = [main] if main.name in os.listdir(main.parent) else []
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise _unreadable(main.parent, error) from None
    if path is not None and not paths:
        hidden = explain(Needed(path, READ, path, "configuration"))
        raise ConfigError(f"{path}: there is no such file. Correct --config, or leave it out.{hidden}")
    try:
        paths += sorted(drop_ins / name for name in os.listdir(drop_ins) if name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _unreadable(drop_ins, error) from None
    return paths


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: invalid TOML: {error}") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    mend = explain(Needed(path, READ, path, "configuration"))
    return ConfigError(f"{path}: can't be read: {error.strerror}{'.' if mend else ''}{mend}")


def _environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """One layer per variable: STEPAUDIOD_LIMITS__MAX_QUEUE=8 is limits.max_queue."""
    layers: list[Layer] = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split(NESTED)
            layers.append((name, _nest(keys, _value(environ[name]))))
    return layers


def _value(text: str) -> Any:
    """Parse a list; all other values remain text, which pydantic converts."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if text.startswith("[") else text
    except tomllib.TOMLDecodeError:
        return text


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` and `table.key=value` into nested tables; without `=` it is a ConfigError."""
    merged: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write it as key=value, for instance --set limits.max_queue=8")
        merged = _merge(merged, _nest(key.strip().split("."), _value(value.strip())))
    return merged


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    """Return {'a': {'b': 1}} for ['a', 'b'] and 1."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables key by key; replace other values."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = (
            _merge(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
        )
    return merged


def _explain(error: ValidationError, layers: list[Layer], merged: dict[str, Any]) -> list[str]:
    """One line per error: its source, its key path, and the problem."""
    lines: dict[str, None] = {}
    for item in error.errors():
        keys, found = _locate(item["loc"], merged)
        origin = next(
            (name for name, table in reversed(layers) if _locate(keys, table)[0] == keys), "the configuration"
        )
        is_unknown = item["type"] == "extra_forbidden"
        problem = "there is no such key" if is_unknown else f"{item['msg']} (found {found!r})"
        lines[f"{origin}: {'.'.join(keys)}: {problem}"] = None
    return list(lines)


def _locate(loc: Sequence[int | str], table: Any) -> tuple[list[str], Any]:
    """Extract the key path from pydantic's location, which also has union members, and the value there."""
    keys: list[str] = []
    for part in loc:
        if not (isinstance(table, dict) and part in table):
            break
        keys.append(str(part))
        table = table[part]
    return keys, table
