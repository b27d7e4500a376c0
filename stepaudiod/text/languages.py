"""Maps languages as clients write them to language codes: `en-US`, `English` and `eng` are `en`.

The codes are ISO 639-1 where there is one, and those of Whisper (`haw`, `yue`, and `jw` for Javanese)
otherwise: OpenAI, "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356).
"""

from __future__ import annotations

import re
from functools import cache

UNSPECIFIED = frozenset(
    {"", "auto", "automatic", "detect", "none", "null", "undefined", "und", "mul", "multi"}
)
"""Values that request language detection."""

_NAMES = """
af afrikaans afr; am amharic; ar arabic ara العربية; as assamese; az azerbaijani; ba bashkir; be belarusian;
bg bulgarian bul български; bn bengali bangla; bo tibetan; br breton; bs bosnian; ca catalan valencian català;
cs czech ces cze čeština; cy welsh; da danish dan dansk; de german deu ger deutsch; el greek ell gre ελληνικά;
en english eng; es spanish castilian spa español; et estonian eesti; eu basque euskara;
fa persian farsi fas فارسی; fi finnish fin suomi; fo faroese; fr french fra fre français; gl galician;
gu gujarati; ha hausa; haw hawaiian; he hebrew heb iw עברית; hi hindi hin हिन्दी; hr croatian hrvatski;
ht haitian; hu hungarian hun magyar; hy armenian; id indonesian ind in; is icelandic íslenska;
it italian ita italiano; ja japanese jpn 日本語 日语; jw javanese jv; ka georgian; kk kazakh; km khmer;
kn kannada; ko korean kor 한국어 韩语; la latin; lb luxembourgish letzeburgesch; ln lingala; lo lao;
lt lithuanian; lv latvian; mg malagasy; mi maori; mk macedonian; ml malayalam; mn mongolian; mr marathi;
ms malay msa; mt maltese; my myanmar burmese; ne nepali; nl dutch flemish nld dut nederlands; nn nynorsk;
no norwegian nor nb norsk; oc occitan; pa punjabi panjabi; pl polish pol polski; ps pashto pushto;
pt portuguese por português; ro romanian moldavian moldovan ron română; ru russian rus русский; sa sanskrit;
sd sindhi; si sinhala sinhalese; sk slovak slovenčina; sl slovenian; sn shona; so somali; sq albanian;
sr serbian srpski српски; su sundanese; sv swedish swe svenska; sw swahili; ta tamil; te telugu; tg tajik;
th thai tha ไทย; tk turkmen; tl tagalog fil filipino; tr turkish tur türkçe; tt tatar;
uk ukrainian ukr українська; ur urdu; uz uzbek; vi vietnamese vie; yi yiddish; yo yoruba;
yue cantonese 粤语 粵語 广东话; zh chinese mandarin zho chi cmn 中文 汉语 普通话 国语
"""
_TAG = r"([a-z]{2,3})[-_][a-z0-9_-]*"


@cache
def _codes() -> dict[str, str]:
    """Every word of the table with its code; built at first use, which no health check needs."""
    return {word: entry.split()[0] for entry in _NAMES.split(";") for word in entry.split()}


def language_code(text: str) -> str:
    """The code of a tag, code or name: "" requests detection, and an unknown language is in lower case."""
    plain = text.strip().lower()
    if plain in UNSPECIFIED:
        return ""
    if tag := re.fullmatch(_TAG, plain):
        plain = tag[1]
    return _codes().get(plain, plain)
