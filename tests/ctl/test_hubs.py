"""Connecting to a hub: mirrors, proxies, tokens, and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ctl.conftest import Ctl, control
from tests.ctl.hub import Hub, Proxy, SocksProxy

BOTH = pytest.mark.parametrize("source", ["huggingface", "modelscope"])


@BOTH
def test_an_endpoint_on_the_command_line_is_a_mirror(
    hub: Hub, hub_environ: dict[str, str], programs: Path, source: str
) -> None:
    ctl = control("http://127.0.0.1:1", hub_environ, programs)
    ctl.ok("models", "pull", "whisper-tiny", "--from", source, "--endpoint", hub.url)
    assert "model.safetensors" in hub.fetched()


@BOTH
def test_hubs_get_no_persistent_id_and_no_program_list(
    hub: Hub, hub_environ: dict[str, str], programs: Path, source: str
) -> None:
    ctl = control(hub.url, hub_environ | {"HF_HUB_DISABLE_TELEMETRY": "0"}, programs, CLAUDECODE="1")
    ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    agents = {asked.agent for asked in hub.asked}
    assert agents
    assert not [agent for agent in agents if "torch/" in agent or "agent/" in agent]
    assert not [path for path in Path(hub_environ["MODELSCOPE_HOME"]).rglob("*") if path.name == "session"]


def test_modelscopes_older_variable_works(hub: Hub, hub_environ: dict[str, str], programs: Path) -> None:
    ctl = Ctl((), str(programs), **hub_environ, MODELSCOPE_DOMAIN=hub.url)
    ctl.ok("models", "pull", "whisper-tiny", "--from", "modelscope")


@BOTH
def test_a_proxy_is_the_only_way_out(
    hub: Hub, hub_environ: dict[str, str], programs: Path, source: str
) -> None:
    hub.cdn = "http://cdn.invalid"
    proxy = Proxy(hub)
    ways = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "NO_PROXY": "", "no_proxy": ""}
    ctl = control("http://hub.invalid", hub_environ, programs, **ways)
    try:
        ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    finally:
        proxy.close()
    assert "hub.invalid" in proxy.hosts
    if source == "huggingface":
        assert "cdn.invalid" in proxy.hosts


@BOTH
def test_a_socks_proxy_works_too(hub: Hub, hub_environ: dict[str, str], programs: Path, source: str) -> None:
    proxy = SocksProxy(hub)
    hub.cdn = "http://cdn.invalid"
    ways = {"ALL_PROXY": proxy.url, "all_proxy": proxy.url, "NO_PROXY": "", "no_proxy": ""}
    try:
        control("http://hub.invalid", hub_environ, programs, **ways).ok(
            "models", "pull", "whisper-tiny", "--from", source
        )
    finally:
        proxy.close()
    assert "hub.invalid" in proxy.hosts


@BOTH
def test_a_proxy_that_can_not_be_one_is_3(
    hub: Hub, hub_environ: dict[str, str], programs: Path, source: str
) -> None:
    ways = {"HTTP_PROXY": "nonsense://x:y", "http_proxy": "nonsense://x:y", "NO_PROXY": "", "no_proxy": ""}
    done = control(hub.url, hub_environ, programs, **ways).run(
        "models", "pull", "whisper-tiny", "--from", source
    )
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr


@BOTH
def test_a_hub_that_is_not_there_is_3(hub_environ: dict[str, str], programs: Path, source: str) -> None:
    done = control("http://127.0.0.1:1", hub_environ, programs).run(
        "models", "pull", "whisper-tiny", "--from", source
    )
    assert done.returncode == 3
    assert done.stderr.startswith(b"stepaudioctl: http://127.0.0.1:1 can't be reached (")
    assert b"HTTPS_PROXY" in done.stderr
    assert (b"HF_ENDPOINT" if source == "huggingface" else b"MODELSCOPE_ENDPOINT") in done.stderr


@BOTH
@pytest.mark.parametrize(("status", "advice"), [(401, b"token"), (403, b"token"), (404, b"--revision")])
def test_a_hub_that_refuses_is_1(hub_ctl: Ctl, hub: Hub, source: str, status: int, advice: bytes) -> None:
    hub.refuse_with = status
    done = hub_ctl.run("models", "pull", "whisper-tiny", "--from", source)
    assert done.returncode == 1
    assert f"answered status {status}".encode() in done.stderr
    assert advice in done.stderr


@BOTH
def test_a_token_is_sent_only_to_its_hub(
    hub: Hub, hub_environ: dict[str, str], programs: Path, source: str
) -> None:
    hub.token = "secret"
    ctl = control(hub.url, hub_environ, programs, HF_TOKEN="secret", MODELSCOPE_API_TOKEN="secret")
    ctl.ok("models", "pull", "whisper-tiny", "--from", source)
    assert all(asked.authorization is None for asked in hub.asked if asked.host == "localhost")


def test_a_revision_that_is_not_there_is_1(hub_ctl: Ctl) -> None:
    done = hub_ctl.run("models", "pull", "whisper-tiny", "--revision", "nothing")
    assert done.returncode == 1
    assert b"--revision" in done.stderr


def test_a_repository_without_weights_is_1(hub_ctl: Ctl, hub: Hub) -> None:
    del hub.repositories["openai/whisper-tiny"]["model.safetensors"]
    done = hub_ctl.run("models", "pull", "whisper-tiny")
    assert done.returncode == 1
    assert b"has no model.safetensors" in done.stderr


@pytest.mark.parametrize(
    ("source", "package"), [("huggingface", "huggingface_hub"), ("modelscope", "modelscope_hub")]
)
def test_without_its_client_the_command_says_what_to_install(source: str, package: str) -> None:
    program = f"""
import sys
sys.modules["{package}"] = None
from stepaudiod.ctl.main import main
sys.exit(main(["models", "pull", "whisper-tiny", "--from", "{source}"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 5
    assert b"pip install 'stepaudiod[hub]'" in done.stderr


def test_other_commands_do_not_import_the_clients(models: Path) -> None:
    program = f"""
import sys
from stepaudiod.ctl.main import main
main(["models", "list", "--in", "{models}"])
print({{"huggingface_hub", "modelscope_hub", "httpx", "requests", "torch"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"set()"
