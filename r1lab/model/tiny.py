"""The tiny base's tokenizer: one token a tag, a sign, a filler word and each number from 0 to 99."""

from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "<eos>")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "User:", "Assistant:")
_SIGNS = ("+", "-", "*", "=", ",")
FILLER = ("hmm", "easy", "so", "well", "let", "me", "see", "ok")


def tiny_tokenizer(name: str | None = None) -> PreTrainedTokenizerFast:
    """Words split at white space, 121 of them.

    `name` is ignored: it takes the place of the folder that other tokenizers are loaded from.
    """
    return word_tokenizer([*_SIGNS, *FILLER, *(str(n) for n in range(100))])


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token a word, behind the special tokens and the tags; an unknown word is an error, not an unknown token."""
    tokens = dict.fromkeys([*_SPECIAL, *_TAGS, *words])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tokens)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
