"""`stepaudioctl models`: pull, list, verify, remove, quantize and move published models."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepaudiod.ctl.errors import ClientMissing, IncompleteModel, NotPermitted, WrongUsage
from stepaudiod.ctl.options import Options, global_options, word
from stepaudiod.ctl.terminal import Terminal, plain, table
from stepaudiod.obstacles import WRITE, Needed, explain, quoted

if TYPE_CHECKING:
    from stepaudiod.ctl.hub.installed import Installed
    from stepaudiod.ctl.hub.sources import Source

NAME = "models"
SUMMARY = "pull published models, list, verify, remove and move them"

VARIABLES = """\
environment variables:
  HF_ENDPOINT, MODELSCOPE_ENDPOINT   another server (also --endpoint)
  HF_TOKEN, MODELSCOPE_API_TOKEN     an access token, where a hub requires one
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY  proxies
"""


MOVE = """\
If DIR has models, they are used as they are. Otherwise all models are copied there, verified, and removed
from the old folder at the end; the command may be interrupted at any time, and run again. All daemons use DIR
from then on: models_dir is set in conf.d/50-models.toml, and what the sandbox of the units needs is written
to their drop-in models.conf. If DIR is data_dir, it becomes usable where it is.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="action")
    shared = global_options()

    def add(name: str, summary: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[shared],
        )

    pull = add("pull", "download a model, or its missing and damaged files", VARIABLES)
    pull.add_argument(
        "model",
        type=word,
        metavar="MODEL",
        help="the model: step-audio-editx, whisper, whisper-small and others",
    )
    pull.add_argument(
        "--from",
        dest="source",
        choices=("huggingface", "modelscope"),
        default="huggingface",
        help="default: huggingface",
    )
    pull.add_argument(
        "--revision", type=word, metavar="REV", help="a branch, tag or commit; default: the newest"
    )
    pull.add_argument("--endpoint", type=word, metavar="URL", help="a mirror, as https://hf-mirror.com")
    pull.add_argument("--to", type=Path, dest="folder", metavar="DIR", help="default: models in data_dir")
    listed = add("list", "list the installed models")
    verify = add("verify", "check a model's files against the hub's digests")
    verify.add_argument("model", type=word, nargs="?", metavar="MODEL", help="default: all installed models")
    verify.add_argument("--quick", action="store_true", help="check sizes and headers only")
    remove = add("remove", "delete a model and the files of an interrupted pull")
    remove.add_argument("model", type=word, metavar="MODEL", help="the model")
    remove.add_argument("--yes", action="store_true", help="don't ask for confirmation")
    quantize = add("quantize", "write a quantized copy of Step-Audio-EditX, which loads faster")
    quantize.add_argument("bits", choices=("int8", "int4"), help="the weights' type")
    move = add("move", "use another folder: move the models there, or use those that it has", MOVE)
    move.add_argument("target", type=word, metavar="DIR", help="an absolute path, as /srv/models")
    for action in (listed, verify, remove, quantize):
        action.add_argument(
            "--in", type=Path, dest="folder", metavar="DIR", help="default: models in data_dir"
        )


def run(arguments: argparse.Namespace, options: Options, terminal: Terminal) -> None:
    if arguments.action == "move":
        _move(arguments, terminal)
        return
    actions = {"pull": _pull, "list": _list, "verify": _verify, "remove": _remove, "quantize": _quantize}
    root = arguments.folder.absolute() if arguments.folder else _models_folder(arguments, terminal)
    owner = _become_owner(arguments, root)
    try:
        with suppress(FileNotFoundError):
            os.stat(root)  # a folder without permission must not look like an empty one
        actions[arguments.action](arguments, root, terminal)
    except PermissionError as error:
        if owner is not None:
            used = Path(error.filename or root)
            mend = (
                explain(Needed(used, WRITE, used, "data")) or f" Run: sudo chown -R {owner}: {quoted(used)}"
            )
            raise NotPermitted(
                f"The folder belongs to the user {owner}, so this command runs with that user's rights, "
                f"which don't allow it to use {used}.{mend}"
            ) from None
        raise NotPermitted(
            f"You may not use {error.filename or root}. Run as root: sudo {_command_line(arguments)} (sudo "
            "drops variables such as HF_ENDPOINT and HF_TOKEN: set them as in sudo HF_ENDPOINT=… …)."
        ) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        mend = explain(Needed(root, WRITE, root, "data"))
        raise IncompleteModel(
            f"{error.filename or root} can't be used: {error.strerror or error}.{mend}"
        ) from None


def _become_owner(arguments: argparse.Namespace, root: Path) -> str | None:
    """As root, continue as the owner of the folder; return that user's name."""
    from stepaudiod.ctl.hub.catalog import FOLDERS, find
    from stepaudiod.ctl.privileges import become_owner

    is_pull = arguments.action == "pull"
    if is_pull:
        find(arguments.model)  # an unknown name must not create a folder
    return become_owner(root, FOLDERS, make=is_pull)


def _command_line(arguments: argparse.Namespace) -> str:
    words = ["stepaudioctl", "models", arguments.action]
    words += [given for name in ("model", "bits") if (given := vars(arguments).get(name))]
    if vars(arguments).get("source") == "modelscope":
        words += ["--from", "modelscope"]
    if arguments.folder:
        words += ["--to" if arguments.action == "pull" else "--in", str(arguments.folder)]
    return shlex.join(words)


def _models_folder(arguments: argparse.Namespace, terminal: Terminal) -> Path:
    from stepaudiod.config import SYSTEM_DATA, load
    from stepaudiod.errors import ConfigError

    try:
        settings = load()
    except ConfigError as error:
        raise WrongUsage(f"The configuration, which names the models' folder, is invalid: {error}") from None
    is_own = settings.data_dir == "auto" and os.geteuid() != 0
    if arguments.action == "pull" and is_own and SYSTEM_DATA.exists():
        terminal.note(
            f"The model goes to {settings.models_path}, for a daemon that you start yourself. For the "
            f"system's daemon: sudo {_command_line(arguments)}"
        )
    return settings.models_path


def _pull(arguments: argparse.Namespace, root: Path, terminal: Terminal) -> None:
    from stepaudiod.ctl.hub.catalog import find
    from stepaudiod.ctl.hub.download import Pull
    from stepaudiod.ctl.hub.progress import Progress, size

    model = find(arguments.model)
    if arguments.endpoint and not arguments.endpoint.startswith(("http://", "https://")):
        raise WrongUsage(f"{arguments.endpoint!r} isn't a URL. Write it as https://hf-mirror.com.")
    source = _open_source(arguments.source, arguments.endpoint)
    try:
        pulled = Pull(model, source, arguments.revision, root, Progress(terminal)).run()
    except KeyboardInterrupt:
        terminal.note("Interrupted. The downloaded part is kept: run the same command to continue.")
        raise
    folders = [str(folder) for folder in pulled.folders]
    value = {"model": model.name, "source": source.name, "endpoint": source.endpoint}
    value |= asdict(pulled) | {"folders": folders}
    counts = f"{pulled.files} files, {size(pulled.size_bytes)}, {size(pulled.fetched_bytes)} downloaded now"
    terminal.result(value, f"{model.name} is complete in {' and '.join(folders)} ({counts})")


def _open_source(name: str, endpoint: str | None) -> Source:
    package = {"huggingface": "huggingface-hub", "modelscope": "modelscope-hub"}[name]
    if find_spec(package.replace("-", "_")) is None:
        raise ClientMissing(
            f"Pulling from {name} needs its client {package} where stepaudioctl runs: "
            "pip install 'stepaudiod[hub]'. The Debian runtimes with torch have it. Or copy the files by "
            "hand, as described in docs/models.md."
        )
    if name == "modelscope":
        from stepaudiod.ctl.hub.modelscope import ModelScope

        return ModelScope(endpoint)
    from stepaudiod.ctl.hub.huggingface import HuggingFace

    return HuggingFace(endpoint)


def _list(arguments: argparse.Namespace, root: Path, terminal: Terminal) -> None:
    from stepaudiod.ctl.hub.installed import list_installed
    from stepaudiod.ctl.hub.progress import size

    found = list_installed(root)
    values = [_describe(installed) for installed in found]
    rows = [
        (
            value["model"],
            value["source"] or "–",
            " ".join(revision[:12] for revision in value["revisions"]) or "–",
            size(value["size_bytes"]),
            value["state"],
            " ".join(value["folders"]) or "–",
        )
        for value in values
    ]
    header = ("MODEL", "FROM", "REVISION", "SIZE", "STATE", "WHERE")
    terminal.result(values, table(header, rows) if rows else f"no models in {root}")


def _describe(installed: Installed) -> dict[str, Any]:
    sources = {manifest.source for manifest in installed.manifests}
    return {
        "model": installed.model.name,
        "source": " ".join(sorted(sources)) or None,
        "revisions": [manifest.revision for manifest in installed.manifests],
        "size_bytes": installed.size_bytes,
        "state": installed.state,
        "folders": [str(folder) for folder in installed.folders],
    }


def _verify(arguments: argparse.Namespace, root: Path, terminal: Terminal) -> None:
    from stepaudiod.ctl.hub.installed import check_digests, check_quickly, list_installed
    from stepaudiod.ctl.hub.progress import Progress

    found = [_named(arguments.model, root)] if arguments.model else list_installed(root)
    values, lines, damaged = [], [], []
    for installed in found:
        model = installed.model
        problems = list(
            check_quickly(model, root) if arguments.quick else check_digests(model, root, Progress(terminal))
        )
        checked = "structure" if arguments.quick or not installed.manifests else "digests"
        values.append({"model": model.name, "checked": checked, "problems": [asdict(p) for p in problems]})
        lines += [p.message for p in problems] or [f"{model.name}: {_describe_valid(installed, checked)}"]
        if problems:
            damaged.append(_repair_command(installed, arguments))
    terminal.result(values, "\n".join(lines) or f"no models in {root}")
    if damaged:
        raise IncompleteModel(f"Some files are missing or damaged. To repair them: {'; '.join(damaged)}")


def _describe_valid(installed: Installed, checked: str) -> str:
    if checked == "digests":
        files = sum(len(manifest.files) for manifest in installed.manifests)
        by_hand = len(installed.model.repositories) - len(installed.manifests)
        return f"{files} files, all digests are correct" + (
            f"; {by_hand} folder copied by hand, structure only" if by_hand else ""
        )
    if installed.manifests:
        return "sizes and headers are correct"
    return (
        "sizes and headers are correct. It was copied by hand, without a manifest, so digests are unknown; "
        f"`stepaudioctl models pull {installed.model.name}` compares it with the hub"
    )


def _repair_command(installed: Installed, arguments: argparse.Namespace) -> str:
    """The command that downloads damaged files from the same hub as the others."""
    is_modelscope = any(manifest.source == "modelscope" for manifest in installed.manifests[:1])
    command = f"stepaudioctl models pull {installed.model.name}{' --from modelscope' * is_modelscope}"
    return command + (f" --to {arguments.folder}" if arguments.folder else "")


def _remove(arguments: argparse.Namespace, root: Path, terminal: Terminal) -> None:
    from stepaudiod.ctl.hub.installed import remove
    from stepaudiod.ctl.hub.progress import size

    installed = _named(arguments.model, root)
    name = installed.model.name
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise WrongUsage(f"Standard input isn't a terminal, so deleting {name} needs --yes.")
        question = plain(f"Delete {name} ({size(installed.size_bytes)}) from {root}? [y/N] ")
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            terminal.result({"removed": None}, "kept")
            return
    remove(installed.model, root)
    terminal.note("A worker that has loaded it keeps the files open until: stepaudioctl unload")
    terminal.result({"removed": name, "size_bytes": installed.size_bytes}, f"removed {name}")


def _quantize(arguments: argparse.Namespace, root: Path, terminal: Terminal) -> None:
    from stepaudiod.ctl.hub.download import check_rights
    from stepaudiod.ctl.hub.progress import size
    from stepaudiod.editx.checkpoint.layout import Checkpoint
    from stepaudiod.errors import ModelFileError

    try:
        from stepaudiod.ctl.quantize import quantize_checkpoint
    except ImportError as error:
        raise ClientMissing(
            f"This needs PyTorch ({error}). Install stepaudiod[step-audio], or a runtime package with torch."
        ) from None
    check_rights(Checkpoint(root).quantized)
    terminal.note("Quantizing the language model takes a minute or more.")
    try:
        written = quantize_checkpoint(root, arguments.bits)
    except ModelFileError as error:
        raise IncompleteModel(error.message) from None
    value = asdict(written) | {"path": str(written.path), "bits": arguments.bits}
    text = (
        f"wrote {written.path}: {size(written.size_bytes)} in memory instead of {size(written.full_bytes)}; "
        f"relative error of the logits {written.logits_error:.3f}, {written.agreement:.0%} of predictions "
        f'equal. To use it: step_audio.quantization = "{arguments.bits}"'
    )
    terminal.result(value, text)


def _move(arguments: argparse.Namespace, terminal: Terminal) -> None:
    from stepaudiod.ctl.hub.progress import size
    from stepaudiod.ctl.move import Move

    try:
        moved = Move(Path(os.path.normpath(arguments.target)), terminal).run()
    except KeyboardInterrupt:
        terminal.note("Interrupted. Nothing is lost: run the same command to continue.")
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise IncompleteModel(
            f"The models can't be moved to {arguments.target}: {error.strerror or error} ({error.filename}). "
            "Nothing is lost: mend this, and run the same command again."
        ) from None
    files = [str(path) for path in moved.files]
    value = {"folder": str(moved.folder), "moved_bytes": moved.moved_bytes, "files": files}
    done = f"{size(moved.moved_bytes)} moved to" if moved.moved_bytes else "the models are in"
    written = f"; changed: {', '.join(files)}" if files else "; nothing had to be changed"
    terminal.result(value, f"{done} {moved.folder}{written}")


def _named(name: str, root: Path) -> Installed:
    from stepaudiod.ctl.hub.catalog import find
    from stepaudiod.ctl.hub.installed import find_installed, list_installed

    model = find(name)
    installed = find_installed(model, root)
    if installed is None:
        here = ", ".join(found.model.name for found in list_installed(root)) or "none"
        raise WrongUsage(f"{model.name} isn't in {root}. Models there: {here}.")
    return installed
