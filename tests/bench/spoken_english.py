"""Fit `engines/whisper/spoken_english.bin`: is it English, from Whisper tiny.en's encoder.

    python -m tests.bench.spoken_english         how well it does on sentences that it wasn't fitted on
    python -m tests.bench.spoken_english write   fit on all of them, and write the file

The packaged voices and mixtures of them speak, English and Chinese each in voices of both, with noise, echo,
a telephone's band, pauses and cuts. Other languages are given to Kokoro as phonemes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepaudiod.audio.resample import resample
from stepaudiod.engines.hibari import HibariEngine
from stepaudiod.engines.kokoro.engine import STYLES, KokoroEngine
from stepaudiod.engines.kokoro.vocab import VOCAB
from stepaudiod.engines.whisper.ctranslate2 import WhisperTinyEngine
from stepaudiod.engines.whisper.spoken_english import WEIGHTS, pooled
from stepaudiod.requests import SpeechRequest
from tests.bench.measure import machine

Array = NDArray[np.float32]

RATE = 16_000
FOLDS = 5
SPEAKERS = 2
"""How many say each sentence."""
RIDGE = 0.1
STEPS = 3000
ENGLISH = """
Yes.|No, thank you.|Stop!|Hello there.|Good morning.|Seven.|Tuesday.|See you tomorrow.|Turn left.|Okay.
Open the door.|What time is it?|I don't know.|Call me back later, please.|Where are my keys?
It is raining again.
The meeting starts at nine thirty.|Please send the invoice to our office in Leeds.|That's wonderful news!
My number is five five five, one two three four.|She sells sea shells by the sea shore.|Never mind.
The birch canoe slid on the smooth planks of wood.|Glue the sheet to the dark blue background.|Really?
Siobhan Nguyen met Krzysztof Wojciechowski in Llanfair.
We drove from Albuquerque to Tucson through Las Cruces.
The quarterly revenue of the corporation rose by twelve percent to four billion dollars.|Thanks a lot.
Photosynthesis converts carbon dioxide and water into glucose.|Doctor Patel prescribed amoxicillin.
He never said that he would come to the party.|Mozart composed the Jupiter symphony in Vienna.|Not yet.
If you press the red button, nothing will happen for ten seconds.|Could you repeat that more slowly?
Nevertheless, the committee adjourned without a decision.|Tokyo, Beijing and Seoul are large cities in Asia.
Wow, that's amazing! How did you do that?|First, boil two litres of water. Then add salt, and wait.
The cat sat quietly on the warm windowsill while the rain fell outside.|I would like a cappuccino.
Sherlock Holmes examined the footprints carefully.|Antidisestablishmentarianism is a long word.
My grandmother used to bake bread every Sunday morning.|The software update failed twice last night.
You know, I just finished that big project and feel so relieved.|Right, let's get started then.
"""
CHINESE = """
好|谢谢。|你好。|不是。|没问题。|今天天气很好。|一二三四五六七八九十|请问现在几点了？|我不知道。|明天见。
好的，没问题。|你吃饭了吗？|他昨天去北京了。|我们去公园散步吧。|这个多少钱？|他说了很多，但是我一句也没听懂。
请把窗户打开一下，好吗？|上海是中国最大的城市之一。|人工智能正在改变我们的生活方式。|真的吗？
他每天早上六点起床，然后去跑步。|昨天晚上下了一场大雨，路上都是水。|这本书讲的是一个年轻人的故事。|等一下。
我要一杯咖啡和一个面包。|我的电话号码是一三八零零一三八零零零。|春天来了，花儿都开了，小鸟在树上唱歌。
如果明天不下雨，我们就去爬山。|医生说我需要多休息，少看手机。|老师正在给学生们讲解数学题。|不客气。
火车将于下午三点二十分到达南京站。|欢迎来到我们的节目，今天我们要谈谈健康的饮食习惯。|中国的高铁技术世界领先。
小明和小红是好朋友，他们一起上学，一起回家。|由于天气原因，航班延误了两个小时。|快点儿，要迟到了！
公司第三季度的收入增长了百分之十二。|对不起，我来晚了。|生日快乐！|我爱你。|山重水复疑无路，柳暗花明又一村。
我奶奶以前每个星期天早上都烤面包。|软件更新昨晚失败了两次。|那我们现在就开始吧。|左边，然后右边。
"""
OTHERS = """
ɡˈuːtən mˈɔɾɡən, ɪç mˈœçtə ɡˈɛɾnə tsvˈaɪ bɾˈøːtçən kˈaʊfən.|vˈiː ɡˈeːt ɛs ˈiːnən hˈɔʏtə?
das vˈɛtɐ ɪst hˈɔʏtə zˈeːɐ ʃˈøːn.|ˈɪç vˈaɪs nˈɪçt, voː maɪn ʃlˈʏsəl ɪst.
dɐ tsˈuːk nax bɛɾlˈiːn fˈɛːɐt ʊm ˈaxt ˈuːɐ ap.
nˈaɪn, dˈaŋkə.|vɪɾ hˈaːbən ɡˈɛstɐn dɛn ɡˈantsən tˈaːk ɡəˈaɾbaɪtət.|aʊf vˈiːdɐzˈeːən, bɪs mˈɔɾɡən fɾˈyː.
bɔ̃ʒˈuʁ, ʒə vudʁˈɛ ɛ̃ kafˈe sil vu plˈɛ.|ɔ̃ nə sˈɛ ʒamˈɛ sə ki va aʁivˈe.|lə ʃˈa ɛ syʁ la tˈabl.|mɛʁsˈi bokˈu.
nu zavˈɔ̃ tʁavajˈe tut la ʒuʁnˈe ijˈɛʁ.|u ɛ la ɡˈaʁ, sil vu plˈɛ?
bwˈenos dˈias, kjˈeɾo un kafˈe kon lˈetʃe poɾ faβˈoɾ.|maɲˈana βˈamos a la plˈaʝa kon los nˈiɲos.
no sˈe ðˈonde estˈa mi kˈasa.|el tɾˈen sˈale a las ˈotʃo.|mˈutʃas ɡɾˈasjas.|aʝˈeɾ tɾaβaxˈamos tˈoðo el ðˈia.
bwɔndʒˈorno, vorrˈɛi un kaffˈɛ e un kornˈetto.|domˈani andjˈamo al mˈare kon i bambˈini.|la vˈita e bˈɛlla.
ɡrˈatsje mˈille, a domˈani.|konnitɕiwˈa, kjˈoː wa iː teɴki desɯ ne.|watɕi wa nihoɴɡo ɡa sɯkoɕi dekimasɯ.
asɕita toːkjoː ni ikimasɯ.|arˈiɡatoː ɡozaimˈasɯ.|zdrˈastvujtʲe, kˈak vɨ paʒɨvˈajɪtʲe?
ja nʲɪ znˈaju, ɡdʲe moj klʲˈutʃ.
spasʲˈiba balʃˈoje.|ˈanɲʌŋ hasˈejo, ˈonɯl nalsˈiɡa tɕˈoajo.|kˈamsa hamnˈida.|bˈõ dʒˈia, eu kˈɛɾu ũ kafˈɛ.
nˈɐ̃w̃ sˈej ˈõdʒi estˈa ˈa ʃˈavi.|namˈaste, ˈaːp kˈɛːse hɛ̃ː?|mˈuʒʰe nəhˈĩː patˈaː.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The encoder's output for a clip.

    Attributes:
        features: `(768,)`, see `pooled`.
        is_english: what it says.
        sentence: clips of one sentence are fitted or judged together.
    """

    features: Array
    is_english: bool
    sentence: str


class Speakers:
    """Kokoro with mixed voices, and hibari."""

    def __init__(self, cache_dir: Path, chance: np.random.Generator) -> None:
        self._kokoro = KokoroEngine(cache_dir=cache_dir, threads=2)
        self._hibari = HibariEngine(cache_dir=cache_dir, threads=2)
        for engine in (self._kokoro, self._hibari):
            engine.load(lambda stage, fraction: None)
        self._styles = {
            path.stem: np.fromfile(path, "<f4").reshape(510, 1, 256) for path in sorted(STYLES.glob("*.bin"))
        }
        self._chance = chance

    def say(self, text: str) -> Array:
        """Speak with a mixture of two voices."""
        voice = self._mix()
        pace = float(self._chance.uniform(0.8, 1.0))
        parts = list(self._kokoro.speak(SpeechRequest(text, voice, pace)))
        return resample(np.concatenate(parts), self._kokoro.sample_rate, RATE)

    def say_by_hibari(self, text: str) -> Array:
        """Speak English with hibari."""
        parts = list(self._hibari.speak(SpeechRequest(text, "heart")))
        return resample(np.concatenate(parts), self._hibari.sample_rate, RATE)

    def say_phonemes(self, phonemes: str) -> Array:
        """Those that Kokoro knows."""
        known = "".join(sign for sign in phonemes if sign in VOCAB)
        spoken = self._kokoro._synthesize(known, self._mix(), 1.0)
        return resample(spoken, self._kokoro.sample_rate, RATE)

    def _mix(self) -> str:
        """Make the style of `af_heart` a mixture, which the engine then uses."""
        first, second = self._chance.choice(list(self._styles), 2)
        share = self._chance.uniform()
        mixed = share * self._styles[first] + (1 - share) * self._styles[second]
        self._kokoro._styles["af_heart"] = mixed.astype(np.float32)
        return "af_heart"


def spoiled(clip: Array, chance: np.random.Generator) -> Array:
    """Degrade a recording: cuts, pauses, rooms, telephones, noise."""
    if chance.uniform() < 0.3 and len(clip) > 2 * RATE:
        length = round(chance.uniform(1.5, 4.0) * RATE)
        start = int(chance.integers(max(1, len(clip) - length)))
        clip = clip[start : start + length]
    if chance.uniform() < 0.3:
        echo = np.exp(-np.arange(RATE // 4) / chance.uniform(300, 1500)) * chance.standard_normal(RATE // 4)
        echo[0] = 4.0
        clip = np.convolve(clip, echo / 4.0)[: len(clip)].astype(np.float32)
    if chance.uniform() < 0.2:
        clip = resample(resample(clip, RATE, 8_000), 8_000, RATE)
    before, after = (np.zeros(round(chance.uniform(0, 0.6) * RATE), np.float32) for _ in range(2))
    clip = np.concatenate([before, clip, after])
    if chance.uniform() < 0.5:
        power = float(np.sqrt((clip**2).mean()))
        below = 10 ** (-chance.uniform(8, 30) / 20)
        clip = clip + (chance.standard_normal(len(clip)) * power * below).astype(np.float32)
    return np.asarray(clip * chance.uniform(0.2, 1.0), np.float32)


def repeated(clip: Array, chance: np.random.Generator) -> Array:
    """Repeat it for up to 28 s."""
    return np.tile(clip, max(1, int(chance.uniform(8, 28) * RATE / len(clip))))


def joined(clips: list[Array], chance: np.random.Generator) -> Array:
    """Join recordings with pauses, for up to 28 s, and degrade them."""
    parts = [part for clip in clips for part in (clip, np.zeros(round(chance.uniform(0.1, 0.9) * RATE)))]
    return spoiled(np.concatenate(parts)[: 28 * RATE].astype(np.float32), chance)


def samples(cache_dir: Path) -> Iterator[Sample]:
    """Every sentence in several voices: clean, degraded, and in a full window."""
    chance = np.random.default_rng(0)
    speakers = Speakers(cache_dir, chance)
    tiny = WhisperTinyEngine(cache_dir=cache_dir, threads=2)
    tiny.load(lambda stage, fraction: None)
    jobs = [
        *((text, True, speakers.say) for text in sentences(ENGLISH) for _ in range(SPEAKERS)),
        *((text, True, speakers.say_by_hibari) for text in sentences(ENGLISH)),
        *((text, False, speakers.say) for text in sentences(CHINESE) for _ in range(SPEAKERS)),
        *((text, False, speakers.say_phonemes) for text in sentences(OTHERS) for _ in range(SPEAKERS)),
    ]
    before: dict[bool, list[Array]] = {True: [], False: []}
    for text, is_english, say in jobs:
        clip = say(text)
        before[is_english] = [*before[is_english][-3:], clip]
        full = repeated(clip, chance) if chance.uniform() < 0.5 else joined(before[is_english], chance)
        for heard in (clip, spoiled(clip, chance), full):
            encoded = np.asarray(tiny.encode(heard))
            yield Sample(pooled(encoded, len(heard) / RATE), is_english, text)


def sentences(text: str) -> list[str]:
    """The sentences of a list."""
    return [part for line in text.split("\n") for part in line.split("|") if part]


def fit(known: list[Sample]) -> Array:
    """Logistic regression with a ridge, both classes of the same weight: `(769,)` for raw features."""
    features = np.array([sample.features for sample in known], np.float64)  # (samples, 768)
    wanted = np.array([sample.is_english for sample in known], np.float64)
    middle, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - middle) / spread
    share = np.where(wanted > 0, wanted.mean(), 1 - wanted.mean())
    weights, constant = np.zeros(scaled.shape[1]), 0.0
    for _ in range(STEPS):
        error = (1 / (1 + np.exp(-(scaled @ weights + constant))) - wanted) / (2 * share)
        weights -= 0.05 * (scaled.T @ error / len(known) + RIDGE * weights)
        constant -= 0.05 * error.mean()
    raw = weights / spread
    return np.append(raw, constant - raw @ middle).astype("<f4")


def judge(known: list[Sample]) -> None:
    """The error rates on sentences that were not used for the fit."""
    order = {text: index for index, text in enumerate(dict.fromkeys(sample.sentence for sample in known))}
    odds: dict[bool, list[float]] = {True: [], False: []}
    for fold in range(FOLDS):
        weights = fit([sample for sample in known if order[sample.sentence] % FOLDS != fold])
        for sample in known:
            if order[sample.sentence] % FOLDS == fold:
                odds[sample.is_english].append(float(sample.features @ weights[:-1] + weights[-1]))
    english, others = np.array(odds[True]), np.array(odds[False])
    print(machine())
    print("| at least | English refused | other languages taken |\n| --- | --- | --- |")
    for least in (-1.0, -0.5, 0.0, 0.5):
        print(f"| {least} | {np.mean(english < least):.1%} | {np.mean(others >= least):.1%} |")
    print(f"{len(english)} clips of English, {len(others)} of other languages")


def main() -> None:
    """Fit, and judge or write."""
    with tempfile.TemporaryDirectory() as folder:
        known = list(samples(Path(folder)))
    if "write" in sys.argv[1:]:
        fit(known).tofile(WEIGHTS)
        print(f"{WEIGHTS} is fitted on {len(known)} clips")
    else:
        judge(known)


if __name__ == "__main__":
    main()
