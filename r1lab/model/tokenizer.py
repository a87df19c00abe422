"""How text becomes the ids of a prompt or of a completion, and whether two tokenizers write the same tokens."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:  # tasks are unpickled in processes that have no need of transformers
    from transformers import PreTrainedTokenizerBase

# Tokenizer -> (all tokens that it adds, the ones before the text).
_STARTS: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[list[int], list[int]]]" = WeakKeyDictionary()


def prompt_start(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that the tokenizer puts before a text (BOS), found once per tokenizer and its special tokens.

    Raises:
        ValueError: if the tokenizer changes a text that it adds special tokens to.
    """
    added = list(tokenizer.encode(""))
    if added == encode_text(tokenizer, ""):
        return []
    if tokenizer not in _STARTS or _STARTS[tokenizer][0] != added:
        _STARTS[tokenizer] = added, _start_of(tokenizer)
    return _STARTS[tokenizer][1]


def _start_of(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    # A text that holds special tokens does not tell which of them the tokenizer added.
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for token in sorted(set(tokenizer.get_vocab().values()) - special):
        text = tokenizer.decode([token])
        ids = encode_text(tokenizer, text) if text.strip() else []
        if ids and special.isdisjoint(ids):
            return _tokens_before(ids, tokenizer.encode(text))
    raise ValueError("the tokenizer has special tokens only: use one that has tokens for text")


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a prompt as its model was trained to read text: behind the tokens that the tokenizer puts first (BOS).

    A text that begins with these tokens (a chat template often does) keeps the ones it has. Tokens that the tokenizer
    puts last (EOS) are left out, because the policy continues the prompt.

    Raises:
        ValueError: if the text has no token, or the tokenizer changes a text that it adds special tokens to.
    """
    return _behind(prompt_start(tokenizer), encode_text(tokenizer, text), text)


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """`encode_prompt` of many texts at a time, which is faster."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    first = prompt_start(tokenizer)
    return [_behind(first, ids, text) for ids, text in zip(rows, texts, strict=True)]


def encode_whole(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a whole text for a model that judges it: with all special tokens that the tokenizer adds, BOS once."""
    ids = list(tokenizer.encode(text))
    doubled = len(ids) > 1 and ids[0] == ids[1] == getattr(tokenizer, "bos_token_id", None)
    return ids[1:] if doubled else ids


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a completion, or a part of one: no special token is added."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def _behind(first: list[int], ids: list[int], text: str) -> list[int]:
    if not ids:
        raise ValueError(f"the prompt {text!r} has no token: give it some text")
    # A text may begin with all of them, or with the first few.
    there = next(n for n in range(len(first), -1, -1) if ids[:n] == first[:n])
    return first + ids[there:]


def _tokens_before(ids: list[int], whole: Sequence[int]) -> list[int]:
    """The tokens of `whole` before `ids`; the last place counts, so that a text that is a BOS token has one before."""
    for start in reversed(range(len(whole) - len(ids) + 1)):
        if list(whole[start : start + len(ids)]) == ids:
            return list(whole[:start])
    raise ValueError(
        "the tokenizer encodes a text differently when it adds special tokens, so its BOS token cannot be identified: "
        "use a tokenizer whose post-processor only adds tokens before and after a text"
    )


def eos_of(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id of the end-of-sequence token, which ends every text that is trained on.

    Raises:
        ValueError: if the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no eos_token, and each text to be learnt needs an end: set eos_token in the model's "
            "tokenizer_config.json"
        )
    return tokenizer.eos_token_id


def with_padding(tokenizer: "PreTrainedTokenizerBase", name: str) -> "PreTrainedTokenizerBase":
    """Give a tokenizer without a pad token its end-of-sequence token as one.

    Padding is told apart by length and never by id, so that the two may be the same.

    Args:
        name: the setting and value that chose the tokenizer, for the error.

    Raises:
        ValueError: if it has neither.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"{name}: its tokenizer has neither a pad_token nor an eos_token, so that rows cannot be padded and "
                "completions cannot end: set eos_token in the model's tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocabulary_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of which token has which id: equal where logprobs of one model are of the other's tokens."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def refuse_other_tokens(
    student: "PreTrainedTokenizerBase", of_teacher: str, start_of_teacher: Sequence[int], name: str
) -> None:
    """Raise ValueError where a teacher's logprobs are of other tokens, or of prompts that begin otherwise.

    Args:
        of_teacher: the `vocabulary_hash` of its tokenizer. start_of_teacher: its `prompt_start`.
        name: the setting and value that chose the teacher.
    """
    if vocabulary_hash(student) != of_teacher:
        raise ValueError(
            f"{name} has another tokenizer than the student, so that its logprobs are of other tokens: take a teacher "
            "with the student's tokenizer, or let it write samples (python -m r1lab.generate) and learn from their "
            "text with module.mode=sft"
        )
    start = prompt_start(student)
    if list(start_of_teacher) != start:
        raise ValueError(
            f"{name} adds other special tokens to a prompt than the student ({list(start_of_teacher)}, not {start}), "
            "so that its logprobs are of other prompts: set add_bos_token alike in both tokenizer_config.json, and "
            "write stored samples again"
        )
