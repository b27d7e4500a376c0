"""Every operation of the OpenAPI document, with valid and invalid requests.

Schemathesis makes requests from the document and compares the answers with it: status, type, headers, form.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.activation import DaemonProcess
from tests.conftest import StartDaemon

CHECKS = (
    "no_fault,no_undeclared_header,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance"
)
SECONDS = 20
"""How long a daemon is asked new things."""
SEED = 1

HOOKS = '''
import io
import wave

import schemathesis
from hypothesis import strategies as st


def hum():
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 24_000, 0, "NONE", "not compressed"))
        writer.writeframes(b"".join((i % 160 * 100).to_bytes(2, "little") for i in range(36_000)))
    return file.getvalue()


schemathesis.openapi.format("binary", st.sampled_from([hum()] * 3 + [hum()[:5000], b"", b"no sound"]))


@schemathesis.check
def no_fault(ctx, response, case):
    """A 5xx only where it is documented: the requested engine isn't installed."""
    if response.status_code >= 500:
        code = response.json()["error"]["code"]
        assert code == "engine_unavailable", f"{response.status_code} {code}: {response.text[:300]}"


@schemathesis.check
def no_undeclared_header(ctx, response, case):
    """Every header of our own is documented."""
    answers = case.operation.definition.raw["responses"]
    declared = {name.lower() for name in answers.get(str(response.status_code), {}).get("headers", {})}
    undeclared = {name for name in response.headers if name.startswith("x-stepaudio-")} - declared
    assert not undeclared, undeclared
'''


@pytest.fixture(scope="module")
def embedded(start_module_daemon: StartDaemon) -> DaemonProcess:
    """A daemon with the small English voice and nothing else."""
    return start_module_daemon({"limits.max_text": 60})


def explore(daemon: DaemonProcess, folder: Path) -> str:
    """Test one daemon; return schemathesis's report."""
    (folder / "hooks.py").write_text(HOOKS)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{daemon.url}/openapi.json",
        f"--checks={CHECKS}",
    ]
    command += [
        f"--max-time={SECONDS}",
        f"--seed={SEED}",
        "--workers=2",
        "--continue-on-failure",
        "--no-color",
    ]
    done = subprocess.run(
        [
            *command,
            "--suppress-health-check=all",
            "--request-timeout=60",
            "--phases=examples,coverage,fuzzing,stateful",
        ],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "SCHEMATHESIS_HOOKS": "hooks"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{daemon.log()[-2000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded", "step_audio"])
def test_every_response_matches_the_document(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    daemon: DaemonProcess = request.getfixturevalue(name)
    worker_starts = daemon.log().count("worker started")
    told = explore(daemon, tmp_path)
    assert "Operations" in told
    assert daemon.process.poll() is None
    assert worker_starts <= 1
