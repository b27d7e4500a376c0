"""Texts over all of Unicode: no converter fails, and no audio is cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.kokoro.english import load_g2p
from stepaudiod.engines.registry import HIBARI, KOKORO, Catalog
from stepaudiod.engines.voice_names import require_speakable
from stepaudiod.errors import StepaudiodError, Unsupported
from stepaudiod.text.scripts import has_letters, main_language
from stepaudiod.text.sentences import split_sentences
from tests.attack.conftest import Tally
from tests.conftest import StartDaemon
from tests.odd_texts import odd_texts

CONVERTED, SPOKEN = 250, 8
"""At a scale of 40: 10,000 and 320."""

NAMES = [HIBARI.name, KOKORO.name]


def each_of(count: int, attempt: Callable[[str], bool], max_pieces: int) -> tuple[int, int]:
    """The number of texts, and of those that succeeded."""
    results: list[bool] = []

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(odd_texts(max_pieces=max_pieces))
    def run(text: str) -> None:
        if len(results) < count:
            results.append(attempt(text))

    run()
    return len(results), sum(results)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_fails_in_a_converter(name: str, scale: int, tally: Tally, tmp_path: Path) -> None:
    if name == KOKORO.name and KOKORO not in Catalog().installed():
        pytest.skip(f"kokoro is not installed: {KOKORO.install}")
    hibari = HibariEngine(cache_dir=tmp_path, threads=1)
    hibari._g2p = load_g2p()
    kokoro = KokoroEngine(cache_dir=tmp_path, threads=1)

    def converts(text: str) -> bool:
        try:
            if name == HIBARI.name:
                for piece in split_sentences(text, 240, 140):
                    hibari._phonemes(piece.text)
            else:
                for piece in split_sentences(text, 96, 56):
                    main = main_language(piece.text) if has_letters(piece.text) else "zh"
                    kokoro._phonemes(piece.text, main=main, voice="af_heart")
        except Exception:
            return False
        return True

    tried, held = each_of(CONVERTED * scale, converts, max_pieces=8)
    tally(f"texts over all of Unicode, converted by {name}", tried, held)
    assert held == tried


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_cut_off(name: str, scale: int, tally: Tally, start_daemon: StartDaemon) -> None:
    engine = HIBARI if name == HIBARI.name else KOKORO
    if engine not in Catalog().installed():
        pytest.skip(f"{name} is not installed: {engine.install}")
    daemon = start_daemon({"engine": name})
    ask = {"model": name, "voice": "alloy", "speed": 4.0, "response_format": "pcm"}

    def is_spoken(text: str) -> bool:
        text = "".join(sign for sign in text[:120] if not "\ud800" <= sign <= "\udfff")  # not JSON
        wanted = f"This comes first.\n\n{text}\n\nThis is the last one."
        try:
            require_speakable(engine, wanted)
            status = 200
        except Unsupported:
            status = 422
        except StepaudiodError:
            status = 400
        try:
            response = daemon.shared_client.post(
                "/v1/audio/speech", json={**ask, "input": wanted}, timeout=300
            )
        except httpx.RemoteProtocolError:  # cut off
            return False
        return response.status_code == status and (status != 200 or len(response.content) > 24_000)

    tried, held = each_of(SPOKEN * scale, is_spoken, max_pieces=3)
    tally(f"texts over all of Unicode, spoken by {name}", tried, held)
    assert held == tried
