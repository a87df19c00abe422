"""How near a student is to a teacher: both KLs on what either of them writes, and the student's calibration."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.metric.calibration import expected_calibration_error
from r1lab.module.evaluation import sample
from r1lab.module.head import AUTO, LinearHead
from r1lab.module.logprobs import counted_hidden
from r1lab.rollout.collate import Batch, collate, microbatches
from r1lab.rollout.engine import RolloutEngine
from r1lab.rollout.sampling import Sampling
from r1lab.types import Prompt

_MICROBATCH_TOKENS = 4000


@torch.no_grad()
def mimicry(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    *,
    sampling: Sampling,
    seed: int,
    head: LinearHead = AUTO,
) -> dict[str, float]:
    """Over one completion a prompt of each model, at the sampling's temperature (1 for greedy), means over tokens:

    forward_kl/teacher, forward_kl/student: KL(teacher || student) on prefixes of the teacher and of the student, nats a
    token; reverse_kl/teacher, reverse_kl/student: KL(student || teacher); calibration: `expected_calibration_error` of
    the student's likeliest next token against what the teacher wrote.
    """
    temperature = sampling.temperature or 1.0
    found: dict[str, float] = {}
    for name, writer in (("teacher", teacher), ("student", student)):
        completions = sample(writer, engine, prompts, num_samples=1, sampling=sampling, seed=seed)
        rows = [(prompt.ids, completion.ids) for prompt, completion in zip(prompts, completions, strict=True)]
        tokens = sum(len(ids) for _, ids in rows)
        confidence: list[float] = []
        right: list[bool] = []
        sums = {"forward_kl": 0.0, "reverse_kl": 0.0}
        for part in microbatches([len(prompt) + len(ids) for prompt, ids in rows], _MICROBATCH_TOKENS):
            batch = collate(*zip(*(rows[i] for i in part), strict=True), tokenizer.pad_token_id).to(student.device)
            hidden, theirs = (counted_hidden(model.base_model, batch) for model in (student, teacher))
            options = {"jsd_beta": 0.5, "temperature": temperature, "tokens": tokens}
            for kind in sums:
                sums[kind] += float(head.distill_loss(student, hidden, teacher, theirs, divergence=kind, **options))
            if name == "teacher":
                likeliest = likeliest_of(student, hidden, batch, head, temperature)
                confidence += likeliest[0].tolist()
                right += likeliest[1].tolist()
        found |= {f"{kind}/{name}": value for kind, value in sums.items()}
        if name == "teacher":
            found["calibration"] = expected_calibration_error(confidence, right)
    return found


def likeliest_of(
    model: PreTrainedModel, hidden: Tensor, batch: Batch, head: LinearHead, temperature: float
) -> tuple[Tensor, Tensor]:
    """Of each counted token: the probability of the model's likeliest one, and whether it is that; [N] each."""
    ids, logprobs = head.top_k(model, hidden, k=1, temperature=temperature)
    return logprobs[:, 0].exp(), ids[:, 0] == batch.completion_ids[batch.completion_mask]
