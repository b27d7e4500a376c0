"""The voice library: creating, listing and deleting voices; no partial ones, nothing outside its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepaudiod.errors import InvalidRequest, NotFound
from stepaudiod.voice_library import VoiceLibrary


@pytest.fixture
def library(tmp_path: Path) -> VoiceLibrary:
    return VoiceLibrary(tmp_path / "voices")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "mei.flac"
    path.write_bytes(b"fLaC and so on")
    return path


def test_a_voice_is_made_found_and_listed(library: VoiceLibrary, recording: Path) -> None:
    made = library.create("Aunt Mei", recording, " 你好。 ", "Mei agreed on the phone", language="zh-CN")
    assert made.id == "aunt-mei"
    assert library.get("aunt-mei") == made
    assert library.list() == [made]
    assert made.transcript == "你好。"
    assert library.recording("aunt-mei").read_bytes() == recording.read_bytes()
    assert library.recording("aunt-mei").suffix == ".flac"


def test_the_recording_is_a_copy(library: VoiceLibrary, recording: Path) -> None:
    library.create("mei", recording, "", "yes")
    recording.unlink()
    assert library.recording("mei").exists()


def test_without_consent_there_is_no_voice(library: VoiceLibrary, recording: Path) -> None:
    with pytest.raises(InvalidRequest, match="person that agreed") as caught:
        library.create("mei", recording, "", "  ")
    assert caught.value.param == "consent"
    assert library.list() == []


def test_a_name_that_is_taken_is_refused_and_the_first_voice_stays(
    library: VoiceLibrary, recording: Path
) -> None:
    first = library.create("Mei", recording, "one", "yes")
    with pytest.raises(InvalidRequest, match="already"):
        library.create("mei!", recording, "two", "yes")
    assert library.list() == [first]


def test_a_recording_that_cannot_be_read_leaves_nothing(library: VoiceLibrary, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        library.create("mei", tmp_path / "absent.wav", "", "yes")
    assert list(library.root.iterdir()) == []


def test_names_cannot_escape_the_folder(library: VoiceLibrary, recording: Path) -> None:
    for name in ("", "..", "/", "…"):
        with pytest.raises(InvalidRequest, match="letter or a digit"):
            library.create(name, recording, "", "yes")
    assert library.create("../../etc", recording, "", "yes").id == "etc"
    library.delete("etc")
    library.create("mei", recording, "", "yes")
    for id in ("../voices/mei", "mei/", ".", "", "MEI"):
        with pytest.raises(NotFound):
            library.get(id)


def test_a_deleted_voice_is_gone_with_all_that_was_made_of_it(library: VoiceLibrary, recording: Path) -> None:
    library.create("mei", recording, "", "yes")
    (library.root / "mei" / "0123.safetensors").write_bytes(b"codes")
    library.delete("mei")
    assert list(library.root.iterdir()) == []
    with pytest.raises(NotFound, match="none yet"):
        library.delete("mei")


def test_names_in_any_script_make_voices_that_are_told_apart(library: VoiceLibrary, recording: Path) -> None:
    made = [library.create(name, recording, "", "yes") for name in ("小美", "小丽", "美 2", "丽 2")]
    assert len({voice.id for voice in made}) == 4
    assert all(voice.id.isascii() for voice in made)
    assert {voice.name for voice in library.list()} == {"小美", "小丽", "美 2", "丽 2"}


def test_a_damaged_folder_is_skipped_with_a_warning(library: VoiceLibrary, recording: Path) -> None:
    good = library.create("mei", recording, "", "yes")
    for id, content in (("cut", '{"name": "Cu'), ("strange", '{"colour": 1}'), ("bytes", "\xff")):
        (library.root / id).mkdir()
        (library.root / id / "voice.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(NotFound, match="damaged"):
            library.get(id)
    assert library.list() == [good]
