from r1lab.model.bilingual import LANGUAGES, SHARED, SYMBOLS, bilingual_tokenizer, chinese_number, english_number
from r1lab.reward.script import scripts_of_words


def test_numbers():
    assert [english_number(n) for n in (0, 7, 13, 20, 42, 99)] == [
        "zero", "seven", "thirteen", "twenty", "forty-two", "ninety-nine"
    ]  # fmt: skip
    assert [chinese_number(n) for n in (0, 7, 10, 13, 20, 42, 99)] == [
        "零",
        "七",
        "十",
        "十三",
        "二十",
        "四十二",
        "九十九",
    ]


def test_a_text_in_either_language():
    text = "<think> 38 * 3 = 14 , 14 + 7 = 21 </think> <answer> 21 </answer>"
    assert LANGUAGES["en"].write(text) == (
        "<think> thirty-eight times three is fourteen , fourteen plus seven is twenty-one </think> "
        "<answer> twenty-one </answer>"
    )
    assert LANGUAGES["zh"].write(text) == (
        "<think> 三十八 乘 三 得 十四 , 十四 加 七 得 二十一 </think> <answer> 二十一 </answer>"
    )


def test_the_languages_say_the_same_in_words_of_their_own():
    en, zh = (LANGUAGES[name].words for name in ("en", "zh"))
    assert en.keys() == zh.keys()
    # No word has two meanings, in one language or both; so a word tells its symbol and its language.
    assert len(SYMBOLS) == len(en) + len(zh) == 2 * 144
    assert all(SYMBOLS[word] == symbol for words in (en, zh) for symbol, word in words.items())
    # Of scripts of their own, for measures that know no vocabulary.
    assert {script for word in en.values() for script in scripts_of_words(word)} == {"LATIN"}
    assert {script for word in zh.values() for script in scripts_of_words(word)} == {"CJK"}


def test_one_token_a_word():
    tokenizer = bilingual_tokenizer()
    words = [*SHARED, *SYMBOLS]
    assert [len(tokenizer.encode(word)) for word in words] == [1] * len(words)
    assert tokenizer.decode(tokenizer.encode(" ".join(words))) == " ".join(words)
    # As tiny_untrained's config has it: special tokens, tags, words.
    assert len(tokenizer) == 2 + 6 + len(words) == 297
