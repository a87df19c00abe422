"""Whether an engine's logprobs are the model's own: with padding on the left, a cache, and rows that end early."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from r1lab.model.probe import EXACT_LOGPROB, ROUNDED_LOGPROB, disagreement, once, probe_rows, rounds
from r1lab.rollout.sampling import Sampling
from r1lab.types import Completion, Prompt

if TYPE_CHECKING:
    from r1lab.rollout.engine import RolloutEngine

_GROUP, _NEW_TOKENS = 2, 5


def check_sampling(
    engine: "RolloutEngine", model: PreTrainedModel, other: "tuple[str, RolloutEngine] | None" = None
) -> None:
    """Sample two prompts of unequal length, and compare each completion's logprobs with one pass over it alone.

    They are sampled to the end, and again with a token as end-of-sequence that the first row drew. Run once a model,
    see `r1lab.model.probe.once`; ranks that hold a model in shards must call it together.

    Args:
        other: another engine, and the setting that chooses it. The error names it as a remedy only if it can sample
            the model.

    Raises:
        ValueError: for an architecture that the engine cannot sample, or samples from another distribution.
    """
    once(model, ("sampling", type(engine).__name__), partial(_compare, engine, model, other), sharded=True)


def _compare(engine: "RolloutEngine", model: PreTrainedModel, other: "tuple[str, RolloutEngine] | None") -> None:
    if reason := _disagreement(engine, model):
        remedy = "take another model"
        if other is not None:
            setting, substitute = other
            works = not _disagreement(substitute, model)
            remedy = f"r1lab.train samples it with {setting}" if works else f"neither can {setting}; {remedy}"
        raise ValueError(f"{type(engine).__name__} {reason}: {remedy}")


def _disagreement(engine: "RolloutEngine", model: PreTrainedModel) -> str | None:
    """How the engine fails to sample a model; None: it samples from the model's own distribution."""
    name = type(model).__name__
    prompts = [Prompt(tuple(ids), "", "", index) for index, ids in enumerate(probe_rows(model)[:2])]
    try:
        rows = _sample(engine, model, prompts, eos=None)
        rows += _sample(engine, model, prompts, eos=rows[0].ids[1])
        pairs = [(prompts[i // _GROUP % len(prompts)], completion) for i, completion in enumerate(rows)]
        differences = [(_logprobs(model, *pair) - torch.tensor(pair[1].sampling_logprobs)).abs() for pair in pairs]
        noise = (_logprobs(model, *pairs[0], copies=3) - _logprobs(model, *pairs[0])).abs()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"cannot sample from {name} ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    rounded = rounds(model, model.get_input_embeddings().weight.device)
    off = disagreement(differences, noise, rounded, EXACT_LOGPROB, ROUNDED_LOGPROB)
    return off and f"samples from {name} with logprobs up to {off:.2g} nats off the model's own for the same tokens"


def _sample(engine: "RolloutEngine", model: PreTrainedModel, prompts: list[Prompt], eos: int | None):
    probe = copy.copy(engine)
    texts = SimpleNamespace(pad_token_id=0, eos_token_id=eos, batch_decode=lambda rows, **_: [""] * len(rows))
    probe.tokenizer = texts
    sampling = Sampling(1.0, _NEW_TOKENS)
    with without_generation_defaults(model):  # its end-of-sequence tokens as well
        return probe.generate(model, prompts, group_size=_GROUP, sampling=sampling, seed=0, step=0)


def _logprobs(model: PreTrainedModel, prompt: Prompt, completion: Completion, copies: int = 1) -> Tensor:
    """Float32 [T] of a completion at temperature 1, by one pass over so many copies of the row, without a cache."""
    ids = torch.tensor([[*prompt.ids, *completion.ids]] * copies, device=model.get_input_embeddings().weight.device)
    logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)[len(prompt.ids) - 1 : -1]
    return logprobs.gather(-1, ids[0, len(prompt.ids) :, None])[:, 0].cpu()


@contextmanager
def without_generation_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's generation defaults: transformers' `generate` fills in from them whatever a call leaves unset,
    such as a repetition penalty."""
    defaults, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = defaults
