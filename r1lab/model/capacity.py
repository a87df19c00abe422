"""What a model can read: token ids within its embedding, and sequences within its positions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BY_LENGTH = ("longrope", "dynamic")  # rotary positions whose frequencies follow from the length of the batch
# In transformers' configs; an alias of the first, as `n_positions` of GPT-2, is read under that name.
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_target_positions")
_ROLES = ("pad_token", "eos_token", "bos_token", "unk_token")


def check_token_ids(model: nn.Module, tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Raise ValueError where a tokenizer writes ids that the model's embedding does not have.

    Special tokens without a role for text are let pass, such as those of images in tokenizers that models for text
    share: a prompt that holds one is rejected by `check_sequences`.

    Args:
        name: the setting and value that chose the model, for the error.
    """
    size = embedding_size(model)
    if size is None:
        return
    roles = {role: getattr(tokenizer, role) for role in _ROLES if getattr(tokenizer, role, None) is not None}
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} - set(roles.values())
    vocabulary = tokenizer.get_vocab()
    beyond = {token: i for token, i in vocabulary.items() if i >= size and token not in special}
    if beyond:
        token, number = max(beyond.items(), key=lambda item: (item[0] in roles.values(), -item[1]))
        role = next((f", the {role}," for role, own in roles.items() if own == token), "")
        raise ValueError(
            f"{name}: the tokenizer has {len(vocabulary)} tokens and the model's embedding {size} rows, so that the "
            f"token {token!r}{role} with id {number} has none: take the model's tokenizer, or save the model after "
            f"model.resize_token_embeddings({max(beyond.values()) + 1})"
        )


def check_sequences(model: nn.Module, rows: Sequence[Sequence[int]], new_tokens: int = 0) -> None:
    """Raise ValueError where a row of ids does not fit the model.

    Args:
        new_tokens: that may be sampled behind each row.
    """
    if rows:
        _check(model, max(map(len, rows)), max(max(row, default=0) for row in rows), new_tokens)


def check_batch(model: nn.Module, batch: Any) -> None:
    """Raise ValueError where a `r1lab.rollout.collate.Batch`, on the CPU, does not fit the model."""
    packed = batch.position_ids is not None
    length = int(batch.position_ids.max()) + 1 if packed else int((batch.sequences >= 0).sum(1).max())
    _check(model, length, int(batch.input_ids.max()), 0)


def _check(model: nn.Module, length: int, largest: int, new_tokens: int) -> None:
    size, limit = embedding_size(model), positions(model.config)
    if size is not None and largest >= size:
        raise ValueError(
            f"a text holds the token id {largest}, and the model's embedding has {size} rows: remove that special "
            "token from the text, or take the tokenizer of the model"
        )
    if limit is None or length + new_tokens <= limit:
        return
    option = _limit_name(model.config.get_text_config(decoder=True))
    if not new_tokens:
        raise ValueError(
            f"a text of {length} tokens exceeds the {limit} positions of the model ({option}): leave "
            "out longer texts, or take a model with more positions"
        )
    room = limit - length
    lower = f"lower max_new_tokens to at most {room}, or " if room > 0 else ""
    raise ValueError(
        f"a prompt of {length} tokens and max_new_tokens={new_tokens} exceed the {limit} positions of the model "
        f"({option}): {lower}leave out long prompts. In training it is rollout.max_new_tokens, in "
        "validation and scores evaluation.max_new_tokens"
    )


def embedding_size(model: nn.Module) -> int | None:
    """Rows of the input embedding; None where the model does not tell which layer that is."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None


def _limit_name(config: Any) -> str:
    """Which option of a config limits its sequences: MPT's max_seq_len, for example."""
    return next((name for name in _LIMITS if getattr(config, name, None)), _LIMITS[0])


def positions(config: Any) -> int | None:
    """The longest sequence that a model of this config was made for; None where the config knows no limit.

    A factor that stretches rotary positions counts.
    """
    config = config.get_text_config(decoder=True)
    limit = getattr(config, _limit_name(config), None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # Some models have one for each kind of attention.
    scalings = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]
    if any((part.get("rope_type") or part.get("type")) in _BY_LENGTH for part in scalings):
        # Beyond it the longest row sets the frequencies of all rows, and sampling's differ from training's.
        originals = [part.get("original_max_position_embeddings") for part in (*scalings, vars(config))]
        return min([limit, *(original for original in originals if original)])
    stretched = [
        int(part["factor"] * (part.get("original_max_position_embeddings") or limit))
        for part in scalings
        if isinstance(part.get("factor"), (int, float))
    ]
    return max(limit, *stretched) if stretched else limit
