"""Tokenizers of bytes that add special tokens to a text, as those of many models do."""

from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

BOS, EOS, START = 0, 1, 2
SPECIAL = {"<bos>": BOS, "<eos>": EOS, "<start>": START}


def tokenizer(form: str | None, **special) -> PreTrainedTokenizerFast:
    """Bytes, with a post-processor of a form such as "<bos> $A"; None: without one."""
    vocab = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if form:
        backend.post_processor = TemplateProcessing(single=form, special_tokens=list(SPECIAL.items()))
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": ["<start>"]} | special
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)
