"""The composition root: builds all parts of the daemon and wires them together."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from stepaudiod import api_keys as keys
from stepaudiod.config import Settings, load, parse_assignments
from stepaudiod.core_dumps import limit_core_dumps
from stepaudiod.counters import Counters
from stepaudiod.dispatcher import Dispatcher
from stepaudiod.engines.installed import catalog_of
from stepaudiod.engines.registry import Catalog
from stepaudiod.errors import AddressTaken, ConfigError, EngineUnavailable
from stepaudiod.idle import IdleClock
from stepaudiod.obstacles import obstacles
from stepaudiod.server import Server
from stepaudiod.systemd import Listener, Notifier, Role, activated, activated_listeners, bind, start_logging
from stepaudiod.temp_dirs import sweep
from stepaudiod.version import VERSION_AND_COMMIT
from stepaudiod.web.app import build_app
from stepaudiod.web.body import sweep_spools
from stepaudiod.web.errors import refuse_everything
from stepaudiod.web.page.routes import Page

if TYPE_CHECKING:
    from stepaudiod.worker.process import WorkerProcess

log = logging.getLogger(__name__)

ROLES: tuple[Role, ...] = ("http", "api", "page")

BROKEN_IDLE_S = 60.0
"""A daemon that can't work exits after this time, and the next connection tries it again."""
RECHECK_S = 1.0
"""How often an invalid configuration is read again; the daemon exits as soon as it is valid."""


class Daemon:
    def __init__(self, path: Path | None, overrides: dict[str, Any]) -> None:
        self._path = path
        self._overrides = overrides
        self.broken: str | None = None
        self._failure = ""
        self._unexpected: Exception | None = None
        self._background: asyncio.Task[None] | None = None
        try:
            self.settings = load(path, overrides)
            self.keys = keys.read(self.settings.access.keys_path)
        except ConfigError as error:
            self._break("stepaudiod can't work with its configuration.", error.message)
        except Exception as error:
            self._break_unexpectedly(error)

    def _break(self, failure: str, reason: str) -> None:
        """Answer every request with the reason from here on."""
        self._failure, self.broken = failure, reason
        self.settings = Settings(idle_timeout=BROKEN_IDLE_S)
        self.keys = keys.ApiKeys({})

    def _break_unexpectedly(self, error: Exception) -> None:
        """Serve the error: a daemon that exited would be restarted endlessly, with its clients waiting."""
        self._unexpected = error
        self._break("stepaudiod can't start.", f"{type(error).__name__}: {error}")

    async def run(self, listeners: list[Listener], notifier: Notifier) -> None:
        try:
            if self.broken is None:
                idle, service, apps = self._build(listeners)
        except Exception as error:
            self._break_unexpectedly(error)
        if self.broken is not None:
            log.error("%s Every request gets 503: %s", self._failure, self.broken, exc_info=self._unexpected)
            idle, service = self._build_service(Catalog())
            apps = dict.fromkeys(ROLES, refuse_everything(self._failure, self.broken))
        elif self.settings.preload == "start":
            self._background = asyncio.create_task(service.preload())
        server = Server(
            listeners,
            apps,
            self.settings.timeouts,
            self.settings.limits,
            idle,
            service,
            notifier,
            lambda: self._reload(service, idle, server, listeners),
        )
        if self.broken is not None and self._unexpected is None:
            self._background = asyncio.create_task(self._exit_when_mended(server))
        await server.serve()

    async def _exit_when_mended(self, server: Server) -> None:
        while not server.should_exit:
            await asyncio.sleep(RECHECK_S)
            with suppress(ConfigError):
                keys.read(load(self._path, self._overrides).access.keys_path)
                server.should_exit = True

    def _build(self, listeners: list[Listener]) -> tuple[IdleClock, Dispatcher, dict[Role, ASGIApp]]:
        # remove the temporary files of killed daemons, which may hold a user's voice
        sweep_spools()
        for folder in (self.settings.voices_path, self.settings.cache_path / "page"):
            sweep(folder)
        idle, service = self._build_service(catalog_of(self.settings))
        page = Page(lambda: self.settings, idle)
        apps: dict[Role, ASGIApp] = {
            role: build_app(role, lambda: self.settings, service, idle, lambda: self.keys, page)
            for role in ROLES
        }
        self._announce(service)
        self._announce_access(listeners)
        return idle, service, apps

    def _build_service(self, catalog: Catalog) -> tuple[IdleClock, Dispatcher]:
        settings = self.settings
        idle = IdleClock(settings.idle_timeout_s, time.monotonic)
        return idle, Dispatcher(
            settings.limits, settings.timeouts, catalog, settings.engine, idle, self._spawn
        )

    def _announce_access(self, listeners: list[Listener]) -> None:
        """Log whether calls need API keys, and warn if there are none."""
        open_to = ", ".join(str(each) for each in listeners if each.reach == "network")
        auth = self.settings.access.auth
        if not self.keys.digests and (auth == "keys" or (auth == "auto" and open_to)):
            log.error(
                "calls need an API key, and none exists: they get 503 (%s). Run %s, then reload",
                self.keys.problem or "the file is empty",
                keys.HOW_TO,
            )
        elif auth == "none" and open_to:
            log.warning("every client that reaches %s may call without a key: access.auth is none", open_to)
        elif self.keys.digests:
            log.info("API keys: %s", ", ".join(self.keys.digests))

    async def _spawn(self, counters: Counters) -> WorkerProcess:
        from stepaudiod.worker.process import WorkerOptions, WorkerProcess  # a health check needs no worker

        settings = self.settings
        return await WorkerProcess.spawn(
            WorkerOptions(
                cache_dir=settings.cache_path,
                threads=settings.worker_threads,
                log_level=settings.log_level,
                heartbeat_timeout_s=settings.timeouts.heartbeat,
                stall_timeout_s=settings.timeouts.stall,
                load_timeout_s=settings.timeouts.load,
                doze_after_s=settings.step_audio.doze_after_s,
            ),
            counters,
        )

    def _reload(
        self, service: Dispatcher, idle: IdleClock, server: Server, listeners: list[Listener]
    ) -> None:
        """Read the configuration again; an invalid one changes nothing and is logged."""
        try:
            settings = load(self._path, self._overrides)
            known, catalog = keys.read(settings.access.keys_path), catalog_of(settings)
        except Exception as error:
            unexpected = None if isinstance(error, ConfigError) else error
            log.error(
                "reload failed, the previous configuration stays in force: %s", error, exc_info=unexpected
            )
            return
        if self.broken is not None:
            server.should_exit = True
            return
        self.settings = settings
        self.keys = known
        service.reconfigure(settings.limits, settings.timeouts)
        service.engine = settings.engine
        service.catalog = catalog
        idle.timeout_s = settings.idle_timeout_s
        server.timeouts = settings.timeouts
        server.limits = settings.limits
        logging.getLogger().setLevel(settings.log_level.upper())
        log.info("reloaded the configuration; a running worker keeps the one it was started with")
        self._announce(service)
        self._announce_access(listeners)

    def _announce(self, service: Dispatcher) -> None:
        """Log which engine serves, and what keeps the daemon from its folders."""
        try:
            choice = service.choice()
            log.info("engine %s: %s", choice.engine.name, choice.reason)
        except EngineUnavailable as error:
            log.error("%s", error)
        for obstacle in obstacles(self.settings.folders):
            log.warning("%s", obstacle)


def _listeners(settings: Settings) -> list[Listener]:
    """The sockets from systemd, or those that the configuration names."""
    if activated():
        return activated_listeners()
    return [Listener(role, bind(address)) for role in ROLES for address in getattr(settings.listen, role)]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepaudiod", description="A speech server that runs only while it is used."
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="default: /etc/stepaudiod/stepaudiod.toml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as limits.max_queue=8"
    )
    parser.add_argument("--check-config", action="store_true", help="check the configuration, and exit")
    parser.add_argument("--version", action="version", version=f"stepaudiod {VERSION_AND_COMMIT}")
    return parser


def _check(path: Path | None, overrides: dict[str, Any]) -> int:
    try:
        settings = load(path, overrides)
        choice = catalog_of(settings).choose(settings.engine)
        known = keys.read(settings.access.keys_path)
        if known.problem and (settings.access.auth == "keys" or not known.is_absent):
            raise ConfigError(f"access: {known.problem}. {keys.HOW_TO} makes a key.")
    except (ConfigError, EngineUnavailable, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The configuration is valid. Engine: {choice.engine.name} ({choice.reason}).")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the daemon; return 1 if a check failed or an address can't be bound, 2 for bad options."""
    options = build_parser().parse_args(argv)
    try:
        overrides = parse_assignments(options.set)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check_config:
        return _check(options.config, overrides)
    daemon = Daemon(options.config, overrides)
    start_logging(daemon.settings.log_level)
    is_manual = not activated()
    if daemon.broken is not None and is_manual:
        print(daemon.broken, file=sys.stderr)
        return 2
    # files and memory of this process and its worker must be unreadable to other users
    os.umask(os.umask(0o077) | 0o027)
    limit_core_dumps()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        listeners = _listeners(daemon.settings)
    except AddressTaken as error:
        log.error("can't listen: %s\nTo listen elsewhere, set other addresses in [listen].", error)
        return 1
    except (OSError, ValueError, OverflowError) as error:
        log.error("can't listen: %s", error)
        return 1
    asyncio.run(daemon.run(listeners, Notifier()))
    return 1 if daemon.broken is not None and is_manual else 0
