import time

import pytest

from r1lab.reward.script import prose, scripts_of_words


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("The answer is 42", ["LATIN"] * 3),
        ("naïve Ångström co\u0308operate", ["LATIN"] * 3),
        ("don't", ["LATIN"]),
        ("Привет, мир!", ["CYRILLIC"] * 2),
        ("所以答案", ["CJK"] * 4),
        ("カタカナとひらがな", ["KATAKANA"] * 4 + ["HIRAGANA"] * 5),
        ("コーヒー 人々", ["KATAKANA"] * 2 + ["CJK"]),  # marks of length and repetition go with the letter before
        ("정답은 무엇", ["HANGUL"] * 2),
        ("الجواب هو", ["ARABIC"] * 2),
        ("می\u200cشود", ["ARABIC"]),
        ("उत्तर है", ["DEVANAGARI"] * 2),
        ("η απάντηση", ["GREEK"]),
        ("คำตอบ", ["THAI"] * 5),
        ("AI模型很好", ["LATIN"] + ["CJK"] * 4),
        ("ＡＢＣ ｶﾀｶ", ["LATIN"] + ["KATAKANA"] * 3),
        # Look-alikes: Cyrillic letters within a Latin word.
        ("\u0430nswer", ["MIXED"]),
        # Mathematics: variables, digits, signs, alphabets of its own.
        ("x = 3, 2y + z² ≤ 7", []),
        ("𝐀𝐁𝐂 ℝℤ ∑∞", []),
        ("", []),
    ],
)
def test_words(text, scripts):
    assert scripts_of_words(text) == scripts


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a ```py\nfor x in y:\n``` b", "a b"),
        ("use `sorted` here", "use here"),
        (r"so $x = \text{words}$ and $$ y $$ or \( z \) or \[ w \] end", "so and or or end"),
        (r"thus \begin{align} a &= b \end{align} holds", "thus holds"),
        (r"\frac{1}{2} of it", "{1}{2} of it"),
        ("an open ` quote", "an open ` quote"),
        ("costs $5", "costs $5"),
    ],
)
def test_prose(text, left):
    assert prose(text).split() == left.split()


@pytest.mark.parametrize("text", ["\\(", "\\[", "$", "`", "```", "\\begin{", "\\end{", "\\end{a", "\\a", "\u0301", "я"])
def test_in_linear_time(text):
    start = time.process_time()
    scripts_of_words(prose(text * (10**6 // len(text))))
    assert time.process_time() - start < 5
