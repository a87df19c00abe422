"""Whether two tokenizers write the same tokens."""

import hashlib
import json

from transformers import PreTrainedTokenizerBase


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of which token has which id: equal where logprobs of one model are of the other's tokens."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def refuse_other_tokens(student: PreTrainedTokenizerBase, of_teacher: str, name: str) -> None:
    """Raise ValueError where the `vocabulary_hash` of a teacher is not that of the student's tokenizer.

    name: the setting and value that chose the teacher.
    """
    if vocabulary_hash(student) != of_teacher:
        raise ValueError(
            f"{name} has another tokenizer than the student, so that its logprobs are of other tokens: take a teacher "
            "with the student's tokenizer, or let it write samples (python -m r1lab.generate) and learn from their "
            "text with module.mode=sft"
        )
