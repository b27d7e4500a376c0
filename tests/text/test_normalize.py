"""Normalization of written forms in both languages."""

from __future__ import annotations

import pytest

from stepaudiod.text.normalize import clean, normalize_chinese, normalize_english
from stepaudiod.text.spoken import spoken_runs


def chinese(text: str) -> str:
    return "".join(run.text for run in spoken_runs(text, "zh"))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("价格是¥1,234.50", "价格是一千二百三十四点五零元"),
        ("￥20.00", "二十元"),
        ("一共¥1.5万", "一共一点五万元"),
        ("共$99.99", "共九十九点九九美元"),
        ("€50和£3.99", "五十欧元和三点九九英镑"),
        ("他有1,000,000元", "他有一百万元"),
        ("今天是2024年3月5日", "今天是二零二四年三月五日"),
        ("2024-03-05开会", "二零二四年三月五日开会"),
        ("下午3:30出发", "下午三点三十分出发"),
        ("温度是-5℃，湿度65%", "温度是负五摄氏度，湿度百分之六十五"),
        ("速度120km/h，重5kg，长3.5m", "速度每小时一百二十公里，重五千克，长三点五米"),
        ("面积100㎡", "面积一百平方米"),
        ("内存80GB", "内存八十GB"),
        ("3D打印，5G网络", "三D打印，五G网络"),
        ("打电话13812345678", "打电话幺三八幺二三四五六七八"),
        ("打电话138-1234-5678", "打电话幺三八幺二三四五六七八"),
        ("验证码是123456", "验证码是一二三四五六"),
        ("１２３号", "一百二十三号"),
        ("1/2的人", "二分之一的人"),
        ("比分3:2", "比分三比二"),
        ("打8.5折", "打八点五折"),
        ("版本2.13.0发布", "版本二点一三点零发布"),
        ("有2个苹果", "有两个苹果"),
        ("第3名", "第三名"),
        ("没有数字", "没有数字"),
    ],
)
def test_chinese_numbers_dates_money_and_units_become_characters(written: str, spoken: str) -> None:
    assert chinese(written) == spoken


@pytest.mark.parametrize(
    "text", ["⑨¥5①", "5²", "٣个", "¥¥3", "$", "1" * 400, "3.4.5.6.7", "1,2,3", "100%~5℃"]
)
def test_no_digit_and_no_currency_sign_is_left_in_chinese(text: str) -> None:
    spoken = normalize_chinese(clean(text))
    assert not any(character.isdigit() or character in "¥$€£" for character in spoken)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It cost £3.99; good.", "It cost 3 pounds and 99 pence; good."),
        ("$1,234.50", "1,234 dollars and 50 cents"),
        ("$1 and $0.99", "1 dollar and 99 cents"),
        ("$5, 500 people", "5 dollars, 500 people"),
        ("$5M and £2bn", "5 million dollars and 2 billion pounds"),
        ("€5, ¥500", "5 euros, 500 yen"),
        ("version 2.13.0 is out", "version 2 point 13 point 0 is out"),
        ("192.168.1.1", "192 dot 168 dot 1 dot 1"),
        ("(555) 123-4567", "5 5 5, 1 2 3, 4 5 6 7"),
        ("+44 20 7946 0958", "plus 4 4, 2 0, 7 9 4 6, 0 9 5 8"),
        ("10-20% more", "10 to 20% more"),
        ("3 x 4, 1920x1080", "3 times 4, 1920 by 1080"),
        ("https://www.example.com/x", "example.com/x"),
        ("the α-particle", "the alpha-particle"),
        ("in 2024, 3.14 and 1,000", "in 2024, 3.14 and 1,000"),
    ],
)
def test_forms_that_the_english_converter_misreads_are_rewritten(written: str, spoken: str) -> None:
    assert normalize_english(clean(written)) == spoken


def test_unpronounceable_symbols_are_removed() -> None:
    assert clean("**Hello**\u200b \ud83d😀 wor\u00adld\ufeff `x` _y_ 5\ufe0f\u20e3") == "Hello world x y 5"
    assert clean("# A heading") == "A heading"
    assert clean("snake_case and 2 * 3 * 4") == "snake_case and 2 * 3 * 4"


def test_lists_and_too_long_numbers_are_split() -> None:
    assert normalize_english("1,2,3") == "1, 2, 3"
    assert normalize_english("1,234,567 people") == "1,234,567 people"
    assert "," not in normalize_english("1" + ",000" * 12)
    for before in (",", ",,", ".", "x,", "$", "-"):
        assert "1 1 1" in normalize_english(before + "1" * 40)
