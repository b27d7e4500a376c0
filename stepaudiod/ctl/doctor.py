"""`stepaudioctl doctor`: finds problems and says how to solve them, without waking the daemon."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stepaudiod import __version__
from stepaudiod.ctl.checks.finding import Finding, note, ok, problem, unknown
from stepaudiod.ctl.connect import connect
from stepaudiod.ctl.daemons import find_daemon, url_of
from stepaudiod.ctl.errors import CtlError, ProblemsFound
from stepaudiod.ctl.options import Options
from stepaudiod.ctl.terminal import Terminal, plain
from stepaudiod.version import COMMIT, VERSION_AND_COMMIT

if TYPE_CHECKING:
    from stepaudiod.config import Settings
    from stepaudiod.ctl.checks.units import Units

NAME = "doctor"
SUMMARY = "check everything that the daemon needs, without waking it"

INSTANCES = Path("/etc/stepaudiod/instances")
MARKS = {"ok": "  ok  ", "note": " note ", "unknown": "  ?   ", "problem": "WRONG "}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the daemon's configuration file, if not the default"
    )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    findings = [ok("version", VERSION_AND_COMMIT)]
    findings += examine(options.instance, arguments.config, options, terminal)
    counts = {level: sum(f.level == level for f in findings) for level in MARKS}
    value = {
        "version": __version__,
        "commit": COMMIT or None,
        "is_well": not counts["problem"],
        "counts": counts,
        "findings": [asdict(finding) for finding in findings],
    }
    terminal.result(value, _report(findings))
    if count := counts["problem"]:
        found = "1 problem" if count == 1 else f"{count} problems"
        raise ProblemsFound(f"Found {found}, marked WRONG in the report; the arrow says what to do.")


def examine(
    instance: str | None, config: Path | None, options: Options, terminal: Terminal
) -> Iterator[Finding]:
    """Check one daemon, or all instances if the daemon without a name is off and they listen instead."""
    from stepaudiod.ctl.checks.units import SINGLE, Units

    if instance is None:
        units = Units.ask(SINGLE)
        names = units.instances() if units.is_off else []
        if not names or config is not None:
            yield from _examine(units, None, config, options, terminal)
            return
        yield note(f"{SINGLE}.socket", f"is off; these instances take its place: {', '.join(names)}")
        for name in names:
            for finding in examine(name, None, options, terminal):
                yield replace(finding, subject=f"{name}: {finding.subject}")
        return
    own = replace(options, socket=f"/run/{SINGLE}-{instance}.sock", instance=instance)
    yield from _examine(
        Units.ask(f"{SINGLE}@{instance}"), INSTANCES / f"{instance}.toml", config, own, terminal
    )


def _examine(
    units: Units, usual: Path | None, config: Path | None, options: Options, terminal: Terminal
) -> Iterator[Finding]:
    from stepaudiod.ctl.checks import permissions
    from stepaudiod.ctl.checks.engines import read_configuration
    from stepaudiod.ctl.checks.ports import hand_started_findings

    yield from units.findings()
    if options.url is None:
        url = None if options.is_address_given else url_of(units.listening_addresses)
        yield from permissions.socket_findings(Path(options.socket), f"{units.service}.socket", url)
    else:
        yield note("address", f"{options.url} isn't checked: a connection would wake the daemon behind it")
    if units.is_installed:
        yield from permissions.account_findings()
    settings, findings = read_configuration(config or usual, os.environ | units.environment, units.view)
    yield from findings
    if settings is not None and not units.is_installed:
        yield from hand_started_findings(settings.listen)
    if settings is not None:
        yield from _engine_findings(units.as_daemon(settings), units)
    if units.is_awake:
        yield _ask(options, terminal)


def _engine_findings(settings: Settings, units: Units) -> Iterator[Finding]:
    """Check the folders, the model files, the engine, and the GPU that it would use."""
    from stepaudiod.ctl.checks import disk, engines, gpu, memory
    from stepaudiod.engines.local_models import STEP_AUDIO

    models = engines.Models(settings, units.view)
    wanted_bytes = 0 if models.is_hidden or models.is_complete else engines.PUBLISHED_BYTES
    yield from disk.folder_findings(settings, units.view, wanted_bytes)
    yield from models.findings()
    yield engines.engine_finding(models)
    gpus = gpu.Gpus()
    cards = gpu.visible(
        gpu.ask_driver() if gpus.driver else None, units.environment.get("CUDA_VISIBLE_DEVICES")
    )
    if settings.step_audio.device == "cpu":
        yield from gpus.findings(cards, 0, 'unused, since step_audio.device = "cpu"')
    elif models.is_complete and cards:
        need = memory.gpu_need(models.checkpoint.root, settings.step_audio)
        if need.is_too_small:
            yield problem("GPU memory", need.error, "see the message")
        elif need.error:
            yield unknown("GPU memory", f"the need of {STEP_AUDIO} is unknown: {need.error}")
        yield from gpus.findings(cards, need.free_bytes, STEP_AUDIO if need.free_bytes else "see above")
    elif models.is_complete:
        yield from gpus.findings(cards, 0, STEP_AUDIO)
    else:
        yield from gpus.findings(cards, 0, f"unused while {STEP_AUDIO} isn't installed")
    if gpus.driver is not None and models.is_complete:
        yield gpu.doze_finding(gpus.driver, cards, settings)


def _ask(options: Options, terminal: Terminal) -> Finding:
    try:
        with connect(find_daemon(options, terminal), terminal) as client:
            daemon = client.get("/api/v1/models/status").get("daemon", {})
    except CtlError as error:
        return unknown("daemon", f"it is awake and doesn't answer here: {error}")
    version, commit = daemon.get("version"), daemon.get("commit")
    text = f"{version}: {daemon.get('status')}; engine {daemon.get('engine')}"
    if (version, commit) != (__version__, COMMIT or None):
        return note("daemon", f"{text}. It is another version than this one: {version}, commit {commit}")
    return ok("daemon", text)


def _report(findings: list[Finding]) -> str:
    width = max(len(plain(finding.subject)) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]} {plain(finding.subject).ljust(width)}  {plain(finding.text)}")
        if finding.advice:
            lines.append(f"{' ' * (len(MARKS['ok']) + width + 2)} → {plain(finding.advice)}")
    return "\n".join(lines)
