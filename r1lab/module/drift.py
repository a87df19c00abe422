"""How far training took the policy: its KL to the base on what it writes itself."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.loss.aggregate import power_of_two, scaled_sum
from r1lab.loss.kl import k3
from r1lab.model.adapter import adapters_off
from r1lab.module.evaluation import sample
from r1lab.module.head import AUTO, LinearHead
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import collate, microbatches
from r1lab.rollout.engine import RolloutEngine
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt

_MICROBATCH_TOKENS = 4000


@torch.no_grad()
def kl_to_base(
    policy: PreTrainedModel,
    base: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    *,
    sampling: Sampling,
    seed: int,
    head: LinearHead = AUTO,
) -> float:
    """KL(policy || base) in nats a token: the mean of k3 over the tokens of one completion a prompt, by the policy.

    Whatever the reference of the training was, if any: runs with different references, or none, are compared by it.

    Args:
        base: None: the policy with its adapters off.
    """
    completions = sample(policy, engine, prompts, num_samples=1, sampling=sampling, seed=seed)
    rows = [(prompt.ids, completion.ids) for prompt, completion in zip(prompts, completions, strict=True)]
    total = tokens = 0.0
    for part in microbatches([len(prompt) + len(ids) for prompt, ids in rows], _MICROBATCH_TOKENS):
        batch = collate(*zip(*(rows[i] for i in part), strict=True), tokenizer.pad_token_id).to(policy.device)
        options = {"temperature": sampling.temperature or 1.0, "head": head}  # greedy: at 1
        logprobs, _ = completion_logprobs(policy, batch, **options)
        with adapters_off(policy) if base is None else nullcontext():
            ref_logprobs, _ = completion_logprobs(base or policy, batch, **options)
        values = k3(logprobs, ref_logprobs)[batch.completion_mask]
        unit = power_of_two(len(values))
        total += float(scaled_sum(values, unit)) * unit
        tokens += len(values)
    return total / tokens
