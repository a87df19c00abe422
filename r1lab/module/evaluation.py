"""Scores of a policy on held-out prompts: pass@1 with its interval, greedy, format, lengths, pass@k, cons@k."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.metric.interval import bootstrap_interval
from r1lab.metric.majority_vote import cons_at_k
from r1lab.metric.pass_at_k import pass_at_k
from r1lab.model.tokenizer import encode_text
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.format import Format, parts_of
from r1lab.rollout.engine import RolloutEngine
from r1lab.rollout.sampling import Sampling
from r1lab.task.different import different, first_prompts, question_key
from r1lab.task.protocol import SPLITS, Task
from r1lab.types import Completion, Prompt

# The step that keys the draws of an evaluation: training counts up from 0, so the two never share a draw.
EVALUATION_STEP = -1

# Completions sampled at a time: what 512 prompts x 64 samples hold in a key-value cache at once would not fit.
AT_A_TIME = 1024


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    is_correct: Callable[[Prompt, str], float],
    *,
    sampling: Sampling,
    num_samples: int,
    seed: int,
    greedy: bool = True,
    ks: Sequence[int] = (),
    advance: Callable[[int], None] | None = None,
    gather: Callable[[list], list] = list,
) -> dict[str, float]:
    """Sample each different prompt `num_samples` times, score strictly (see `Accuracy`), and sum up.

    A question that comes again is scored once (see `r1lab.task.different`), so that intervals are over questions.

    Args:
        ks: pass_at_k and cons_at_k are measured for each, 1 <= k <= num_samples.
        advance: called with the number of completions whenever some are done, greedy ones included.
        gather: one rank's rows (see `measure`) -> those of all ranks.

    Returns:
        pass_at_1 with pass_at_1_low and pass_at_1_high (95 % bootstrap over prompts), greedy (accuracy of the greedy
        completion), format (share of well-formed completions), completion_length, wrong_completion_length (of wrong
        answers; 0 where there is none), reasoning_length (tokens inside <think>, 0 without it),
        wellformed_reasoning_length (among well-formed completions alone), truncated (share), num_prompts (different
        ones), and for each k above 1 pass_at_k and cons_at_k with intervals. Lengths are means, in tokens. Where
        prompts are of several kinds, also pass_at_1/<kind> with its interval.

    Raises:
        ValueError: if a k is below 1 or exceeds `num_samples`.
    """
    if num_samples < 1:
        raise ValueError(f"evaluation.num_samples must be at least 1, got {num_samples}")
    if wrong := [k for k in ks if not 1 <= k <= num_samples]:
        raise ValueError(
            f"evaluation.ks={list(ks)}: pass@{wrong[0]} needs a k from 1 to evaluation.num_samples={num_samples}; "
            "raise evaluation.num_samples, or leave that k out"
        )
    prompts = different(prompts, question_key)
    options = {"is_correct": is_correct, "seed": seed, "advance": advance}
    rows = measure(model, tokenizer, engine, prompts, sampling=sampling, num_samples=num_samples, **options)
    if greedy:
        first = Sampling(temperature=0.0, max_new_tokens=sampling.max_new_tokens)
        likeliest = measure(model, tokenizer, engine, prompts, sampling=first, num_samples=1, **options)
        rows = [{**row, "greedy": best["correct"]} for row, best in zip(rows, likeliest, strict=True)]
    everyones = sorted(gather(rows), key=lambda row: row["index"])  # a rank may have none
    if not everyones:
        raise ValueError("evaluation needs prompts, and there is none: raise evaluation.num_prompts")
    return summarise(everyones, ks)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    *,
    is_correct: Callable[[Prompt, str], float],
    sampling: Sampling,
    num_samples: int,
    seed: int,
    advance: Callable[[int], None] | None,
) -> list[dict[str, Any]]:
    """What is measured of each prompt's samples: lists of `num_samples`; and the prompt's index and kind."""
    completions = sample(model, engine, prompts, num_samples=num_samples, sampling=sampling, seed=seed, advance=advance)
    expanded = expand(prompts, num_samples)
    pairs = list(zip(expanded, completions, strict=True))
    measured = {
        # Partial credit of a task's scorer does not count.
        "correct": [float(score >= 1.0) for score in Accuracy(is_correct)(expanded, completions)],
        "wellformed": [score == 1.0 for score in Format()(expanded, completions)],
        "length": [len(completion.ids) for completion in completions],
        "reasoning": [reasoning_length(prompt, completion, tokenizer) for prompt, completion in pairs],
        "truncated": [completion.truncated for completion in completions],
        "answers": [answer_of(prompt, completion) for prompt, completion in pairs],
    }
    return [
        {"index": prompt.index, "kind": prompt.kind}
        | {name: values[i * num_samples : (i + 1) * num_samples] for name, values in measured.items()}
        for i, prompt in enumerate(prompts)
    ]


def summarise(rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> dict[str, float]:
    """The scores of `evaluate` from the rows of `measure`."""
    correct, wellformed, length, reasoning, truncated = (
        np.array([row[name] for row in rows]) for name in ("correct", "wellformed", "length", "reasoning", "truncated")
    )
    scores = {
        **_with_interval("pass_at_1", correct.mean(1)),
        "format": float(wellformed.mean()),
        "completion_length": float(length.mean()),
        "wrong_completion_length": _mean(length[correct == 0]),
        "reasoning_length": float(reasoning.mean()),
        "wellformed_reasoning_length": _mean(reasoning[wellformed]),
        "truncated": float(truncated.mean()),
        "num_prompts": len(rows),
    }
    kinds = np.array([row["kind"] for row in rows])
    for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else []:
        scores |= _with_interval(f"pass_at_1/{kind}", correct[kinds == kind].mean(1))
    answers = [row["answers"] for row in rows]
    for k in sorted(set(ks) - {1}):
        scores |= _with_interval(f"pass_at_{k}", pass_at_k(correct.shape[1], correct.sum(1), k))
        scores |= _with_interval(f"cons_at_{k}", cons_at_k(answers, correct, k, resamples=20, seed=0))
    if "greedy" in rows[0]:
        scores["greedy"] = float(np.mean([row["greedy"] for row in rows]))
    return scores


def evaluate_splits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: RolloutEngine,
    task: Task,
    *,
    splits: Sequence[str],
    num_prompts: int,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """`evaluate` on the different ones of the first `num_prompts` prompts of each split; the same for every run.

    Of the splits in `SPLITS` those are left out that the task does not have.
    """
    asked, splits = splits, [split for split in splits if split not in SPLITS or split in task.splits]
    if not splits:
        raise ValueError(f"the task {task.name} has no split {', '.join(asked)}; it has {', '.join(task.splits)}")
    # All are made before the first is sampled, so that a split which does not exist is told at once.
    prompts = {split: first_prompts(task, split, num_prompts) for split in splits}
    for split in splits:
        Accuracy(task.is_correct).check_prompts(prompts[split])
    return {split: evaluate(model, tokenizer, engine, prompts[split], task.is_correct, **options) for split in splits}


def sample(
    model: PreTrainedModel,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    *,
    num_samples: int,
    sampling: Sampling,
    seed: int,
    step: int = EVALUATION_STEP,
    advance: Callable[[int], None] | None = None,
) -> list[Completion]:
    """`num_samples` completions of each prompt, in order, so many prompts at a time as hold `AT_A_TIME` completions.

    What is drawn is keyed by prompt, so the parts change nothing.
    """
    chunk = max(1, AT_A_TIME // num_samples)
    completions: list[Completion] = []
    # A rank without prompts may be needed for the passes of the others.
    for start in range(0, max(len(prompts), 1), chunk):
        part = prompts[start : start + chunk]
        completions += engine.generate(model, part, group_size=num_samples, sampling=sampling, seed=seed, step=step)
        if advance is not None:
            advance(len(part) * num_samples)
    return completions


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean over prompts and its 95 % interval."""
    low, high = bootstrap_interval(values, level=0.95, resamples=1000, seed=0)
    return {name: float(np.mean(np.asarray(values))), f"{name}_low": low, f"{name}_high": high}


def answer_of(prompt: Prompt, completion: Completion) -> str | None:
    """The answer that a completion gives, None for none."""
    return None if completion.truncated else parts_of(prompt, completion).answer


def expand(prompts: Sequence[Prompt], group_size: int) -> list[Prompt]:
    """P prompts -> one for each of their B = P * G completions, in the order of `RolloutEngine.generate`."""
    return [prompt for prompt in prompts for _ in range(group_size)]


def _mean(values: np.ndarray) -> float:
    """0 where there is none."""
    return float(values.mean()) if values.size else 0.0


def reasoning_length(prompt: Prompt, completion: Completion, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the text inside <think> and </think>; 0 without both tags."""
    reasoning = parts_of(prompt, completion).reasoning
    return len(encode_text(tokenizer, reasoning)) if reasoning else 0
