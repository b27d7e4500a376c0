"""A strategy of odd texts: all of Unicode, and non-sentences that users write."""

from __future__ import annotations

from hypothesis import strategies as st

ENUMERATIONS = "①②⑩⑳⑴⑵⒈⒉⒐⓪⓵❶➀➊㈠㈡㊀㊿㉑🄀🄁🄊⒜ⓐⒶ🅰"
SCRIPTS = "⁰¹²³⁴⁹⁺⁻⁽⁾ⁿ₀₁₂₉₊₋ₐₓ"
FRACTIONS = "½⅓¼¾⅛⅞⅟↉⁄"
OTHER_DIGITS = "٣٤٠۴۹߀०१९০৯௧௲๑๙༡༳၁፩፪᠑᧚᮱〇〡㆒𐒠𐩀𑁒𝟎𝟘𝟬𝟶🯱"
ROMAN = "ⅠⅣⅫⅬⅭⅮⅯⅳↀↁↂↃↈ"
MATHEMATICS = "∑∏∫√∛∞≈≠≤≥±×÷∂∇∈∉⊂∪∩∀∃¬∧∨→⇒ℝℕℤℂ𝑥𝐱𝛼𝟙′″°‰‱µΩΩ"
CURRENCIES = "$€£¥₹₩₽₿₺₴₦₫₱₪฿¢¤₠₣₤৳៛﷼＄￥￡"
CONTROL = "\x00\x01\x07\x08\t\n\x0b\x0c\r\x1b\x1c\x7f\x85\xa0\xad"
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2028\u2029\u2060\u2066\u2069\ufeff\ufffc\ufffd\ufffe"
MARKS = "\u0300\u0301\u0308\u0489\u20dd\u20e3\u0e31\u0e4d\u0591\u064b\u093c\u3099\ufe0f\U000e0100"
SURROGATES = "\ud800\udbff\udc00\udfff"
SIGNS = "'\"’‘“”`´-–—…·•*#_~^|\\/<>[](){}&%@!?.,;:。，、；：！？「」『』《》【】（）〔〕"
LATIN = "aAbIxyzéßÅøłŁıİſﬁŉǅẞ"
OTHER_LETTERS = "ЖяΩσςאبمहिไทยกำ한글あアｱー々〆𠀀㐀豈龘囍儿𐐀Ⴀꙮ"
WORDS = (
    "the", "Hello", "NASA", "don't", "rock'n'roll", "U.S.", "Dr.", "3rd", "10am", "5kg", "x2", "H100",
    "1e-9", "0x1F", "192.168.1.1", "+44 20 7946 0958", "$1,234.50", "£3.99", "€5", "12:30", "24:99",
    "2024-13-45", "1/2", "3/0", "100%", "No. 5", "Chapter IV", "Henry VIII", "#1", "-5", "10-20%",
    "1,000,000", "1,2,3", "v2.13.0", "http://a.b/c?d=e&f=%20#g", "www.x.co", "a@b.co", "<b>", "</p>",
    "&nbsp;", "&#x27;", "**bold**", "__x__", "`code`", "~~no~~", "[link](/hello/)", "[x](http://a)",
    "[x](/", "[a](//)", "[](/a/)", "![i](j.png)", "# Title", "> quote", "| a | b |",
    "for(i=0;i<n;i++){}", "x = y ** 2", "if (a && b)", "snake_case", "camelCase", "\\n", "lol", ":-)",
    "¯\\_(ツ)_/¯", "@me", "#tag", "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "1️⃣", "😀", "你好",
    "我买了3个apples", "2024年3月5日", "¥9,999", "下午3:30", "打电话13812345678", "1～3个", "第①章",
    "x²", "m²", "5³", "H₂O", "CO₂", "5′3″", "°C", "25°C", "½", "1½", "Ⅳ", "①", "⑴", "สวัสดีครับ",
    "مرحبا ١٢٣", "שלום", "Привет", "नमस्ते १२", "こんにちは", "カタカナ", "안녕", "𝐛𝐨𝐥𝐝",
    "Ｈｅｌｌｏ１２３", "a" * 60, "1" * 40, "9" * 400, "A" * 200, "0" * 60, "'" * 30, "(" * 30,
    "." * 30, "-" * 30, "1," * 30, "1." * 30, "a." * 30, "²" * 20, "①" * 20, "'s", "'d", "ing", "s'",
    "th", "1's", "1'd", "1ing", "1ed", "1st", "①st", "²ing", ".5", "5.", "-.5", ",5", "5,", "1.2.3",
    "..5", "-5-", "1-2-3", "$.5", "$5.", "$", "$$", "£1.2.3", "€1,00",
)  # fmt: skip

_CLASSES = (
    ENUMERATIONS, SCRIPTS, FRACTIONS, OTHER_DIGITS, ROMAN, MATHEMATICS, CURRENCIES, CONTROL, INVISIBLE, MARKS,
    SURROGATES, SIGNS, LATIN, OTHER_LETTERS, "0123456789", "0123456789.,:/-", " \n",
)  # fmt: skip

_any_character = st.characters()
"""All of Unicode, lone surrogates too."""
_odd_character = st.one_of(*(st.sampled_from(each) for each in _CLASSES))
_piece = st.one_of(
    st.sampled_from(WORDS),
    st.text(_odd_character, min_size=1, max_size=6),
    st.text(_any_character, min_size=1, max_size=6),
    st.builds(
        lambda unit, times: unit * times, st.text(_odd_character, min_size=1, max_size=3), st.integers(2, 40)
    ),
)
_joint = st.sampled_from(("", "", " ", " ", ", ", ". ", "。", "\n"))


@st.composite
def odd_texts(draw: st.DrawFn, max_pieces: int = 8) -> str:
    """A text of odd pieces, with or without separators."""
    pieces = draw(st.lists(st.tuples(_piece, _joint), min_size=1, max_size=max_pieces))
    return "".join(part for pair in pieces for part in pair)
