"""Whether the head that training applies to hidden states gives the model's own logits."""

from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1lab.loss.logprob import head_logits
from r1lab.model.logit_transform import logit_transform
from r1lab.model.probe import once, probe_rows
from r1lab.module.head_parts import head_parts
from r1lab.strategy.sharded import as_forward

EXACT = 1e-4  # nats, between float32 logprobs of the same hidden states


def check_head(model: PreTrainedModel, *, sharded: bool = False, device: torch.device | None = None) -> None:
    """Compare logprobs under `head_parts` with those of the model's own logits, on the same hidden states of 7 tokens.

    The tolerance is 1e-4 nats in float32. In 16 bits it is twice the error of 16-bit logits against float32 logits.

    Args:
        sharded: see `r1lab.model.probe.once`. device: where the model computes; None: where its weights are.

    Raises:
        ValueError: for a model without a linear head, or whose logits differ.
    """
    once(model, ("head",), partial(_compare, model, device), sharded=sharded)


def _compare(model: PreTrainedModel, device: torch.device | None) -> None:
    name = type(model).__name__
    head = model.get_output_embeddings()
    if not isinstance(getattr(head, "weight", None), Tensor) or head.weight.dim() != 2:
        raise ValueError(f"{name} has no linear output head, which training applies to hidden states: {_REMEDY}")
    ids = torch.tensor([probe_rows(model)[2]], device=device or model.get_input_embeddings().weight.device)
    logits = model(input_ids=ids, use_cache=False).logits[0]
    exact, in_steps = as_forward(partial(_applied, model, ids, logits), model)
    wide = logits.to(exact.dtype).log_softmax(-1)
    off, bound = _largest(wide, exact), EXACT
    if in_steps is not None:
        bound = max(bound, 2 * _largest(in_steps.to(exact.dtype).log_softmax(-1), exact))
    if not off <= bound:  # not a number is no agreement
        raise ValueError(
            f"{name}: its logits are {off:.1e} nats off those of its output head on the same hidden states (at most "
            f"{bound:.1e}), so training would use another distribution than sampling: {_REMEDY}"
        )


_REMEDY = "take a model whose logits are a linear head's, scaled or soft-capped by its config"


def _applied(model: PreTrainedModel, ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logprobs [N,V] by the head in float32 on hidden states of ids [1,N]; in 16 bits also logits [N,V] in that dtype.

    logits: by the model, for the shape and the dtype.
    """
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    weight, options = head_parts(model, 1.0)
    if hidden.shape[-1] != weight.shape[-1] or logits.shape[-1] != len(weight):
        raise ValueError(
            f"{type(model).__name__} has hidden states of width {hidden.shape[-1]} and {logits.shape[-1]} logits, and "
            f"a head of {list(weight.shape)}: {_REMEDY}"
        )
    wide, low = torch.promote_types(hidden.dtype, torch.float32), _lowest(hidden, logits, weight)
    bias, softcap = options["bias"], options["softcap"]
    parts = hidden, weight.to(wide), None if bias is None else bias.to(wide)
    exact = head_logits(*parts, options["temperature"], softcap).log_softmax(-1)
    if low.itemsize >= 4:
        return exact, None
    # As a model in 16 bits computes them, each step rounded.
    transform = logit_transform(model.config)
    steps = nn.functional.linear(hidden.to(low), weight.to(low), None if bias is None else bias.to(low))
    steps = steps * transform.scale
    return exact, steps if softcap is None else torch.tanh(steps / transform.softcap) * transform.softcap


def _lowest(*tensors: Tensor) -> torch.dtype:
    """The dtype of fewest bits, autocast's included."""
    kinds = [tensor.dtype for tensor in tensors]
    device = tensors[0].device.type
    if torch.is_autocast_enabled(device):
        kinds.append(torch.get_autocast_dtype(device))
    return min(kinds, key=lambda kind: kind.itemsize)


def _largest(found: Tensor, expected: Tensor) -> float:
    """The largest difference of logprobs; none where a token has no probability in both."""
    forbidden = (found == expected) & found.isinf()
    return float((found - expected).abs().masked_fill(forbidden, 0.0).max())
