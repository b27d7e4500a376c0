"""What a unit's sandbox and the rights of its user keep from a daemon, as seen from outside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepaudiod.ctl.checks.permissions import Account
from stepaudiod.ctl.checks.sandbox import Seen
from stepaudiod.obstacles import READ, WRITE, Needed, Obstacle

OTHER = Account("other", 4242, 4242, frozenset({4242, 4243}))
STRICT = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "StateDirectory": "stepaudiod",
}


def obstacle(path: Path | str, want: int, **properties: str) -> Obstacle | None:
    path = Path(path)
    return Seen.of(OTHER, properties).first([Needed(path, want, path, "data")])


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter and that PrivateTmp= doesn't hide."""
    with tempfile.TemporaryDirectory(dir="/var") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def home(setting: str) -> str:
    return f"the unit's sandbox hides /home ({setting})"


@pytest.mark.parametrize(
    ("properties", "want", "problem", "drop_in"),
    [
        (
            {"ProtectHome": "yes"},
            READ,
            home("ProtectHome=yes"),
            "ProtectHome=tmpfs BindReadOnlyPaths=-/home/x",
        ),
        ({"ProtectHome": "yes"}, WRITE, home("ProtectHome=yes"), "ProtectHome=tmpfs BindPaths=-/home/x"),
        ({"InaccessiblePaths": "-/home"}, READ, home("InaccessiblePaths=/home"), ""),
        (
            {"ProtectHome": "tmpfs"},
            READ,
            "the unit's sandbox hides /home/x (ProtectHome=tmpfs)",
            "BindReadOnlyPaths=-/home/x",
        ),
        (
            {"ProtectHome": "read-only", "BindPaths": "/srv:/srv:rbind"},
            WRITE,
            "/home/x is read-only (ProtectHome=read-only)",
            "ReadWritePaths=-/home/x",
        ),
        (
            {"TemporaryFileSystem": "/home:ro", "BindPaths": "/srv:/home/y:rbind"},
            READ,
            "the unit's sandbox hides /home/x (TemporaryFileSystem=/home)",
            "BindReadOnlyPaths=-/home/x",
        ),
    ],
)
def test_a_setting_that_hides_or_protects_a_folder_is_named_with_its_mend(
    properties: dict[str, str], want: int, problem: str, drop_in: str
) -> None:
    found = obstacle("/home/x", want, **properties)
    assert found is not None
    assert (found.problem, " ".join(found.drop_in)) == (problem, drop_in)
    assert found.advice == "sudo stepaudioctl models move /home/x" or not drop_in


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that another user may not enter")
def test_rights_are_those_of_the_unit_user_and_not_of_the_current_one(place: Path) -> None:
    shut = place / "shut"
    (shut / "data").mkdir(parents=True)
    assert obstacle(shut / "data", READ) is None
    shut.chmod(0o700)
    found = obstacle(shut / "data", READ)
    assert found is not None
    assert (found.folder, found.advice) == (shut, f"sudo chmod o+x {shut}")
    os.chown(shut, 0, 4243)  # a supplementary group
    shut.chmod(0o710)
    assert obstacle(shut / "data", READ) is None
    shut.chmod(0o701)
    assert obstacle(shut / "data", READ) == Obstacle(
        shut, f"the user other may not enter {shut} (mode 0701)", f"sudo chmod a+x {shut}"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_what_the_unit_may_write_to(place: Path) -> None:
    data = place / "data"
    data.mkdir()
    os.chown(data, 4242, 4242)
    assert obstacle(data, WRITE) is None
    found = obstacle(data, WRITE, **STRICT)
    assert found is not None
    assert (found.problem, found.drop_in) == (
        f"{data} is read-only (ProtectSystem=strict)",
        (f"ReadWritePaths=-{data}",),
    )
    assert obstacle(data, READ, **STRICT) is None
    assert obstacle(data, WRITE, **STRICT, ReadWritePaths=f"-/nowhere -{place}") is None
    found = obstacle(data, WRITE, **STRICT, ReadWritePaths=str(place), ReadOnlyPaths=str(data))
    assert found is not None
    assert found.problem.endswith(f"(ReadOnlyPaths={data})")
    assert found.advice.startswith(f"take {data} out of ReadOnlyPaths=")  # of two equal paths it decides
    assert found.drop_in == ()
    os.chown(data, 0, 0)
    found = obstacle(data, WRITE, ProtectSystem="full")
    assert found is not None
    assert found.advice == f"sudo chown -R other: {data}"
    found = obstacle(place / "new", WRITE)
    assert found is not None
    assert found.advice == f"sudo install -d -o other {place / 'new'}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that another user may not enter")
def test_a_bind_shows_a_folder_where_the_way_to_it_is_closed(place: Path) -> None:
    inner = place / "shut" / "my data"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o700)
    shown = place / "shown"
    shown.mkdir()
    binds = f"-{inner}:{shown}:rbind -/home/x:/home/x:rbind"
    assert obstacle(shown, READ, BindReadOnlyPaths=binds) is None
    inner.chmod(0o700)
    found = obstacle(shown, READ, BindReadOnlyPaths=binds)
    assert found is not None
    assert found.problem == f"the user other may not read {shown} (mode 0700)"
    os.chown(inner, 4242, 4242)
    assert obstacle(shown, WRITE, BindPaths=binds, **STRICT) is None
    found = obstacle(shown, WRITE, BindReadOnlyPaths=binds)
    assert found is not None
    assert found.problem == f"{shown} is read-only (BindReadOnlyPaths={shown})"


def test_a_link_is_followed_to_what_the_sandbox_hides(place: Path) -> None:
    (place / "models").symlink_to("/root/models")
    found = obstacle(place / "models", READ, **STRICT)
    assert found is not None
    assert found.folder == Path("/root")
