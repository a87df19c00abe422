"""The scores of a trained stage: on reasoning prompts and on general ones, each with its interval over prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1lab.analysis.run import read_metrics
from r1lab.build import make_task
from r1lab.load import Loaded, load
from r1lab.metric.interval import bootstrap_interval
from r1lab.metric.majority_vote import cons_at_k
from r1lab.metric.pass_at_k import pass_at_k
from r1lab.module.evaluation import answer_of, expand, reasoning_length, sample
from r1lab.module.mimicry import mimicry
from r1lab.module.teacher import load_teacher
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.format import Format
from r1lab.reward.language_consistency import consistency_of
from r1lab.rollout.sampling import Sampling
from r1lab.task.different import question_key
from r1lab.task.protocol import Task
from r1lab.types import Completion, Prompt

MOST_DRAWS = 10  # for each prompt that is wanted, until a task that repeats itself is taken to have no others


def score_policy(
    folder: str,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    num_prompts: int,
    num_samples: int,
    temperature: float,
    ks: Sequence[int] = (),
    teacher: str | None = None,
    teacher_prompts: int = 128,
) -> dict[str, dict[str, float]]:
    """Metric -> value, low, high (95 % bootstrap over prompts) of a run folder's policy, on the first held-out prompts.

    Args:
        tasks: configs of `reasoning` and, where there are general prompts, `general`. The same prompts and keys of
            sampling for every policy and seed.
        ks: of pass@k and cons@k, each from 2 to num_samples.
        teacher: a checkpoint, to which the policy is compared on the first `teacher_prompts` prompts.

    Returns:
        Of the reasoning task pass_at_1, greedy, format, language_consistency (of completions with words in their
        reasoning), reasoning_length (tokens); pass_at_1 and language_consistency also by language of the prompt where
        there are several; general_score of the general task. With ks pass_at_k and cons_at_k; with a teacher what
        `r1lab.module.mimicry.mimicry` measures, and of the run its teraflop and teacher_tokens; none of these has an
        interval over prompts.

    Raises:
        ValueError: for a k out of range, or a teacher with another tokenizer.
    """
    if wrong := [k for k in ks if not 2 <= k <= num_samples]:
        raise ValueError(f"pipeline.evaluation.ks={wrong[0]} must be from 2 to num_samples={num_samples}")
    loaded = load(folder, task=tasks["reasoning"])
    seed = loaded.config["evaluation"]["seed"]
    sampling = Sampling(temperature, loaded.config["evaluation"]["max_new_tokens"])
    prompts = held_out(loaded.task, num_prompts)
    completions = sample(loaded.policy, loaded.engine, prompts, num_samples=num_samples, sampling=sampling, seed=seed)
    greedy = Sampling(0.0, sampling.max_new_tokens)
    likeliest = sample(loaded.policy, loaded.engine, prompts, num_samples=1, sampling=greedy, seed=seed)
    values = reasoning_values(loaded, expand(prompts, num_samples), completions)
    of_k = large_k(values["pass_at_1"], expand(prompts, num_samples), completions, ks=ks, num_samples=num_samples)
    values = {name: per_prompt(each, num_samples) for name, each in values.items()}
    values |= of_k
    values["greedy"] = right(loaded.task, prompts, likeliest)
    languages = [prompt.language for prompt in prompts]
    for language in sorted(set(languages)) if len(set(languages)) > 1 else ():
        for name in ("pass_at_1", "language_consistency"):
            values[f"{name}_{language}"] = [
                value for value, own in zip(values[name], languages, strict=True) if own == language
            ]
    if "general" in tasks:
        task = make_task(tasks["general"], loaded.tokenizer)
        prompts = held_out(task, num_prompts)
        replies = sample(loaded.policy, loaded.engine, prompts, num_samples=num_samples, sampling=sampling, seed=seed)
        scores = Accuracy(task.is_correct)(expand(prompts, num_samples), replies)
        values["general_score"] = per_prompt(scores, num_samples)
    scores = {name: with_interval(each) for name, each in values.items()}
    if teacher is None:
        return scores
    found = beside_teacher(loaded, teacher, held_out(loaded.task, teacher_prompts), sampling=sampling, seed=seed)
    return scores | {
        name: {"value": value, "low": None, "high": None} for name, value in (found | spent(folder)).items()
    }


def beside_teacher(
    loaded: Loaded, teacher: str, prompts: Sequence[Prompt], *, sampling: Sampling, seed: int
) -> dict[str, float]:
    """How near the policy is to the teacher, see `mimicry`."""
    its = load_teacher(teacher, dtype=None, quantize=None)
    its.refuse_other_tokens(loaded.tokenizer)
    model = its.model.to(loaded.policy.device)
    parts = (loaded.policy, model, loaded.tokenizer, loaded.engine, prompts)
    return mimicry(*parts, sampling=sampling, seed=seed)


def spent(folder: str) -> dict[str, float]:
    """Teraflop of the run, and tokens that its teacher wrote or judged."""
    metrics = read_metrics(Path(folder, "metrics.csv"))
    columns = {"teraflop": ("flops/total", 1e-12), "teacher_tokens": ("rollout/teacher_tokens", 1.0)}
    return {name: unit * float(metrics[key].max()) for name, (key, unit) in columns.items() if key in metrics}


def large_k(
    correct: Sequence[float],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    ks: Sequence[int],
    num_samples: int,
) -> dict[str, list[float]]:
    """pass@k and cons@k of each prompt."""
    right = np.asarray(correct).reshape(-1, num_samples)
    answers = [answer_of(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    votes = [answers[start : start + num_samples] for start in range(0, len(answers), num_samples)]
    found: dict[str, list[float]] = {}
    for k in ks:
        found[f"pass_at_{k}"] = np.asarray(pass_at_k(num_samples, right.sum(1), k)).tolist()
        found[f"cons_at_{k}"] = np.asarray(cons_at_k(votes, right, k, resamples=20, seed=0)).tolist()
    return found


def held_out(task: Task, num_prompts: int) -> list[Prompt]:
    """The first held-out prompts, each once, and fewer where a task has no more: one that comes again says nothing
    new, while an interval would count it as another."""
    found: dict[str, Prompt] = {}
    for index in range(MOST_DRAWS * num_prompts):
        prompt = task.sample("heldout", index)
        found.setdefault(question_key(prompt), prompt)
        if len(found) == num_prompts:
            break
    return list(found.values())


def right(task: Task, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
    """1.0 for each completion with the full score."""
    return [float(score >= 1) for score in Accuracy(task.is_correct)(prompts, completions)]


def reasoning_values(
    loaded: Loaded, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> dict[str, list[float]]:
    """What is measured of each completion; NaN where it does not apply."""
    shares = consistency_of(loaded.task).shares(prompts, completions)
    lengths = [reasoning_length(p, c, loaded.tokenizer) for p, c in zip(prompts, completions, strict=True)]
    return {
        "pass_at_1": right(loaded.task, prompts, completions),
        "format": Format()(prompts, completions),
        "language_consistency": [float("nan") if share is None else share for share in shares],
        "reasoning_length": [float(length) for length in lengths],
    }


def per_prompt(values: Sequence[float], num_samples: int) -> list[float]:
    """The mean over each prompt's samples of those that apply; NaN for a prompt without."""
    rows = np.asarray(values, dtype=float).reshape(-1, num_samples)
    counts = (~np.isnan(rows)).sum(1)
    return [
        float(total / count) if count else float("nan") for total, count in zip(np.nansum(rows, 1), counts, strict=True)
    ]


def with_interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and interval over the prompts that it applies to; None without any."""
    known = [value for value in values if value == value]
    if not known:
        return {"value": None, "low": None, "high": None, "prompts": 0}
    low, high = bootstrap_interval(known, level=0.95, resamples=1000, seed=0)
    return {"value": float(np.mean(known)), "low": low, "high": high, "prompts": len(known)}
