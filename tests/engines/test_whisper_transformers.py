"""Whisper through transformers, with a small random model: the form of what it writes, not the words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepaudiod.engines.base import Clip
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.whisper.bpe import Spelling
from stepaudiod.engines.whisper.transformers import WhisperEngine
from stepaudiod.errors import EngineUnavailable, ModelFileError, Unsupported
from stepaudiod.requests import Facts, Recording, Segment, TranscriptionRequest
from tests.engines.conftest import Say

transformers = pytest.importorskip("transformers")

RATE = 24_000
LANGUAGES = ("en", "zh", "cy")


def write_tokenizer(folder: Path, languages: tuple[str, ...]) -> dict[str, int]:
    """Every byte is a token; then what Whisper has beside text, in its order. Returns the ids."""
    from tokenizers import AddedToken

    signs = [*Spelling().characters.values(), "<|endoftext|>"]
    tokenizer = transformers.WhisperTokenizer({sign: index for index, sign in enumerate(signs)}, [])
    beside = ["startoftranscript", *languages, "translate", "transcribe", "startoflm", "startofprev"]
    special = [f"<|{name}|>" for name in (*beside, "nospeech", "notimestamps")]
    times = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in times])
    tokenizer.save_pretrained(folder)
    return {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", *special, *times)}


def write_model(folder: Path, languages: tuple[str, ...] = LANGUAGES, has_heads: bool = True) -> None:
    """A folder like those that transformers publishes, as small as can be."""
    import torch

    ids = write_tokenizer(folder, languages)
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    small = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.WhisperConfig(
        vocab_size=len(ids) + 256, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_target_positions=40, decoder_start_token_id=start, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, begin_suppress_tokens=None, **small,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    settings: dict[str, Any] = {
        "decoder_start_token_id": start, "pad_token_id": end, "bos_token_id": end, "eos_token_id": end,
        "max_length": 40, "max_initial_timestamp_index": 50,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"], "is_multilingual": bool(languages),
    }  # fmt: skip
    if languages:
        settings["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in languages}
        settings["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    if has_heads:
        settings["alignment_heads"] = [[0, 0]]
    model.generation_config = transformers.GenerationConfig(**settings)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    write_model(path)
    return path


def loaded(folder: Path, **options: str) -> WhisperEngine:
    engine = WhisperEngine(
        cache_dir=folder,
        threads=1,
        **{"folder": str(folder), "device": "cpu", "name": "whisper-x", **options},
    )
    engine.load(lambda stage, done: None)
    return engine


@pytest.fixture(scope="module")
def whisper(folder: Path) -> WhisperEngine:
    return loaded(folder)


@pytest.fixture(scope="module")
def speech(hibari: HibariEngine, say: Say) -> np.ndarray:
    return say(hibari, "The salt breeze came across from the sea.", "heart")


def transcribed(
    engine: WhisperEngine, waveform: np.ndarray, **wishes: Any
) -> tuple[list[Segment], dict[str, str | int | float]]:
    segments: list[Segment] = []
    facts: dict[str, str | int | float] = {}
    for part in engine.transcribe(
        TranscriptionRequest(Recording("clip.wav"), **wishes), Clip(waveform, RATE)
    ):
        if isinstance(part, Facts):
            facts.update(part.values)
        else:
            segments.append(part)
    assert facts.pop("duration_s") == pytest.approx(len(waveform) / RATE, abs=0.001)
    return segments, facts


def test_segments_lie_in_order_inside_the_recording(whisper: WhisperEngine, speech: np.ndarray) -> None:
    waveform = np.concatenate([speech, np.zeros(40 * RATE, np.float32), speech])
    segments, facts = transcribed(whisper, waveform, language="en")
    assert facts == {"language": "en"}
    assert segments
    assert all(segment.tokens and segment.average_logprob < 0 for segment in segments)
    assert all(0 < segment.no_speech_probability < 1 for segment in segments)
    length_s = len(waveform) / RATE
    times = [time for segment in segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert all(0 <= time <= length_s for time in times)
    # nothing in the silence
    silent = (len(speech) / RATE + 0.5, length_s - len(speech) / RATE - 0.5)
    assert not [segment for segment in segments if silent[0] < segment.start_s < silent[1]]


def test_the_language_is_found_out_and_told_before_the_words(
    whisper: WhisperEngine, speech: np.ndarray
) -> None:
    steps = whisper.transcribe(TranscriptionRequest(Recording("clip.wav")), Clip(speech, RATE))
    told = [step for step in steps if step != Facts({})]
    assert isinstance(told[1], Facts)
    assert told[1].values["language"] in LANGUAGES
    assert [step for step in told[2:] if isinstance(step, Facts)] == []


def test_words_have_times_inside_their_segment(whisper: WhisperEngine, speech: np.ndarray) -> None:
    segments, _ = transcribed(whisper, speech, has_words=True, language="zh")
    assert segments
    for segment in segments:
        assert segment.words
        assert "".join(word.text for word in segment.words) == "".join(segment.text.split())
        times = [
            segment.start_s,
            *(time for word in segment.words for time in (word.start_s, word.end_s)),
            segment.end_s,
        ]
        assert times == sorted(times)


def test_prompt_and_temperature_are_taken_however_odd(whisper: WhisperEngine, speech: np.ndarray) -> None:
    prompt = "<|endoftext|> Siobhan 你好 <|0.00|>" * 50
    segments, _ = transcribed(whisper, speech, prompt=prompt, temperature=0.7)
    assert all(segment.text for segment in segments)


def test_half_precision_hears_too(folder: Path, speech: np.ndarray) -> None:
    engine = loaded(folder)
    engine._model.bfloat16()
    assert transcribed(engine, speech, language="en", has_words=True)[0]


def test_silence_has_no_transcript(whisper: WhisperEngine) -> None:
    assert transcribed(whisper, np.zeros(35 * RATE, np.float32)) == ([], {})
    assert transcribed(whisper, np.zeros(0, np.float32), language="zh") == ([], {"language": "zh"})


def test_what_the_model_lacks_is_refused_by_name(
    whisper: WhisperEngine, speech: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported, match=r"'de'.*cy, en, zh"):
        transcribed(whisper, speech, language="de")
    write_model(tmp_path, has_heads=False)
    with pytest.raises(Unsupported, match="alignment_heads"):
        transcribed(loaded(tmp_path), speech, has_words=True)


def test_a_model_for_english_only_needs_no_language_and_refuses_what_it_guessed(
    speech: np.ndarray, tmp_path: Path
) -> None:
    write_model(tmp_path, languages=())
    engine = loaded(tmp_path)
    for language in (None, "en"):  # random weights are unsure of every word
        with pytest.raises(Unsupported, match=r"doesn't sound like English.*supports English only"):
            transcribed(engine, speech, language=language)
    with pytest.raises(Unsupported, match="language"):
        transcribed(engine, speech, language="zh")


def test_what_is_missing_or_damaged_is_said_when_loading(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="models pull whisper"):
        loaded(tmp_path / "nowhere")
    write_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match=str(tmp_path)):
        loaded(tmp_path)
    weights.unlink()
    with pytest.raises(ModelFileError):
        loaded(tmp_path)


def test_code_in_the_folder_is_not_run(tmp_path: Path, speech: np.ndarray) -> None:
    write_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSpeechSeq2Seq": "evil.Model", "AutoConfig": "evil.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    loaded(tmp_path)
    assert not (tmp_path / "ran").exists()
