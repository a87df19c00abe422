"""What working is worth: accuracy when the policy is made to write a given share of it before it answers.

Forced are the opening tag, the first number, and at the end of each step the decision to go on or to answer. All else
is the policy's own, greedily: which operation comes next, its operand, every result, and the answer.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.tokenizer import encode_prompt, encode_text
from r1lab.module.evaluation import evaluate
from r1lab.task.arithmetic import Chain

SHARES = {"direct": 0.0, "third": 1 / 3, "two_thirds": 2 / 3, "all": 1.0}
_STEP_TOKENS = 4  # after its first number, a step goes on with a sign, an operand, `=` and a result


@torch.no_grad()
def forced_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chains: Sequence[Chain],
    text: Callable[[Chain], str],
    share: float,
    *,
    write: Callable[[Chain, str], str] = lambda chain, symbols: symbols,
    read: Callable[[str], str] = str,
) -> float:
    """Share of the chains answered rightly after round(share * steps) steps of working (half a step counts as one).

    Args:
        text: the prompt of a chain.
        write: a chain and symbols -> the words in which a working of it begins. read: the symbol of an answer's word.
    """
    ids = partial(encode_text, tokenizer)
    groups: dict[int, list[Chain]] = {}
    for chain in chains:
        groups.setdefault(len(chain.steps), []).append(chain)
    right = 0
    for length, group in groups.items():
        rows = [encode_prompt(tokenizer, text(chain)) for chain in group]
        num_steps = int(share * length + 0.5)
        if num_steps:
            begun = [ids(f"<think> {write(chain, str(chain.first))}") for chain in group]
            rows = [[*row, *start] for row, start in zip(rows, begun, strict=True)]
        for step in range(num_steps):
            # Every step but the first begins with a number of the policy's own, after the forced comma.
            rows = _continue(model, rows, _STEP_TOKENS + (step > 0))
            rows = [[*row, *ids("," if step + 1 < num_steps else "</think>")] for row in rows]
        rows = _continue(model, [[*row, *ids("<answer>")] for row in rows], 1)
        answers = [read(tokenizer.decode([row[-1]])) for row in rows]
        right += sum(answer == chain.answer for answer, chain in zip(answers, group, strict=True))
    return right / len(chains)


def _continue(model: PreTrainedModel, rows: list[list[int]], num_tokens: int) -> list[list[int]]:
    """Append the likeliest tokens to rows of one length."""
    ids = torch.tensor(rows, device=model.device)
    for _ in range(num_tokens):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids.tolist()


def measure_base(module, data) -> dict:
    """What the tiny base's gate asks of it, on the different ones of 512 problems of the validation split, and the
    corpus that made it."""
    task, tokenizer = data.task, module.tokenizer
    chains = list(dict.fromkeys(task.chain("validation", i) for i in range(512)))
    sampled = evaluate(
        module.whole(),
        tokenizer,
        module.engine,
        [task.sample("validation", i) for i in range(512)],
        task.is_correct,
        sampling=module.validation_sampling,
        num_samples=4,
        seed=module.evaluation_seed,
    )
    forced = {
        name: forced_accuracy(module.whole(), tokenizer, chains, task.text, share) for name, share in SHARES.items()
    }
    return {"forced": forced, "sampled": sampled, "chance": chance_level(task), "corpus_sha256": data.documents.hash()}


def chance_level(task, num_problems: int = 20_000) -> float:
    """Share of the problems that the most frequent answer solves: what guessing is worth."""
    answers = Counter(task.chain("train", i).answer for i in range(num_problems))
    return answers.most_common(1)[0][1] / num_problems
