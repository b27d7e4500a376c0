"""The sources of settings, and their error messages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from stepaudiod.config import Settings, load, parse_assignments
from stepaudiod.daemon import main
from stepaudiod.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "stepaudiod.toml"
    path.write_text("")
    return path


def drop_in(path: Path, name: str, text: str) -> Path:
    folder = path.parent / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def message(path: Path | None, environ: dict[str, str] | None = None, *assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, parse_assignments(assignments), environ or {})
    return caught.value.message


def test_without_anything_the_defaults_hold(path: Path) -> None:
    assert load(path, environ={}) == Settings()


def test_later_layers_win(path: Path) -> None:
    path.write_text("idle_timeout = 1\nthreads = 1\n[limits]\nmax_text = 1\nmax_queue = 1\nmax_body = 2000")
    drop_in(path, "10.toml", "[limits]\nmax_text = 2\nmax_queue = 2\nmax_body = 3000")
    drop_in(path, "20.toml", "[limits]\nmax_text = 3\nmax_queue = 3")
    environ = {"STEPAUDIOD_LIMITS__MAX_QUEUE": "4", "STEPAUDIOD_THREADS": "2", "HOME": "/root"}
    settings = load(path, parse_assignments(["threads=3"]), environ)
    assert settings.idle_timeout == 1
    assert settings.limits.max_body == 3000
    assert settings.limits.max_text == 3
    assert settings.limits.max_queue == 4
    assert settings.threads == 3


def test_never_is_an_idle_timeout(path: Path) -> None:
    path.write_text('idle_timeout = "never"')
    assert load(path, environ={}).idle_timeout_s is None
    assert load(path, parse_assignments(["idle_timeout=never"]), {}).idle_timeout_s is None
    assert load(path, environ={"STEPAUDIOD_IDLE_TIMEOUT": "60"}).idle_timeout_s == 60


def test_a_list_can_be_given_anywhere(path: Path) -> None:
    environ = {"STEPAUDIOD_LISTEN__API": '["127.0.0.1:8003"]'}
    assert load(path, environ=environ).listen.api == ("127.0.0.1:8003",)
    assert load(path, parse_assignments(['listen.api=["/run/x"]']), {}).listen.api == ("/run/x",)


def test_a_size_of_memory_is_read_in_the_units_that_people_write(path: Path) -> None:
    for text, size in (("9.5G", 9_500_000_000), ("9500M", 9_500_000_000), ("8 GiB", 8 << 30), ("auto", None)):
        path.write_text(f'[step_audio]\ngpu_memory = "{text}"')
        assert load(path, environ={}).step_audio.gpu_memory_bytes == size
    for text in ("9.5", "G", "-1G", "9,5G", "9.5T", "nan G", ""):
        path.write_text(f'[step_audio]\ngpu_memory = "{text}"')
        assert 'write it as "9.5G"' in message(path)


def test_an_unknown_key_is_named_with_its_file(path: Path) -> None:
    path.write_text("idle_timout = 5")
    assert message(path) == f"{path}: idle_timout: there is no such key"
    path.write_text("[limits]\nmax_texts = 5")
    assert message(path) == f"{path}: limits.max_texts: there is no such key"


def test_a_wrong_value_is_named_with_the_file_it_stands_in(path: Path) -> None:
    path.write_text("[limits]\nmax_queue = 8")
    culprit = drop_in(path, "50-local.toml", '[limits]\nmax_queue = "many"')
    said = message(path)
    assert said.startswith(f"{culprit}: limits.max_queue: ")
    assert "integer" in said
    assert "'many'" in said


def test_an_idle_timeout_that_is_none_names_both_forms(path: Path) -> None:
    path.write_text('idle_timeout = "soon"')
    said = message(path)
    assert f"{path}: idle_timeout: " in said
    assert "never" in said


def test_a_number_of_seconds_is_a_number(path: Path) -> None:
    for value in ("inf", "nan", "-1"):
        path.write_text(f"idle_timeout = {value}")
        assert "idle_timeout" in message(path)


def test_all_errors_are_reported_at_once(path: Path) -> None:
    path.write_text("threads = -1\nengines = 3")
    said = message(path, {"STEPAUDIOD_LIMITS__MAX_TEXT": "0"})
    assert len(said.splitlines()) == 3
    assert "STEPAUDIOD_LIMITS__MAX_TEXT: limits.max_text: " in said


def test_command_line_errors_name_the_command_line(path: Path) -> None:
    assert message(path, {}, "threads=many").startswith("the command line: threads: ")
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments(["threads"])


def test_a_file_that_is_not_toml_is_named(path: Path) -> None:
    path.write_text("idle_timeout = = 3")
    assert message(path).startswith(f"{path}: invalid TOML")
    path.write_bytes(b"\xff\xfe")
    assert message(path).startswith(f"{path}: invalid TOML")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "absent.toml")


def test_a_table_instead_of_a_value_is_an_error(path: Path) -> None:
    path.write_text("[threads]\nnumber = 3")
    assert f"{path}: threads: " in message(path)
    path.write_text("limits = 3")
    assert f"{path}: limits: " in message(path)


def test_check_config_says_what_is_wrong(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("engine = 'hibari'")
    assert main(["--check-config", "--config", str(path)]) == 0
    assert "hibari" in capsys.readouterr().out
    path.write_text("engin = 'hibari'")
    assert main(["--check-config", "--config", str(path)]) == 1
    assert f"{path}: engin: there is no such key" in capsys.readouterr().err
    path.write_text("engine = 'hibary'")
    assert main(["--check-config", "--config", str(path)]) == 1
    assert "hibary" in capsys.readouterr().err


def test_the_shipped_file_lists_every_key_with_its_default() -> None:
    shipped = Path(__file__).parent.parent / "packaging" / "stepaudiod.toml"
    uncommented = re.sub(r"^# (?=[a-z_]+ = )", "", shipped.read_text(), flags=re.MULTILINE)
    assert tomllib.loads(uncommented) == Settings().model_dump(mode="json")


def test_hosts_and_origins_are_checked_for_their_form(path: Path) -> None:
    for key, wrong in {
        "hosts": ("http://speech.example", "speech.example:7860", "*", ""),
        "origins": ("speech.example", "https://speech.example/", "*", "null", "HTTPS://speech.example"),
    }.items():
        for value in wrong:
            path.write_text(f'[access]\n{key} = ["{value}"]')
            assert message(path).startswith(f"{path}: access.{key}"), value
    path.write_text(
        '[access]\nhosts = ["a.example", "::2"]\norigins = ["https://a.example", "http://[::1]:3000"]'
    )
    assert load(path, environ={}).access.hosts == ("a.example", "::2")


def test_check_config_reads_the_keys(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = path.parent / "keys"
    path.write_text(f"engine = 'hibari'\n[access]\nkeys_file = '{keys}'")
    assert main(["--check-config", "--config", str(path)]) == 0
    keys.write_text("laptop")
    assert main(["--check-config", "--config", str(path)]) == 1
    assert f"{keys}:1" in capsys.readouterr().err
    keys.unlink()
    assert main(["--check-config", "--config", str(path), "--set", "access.auth=keys"]) == 1
    assert "stepaudioctl keys add" in capsys.readouterr().err
