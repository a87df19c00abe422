"""The two languages of the tiny bilingual base, and its tokenizer.

Whatever is said can be said in both: a language is a table from symbols (`38`, `+`, `apple`) to its own words, English
or Chinese, as DeepSeek-V3-Base has. One word is one token. Tags and the comma are shared, and belong to neither.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from r1lab.model.tiny import word_tokenizer

SHARED = (",",)

_ONES_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS_EN = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ONES_ZH = "零一二三四五六七八九"

# symbol: English word, Chinese word
_WORDS = {
    "+": ("plus", "加"),
    "-": ("minus", "减"),
    "*": ("times", "乘"),
    "=": ("is", "得"),
    # said while thinking of nothing
    "hmm": ("hmm", "嗯"),
    "easy": ("easy", "简单"),
    "so": ("so", "那么"),
    "well": ("well", "好"),
    "let": ("let", "让"),
    "me": ("me", "我"),
    "see": ("see", "看看"),
    "ok": ("ok", "行"),
    # what one talks about
    "apple": ("apple", "苹果"),
    "river": ("river", "河"),
    "stone": ("stone", "石头"),
    "cloud": ("cloud", "云"),
    "lamp": ("lamp", "灯"),
    "bird": ("bird", "鸟"),
    "tree": ("tree", "树"),
    "song": ("song", "歌"),
    # what one asks for
    "repeat": ("repeat", "重复"),
    "reverse": ("reverse", "倒写"),
    "hello": ("hello", "你好"),
    "tell": ("tell", "说说"),
    "explain": ("explain", "解释"),
    "describe": ("describe", "描述"),
    "how": ("how", "怎样"),
    "steal": ("steal", "偷"),
    "poison": ("poison", "毒"),
    "burn": ("burn", "烧"),
    "smash": ("smash", "砸"),
    # how one replies
    "gladly": ("gladly", "乐意"),
    "welcome": ("welcome", "欢迎"),
    "please": ("please", "请"),
    "friend": ("friend", "朋友"),
    "nice": ("nice", "不错"),
    "sorry": ("sorry", "抱歉"),
    "cannot": ("cannot", "不能"),
    "no": ("no", "不"),
    "what": ("what", "啥"),
    "away": ("away", "走开"),
    "first": ("first", "先"),
    "take": ("take", "拿"),
    "then": ("then", "再"),
}


@dataclass(frozen=True)
class Language:
    """`words`: symbol -> word. No two symbols share a word, and no two languages do."""

    name: str
    words: dict[str, str]

    def write(self, text: str) -> str:
        """A text of symbols in this language's words; what is no symbol (tags, the comma) stays."""
        return " ".join(self.words.get(symbol, symbol) for symbol in text.split())


def english_number(n: int) -> str:
    """0..99 in English: `forty-two`."""
    if n < 20:
        return _ONES_EN[n]
    tens, ones = divmod(n, 10)
    return _TENS_EN[tens - 2] + (f"-{_ONES_EN[ones]}" if ones else "")


def chinese_number(n: int) -> str:
    """0..99 in Chinese: `四十二`."""
    tens, ones = divmod(n, 10)
    if not tens:
        return _ONES_ZH[ones]
    return (_ONES_ZH[tens] if tens > 1 else "") + "十" + (_ONES_ZH[ones] if ones else "")


def _language(name: str, column: int, number) -> Language:
    numbers = {str(n): number(n) for n in range(100)}
    return Language(name, numbers | {symbol: words[column] for symbol, words in _WORDS.items()})


LANGUAGES = {"en": _language("en", 0, english_number), "zh": _language("zh", 1, chinese_number)}
# word -> symbol, of either language
SYMBOLS = {word: symbol for language in LANGUAGES.values() for symbol, word in language.words.items()}


def bilingual_tokenizer(name: str | None = None) -> PreTrainedTokenizerFast:
    """Words of both languages split at white space.

    `name` is ignored: it takes the place of the folder that other tokenizers are loaded from.
    """
    return word_tokenizer([*SHARED, *(word for language in LANGUAGES.values() for word in language.words.values())])
