"""What the tiny bilingual base's gate asks of it: what working is worth, how it reckons, how it mixes languages."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.bilingual import LANGUAGES, SYMBOLS
from r1lab.model.tokenizer import encode_prompt, encode_text
from r1lab.module.evaluation import evaluate, sample
from r1lab.module.forced import SHARES, forced_accuracy
from r1lab.module.head import AUTO, LinearHead
from r1lab.module.logprobs import completion_logprobs
from r1lab.reward.language_consistency import VocabularyConsistency
from r1lab.rollout.collate import collate
from r1lab.task.arithmetic import Chain
from r1lab.task.different import first_prompts
from r1lab.types import Completion, Prompt

PROBLEMS = 512


def measure_bilingual_base(module, data) -> dict:
    """The measures on the different ones of `PROBLEMS` problems of the validation split, and the corpus that made the
    base.

    forced: by share of the working, over prompts of both languages, each begun in its own. results: by language, the
    probability of the right result after a right working in it. consistency: by language of the prompt, the share of
    that language's words in the base's own reasoning. sampled: its own samples' scores.
    """
    task, tokenizer, policy = data.task, module.tokenizer, module.whole()
    prompts = first_prompts(task, "validation", PROBLEMS)
    languages = {task.chain("validation", prompt.index): prompt.language for prompt in prompts}
    chains = list(languages)
    options = {
        "text": lambda chain: task.text(chain, languages[chain]),
        "write": lambda chain, symbols: LANGUAGES[languages[chain]].write(symbols),
        "read": SYMBOLS.get,
    }
    sampling = {"sampling": module.validation_sampling, "num_samples": 4, "seed": module.evaluation_seed}
    completions = sample(policy, module.engine, prompts, **sampling)
    return {
        "forced": {
            name: forced_accuracy(policy, tokenizer, chains, share=share, **options) for name, share in SHARES.items()
        },
        "results": {
            name: step_accuracy(policy, tokenizer, chains, task.text, name, head=module.head) for name in LANGUAGES
        },
        "consistency": consistency_by_language(
            [prompt for prompt in prompts for _ in range(4)], completions, task.vocabularies
        ),
        "sampled": evaluate(policy, tokenizer, module.engine, prompts, task.is_correct, **sampling),
        "corpus_sha256": data.documents.hash(),
    }


@torch.no_grad()
def step_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chains: Sequence[Chain],
    text: Callable[[Chain, str], str],
    language: str,
    *,
    head: LinearHead = AUTO,
) -> float:
    """Mean probability of each step's result, after a prompt and a right working in one language up to there."""
    ids = partial(encode_text, tokenizer)
    write = LANGUAGES[language].write
    batch = collate(
        [encode_prompt(tokenizer, text(chain, language)) for chain in chains],
        [ids(write(f"<think> {chain.working()}")) for chain in chains],
        tokenizer.pad_token_id,
    ).to(model.device)
    logprobs, _ = completion_logprobs(model, batch, temperature=1.0, head=head)
    return float(logprobs.exp()[after(batch.completion_ids, ids(write("="))[0]) & batch.completion_mask].mean())


def after(ids: Tensor, token: int) -> Tensor:
    """bool [B,T], True behind each `token` of ids [B,T]."""
    return torch.nn.functional.pad(ids[:, :-1] == token, (1, 0))


def consistency_by_language(
    prompts: Sequence[Prompt], completions: Sequence[Completion], vocabularies: dict[str, frozenset[str]]
) -> dict[str, float]:
    """For each language the mean share of its words in the reasoning to its prompts, where that has any words."""
    shares = VocabularyConsistency(vocabularies=vocabularies)(prompts, completions)
    own: dict[str, list[float]] = {language: [] for language in vocabularies}
    for prompt, share in zip(prompts, shares, strict=True):
        if share is not None:
            own[prompt.language].append(share)
    return {language: sum(values) / len(values) if values else 0.0 for language, values in own.items()}
