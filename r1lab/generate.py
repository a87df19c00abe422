"""python -m r1lab.generate checkpoint=PATH: what a policy says, to a prompt on the screen or over a split as Parquet.

`prompt="38 * 3 + 7 - 6"` prints completions. `split=heldout output=FOLDER` writes shards of `shard_size` prompts; one
that is already there is kept, so that the same command resumes an interrupted one. Samples are stored before they
are scored; if a scorer fails, the same command scores them and samples nothing again. meta.json beside them says how
they were made, and a command with other settings is refused. Draws are keyed by prompt: the shards are the same however
often it was interrupted.

Columns, one row a completion: prompt_index, kind, difficulty, language (the prompt's), prompt, answer, number (of the
completion among its prompt's), completion, completion_ids, length (tokens), truncated, accuracy (the task's score, 0
without an answer), wellformed, language_consistency (of the reasoning, by the task's vocabularies or else by script;
null without words, or for a language that neither knows), sampling_logprobs.

`logprobs=top_k logprobs_k=16` adds, of each token's place, top_ids and top_logprobs: the policy's likeliest tokens, at
the sampling temperature (1 for greedy), for `module=distill` to learn from.
"""

import json
import logging
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from r1lab.build import evaluation_sampling
from r1lab.entry import own_settings, run
from r1lab.evaluate import override
from r1lab.limits import check_command
from r1lab.load import Loaded, load, policy_hash
from r1lab.model.tokenizer import encode_prompt, encode_text, prompt_start, vocabulary_hash
from r1lab.module.evaluation import expand, sample
from r1lab.module.logprobs import top_k_rows
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.format import Format
from r1lab.reward.language_consistency import consistency_of
from r1lab.rollout.sampling import Sampling
from r1lab.run_folder import config_hash, write_whole
from r1lab.task.different import question_key
from r1lab.types import TOP, Completion, Prompt

# The step that keys the draws, next to that of evaluations (-1): no draw is shared with either them or training.
GENERATION_STEP = -2

SCHEMA = pa.schema(
    {
        "prompt_index": pa.int64(),
        "kind": pa.string(),
        "difficulty": pa.int32(),
        "language": pa.string(),
        "prompt": pa.string(),
        "answer": pa.string(),
        "number": pa.int32(),
        "completion": pa.string(),
        "completion_ids": pa.list_(pa.int32()),
        "length": pa.int32(),
        "truncated": pa.bool_(),
        "accuracy": pa.float32(),
        "wellformed": pa.bool_(),
        "language_consistency": pa.float32(),
        "sampling_logprobs": pa.list_(pa.float32()),
    }
)

TOP_TYPES = (pa.list_(pa.list_(pa.int32())), pa.list_(pa.list_(pa.float32())))  # of the columns TOP
SAMPLES = ".samples"  # suffix of a shard that is sampled and not scored yet
SAMPLED = pa.schema(
    {
        "ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "truncated": pa.bool_(),
        "sampling_logprobs": pa.list_(pa.float32()),
    }
)

log = logging.getLogger("r1lab.generate")


def generate(config: DictConfig) -> None:
    """Answer a prompt, or write a split."""
    given = own_settings(config)
    check_command(given)
    if (given["prompt"] is None) == (given["split"] is None):
        raise ValueError('give either prompt="38 * 3 + 7 - 6" or split=heldout')
    if given["prompt"] is not None and not str(given["prompt"]).strip():
        raise ValueError(f'prompt={given["prompt"]!r} is blank: give a question, as prompt="38 * 3 + 7 - 6"')
    if given["split"] is not None and not given["output"]:
        raise ValueError("split needs output=FOLDER, where the Parquet files go")
    if given["prompt"] is not None and (given["output"] or given["logprobs"]):
        raise ValueError(
            "output and logprobs are of a split's files: leave them out with a prompt, or give split=train"
        )
    top_k = stored_logprobs(given["logprobs"], given["logprobs_k"])
    loaded = load(given["checkpoint"], model=given.get("model"), task=given.get("task"))
    settings = override(loaded.config["evaluation"], given)
    sampling = evaluation_sampling({"evaluation": settings}, prefix="")
    if given["prompt"] is not None:
        prompt = make_prompt(loaded, str(given["prompt"]))
        options = {"num_samples": given["num_samples"], "sampling": sampling, "seed": settings["seed"]}
        completions = sample(loaded.policy, loaded.engine, [prompt], step=GENERATION_STEP, **options)
        show(prompt, completions)
    else:
        write_split(
            loaded,
            Path(given["output"]),
            split=given["split"],
            first=given["first"],
            num_prompts=given["num_prompts"],
            num_samples=given["num_samples"],
            shard_size=given["shard_size"],
            sampling=sampling,
            seed=settings["seed"],
            top_k=top_k,
        )


def stored_logprobs(logprobs: str | None, k: int | None) -> int:
    """How many logprobs a place are stored; 0: none. Raises ValueError for settings that do not go together."""
    if logprobs not in (None, "top_k"):
        raise ValueError(f"logprobs={logprobs} must be top_k, or null for none")
    if (logprobs is None) != (k is None) or (k is not None and k < 1):
        raise ValueError(f"logprobs=top_k and logprobs_k=16, a number from 1, go together; got {logprobs} and {k}")
    return k or 0


def make_prompt(loaded: Loaded, question: str) -> Prompt:
    """A question of one's own in the task's template. Raises ValueError for words that the tokenizer cannot write."""
    text = loaded.task.template(question)
    try:
        return Prompt(ids=tuple(encode_prompt(loaded.tokenizer, text)), text=text, answer="")
    except Exception as error:  # tokenizers has no error of its own
        unknown = []
        for word in text.split():
            try:
                encode_text(loaded.tokenizer, word)
            except Exception:
                unknown.append(word)
        words = ", ".join(map(repr, dict.fromkeys(unknown))) or error
        if any(word not in question for word in unknown):
            raise ValueError(
                f"this policy's tokenizer does not know words of the prompt's template ({words}): for a folder of a "
                "shipped or small model add the model that it was trained with, as model=tiny"
            ) from error
        raise ValueError(f"this policy's tokenizer does not know {words} (tokens are separated by spaces)") from error


def show(prompt: Prompt, completions: list[Completion]) -> None:
    """The prompt and, below it, what the policy wrote."""
    console = Console()
    console.print(Text(prompt.text, style="bold"), soft_wrap=True)
    for completion in completions:
        end = Text(" …cut off by the length limit" if completion.truncated else "", style="dim")
        console.print(Text(completion.text) + end, soft_wrap=True)


def write_split(
    loaded: Loaded,
    folder: Path,
    *,
    split: str,
    first: int,
    num_prompts: int,
    num_samples: int,
    shard_size: int,
    sampling: Sampling,
    seed: int,
    top_k: int = 0,
) -> None:
    """Write the shards of `num_prompts` prompts of a split, from number `first` on, that are not there yet.

    Raises:
        ValueError: the folder holds shards that were made otherwise.
    """
    numbers = {"num_prompts": num_prompts, "num_samples": num_samples, "shard_size": shard_size}
    vocabulary = len(loaded.policy.get_output_embeddings().weight)
    if top_k > vocabulary:
        raise ValueError(f"logprobs_k={top_k} is above the {vocabulary} tokens that the model has: lower it")
    loaded.task.sample(split, first)  # refused before the folder is claimed
    temperature = sampling.temperature or 1.0
    stored = {"logprobs": {"k": top_k, "temperature": temperature}} if top_k else {}
    if start := prompt_start(loaded.tokenizer):
        stored["special_tokens"] = start
    claim(
        folder,
        {
            "checkpoint": str(loaded.file or loaded.config["model"]["name"]),
            "policy_sha256": policy_hash(loaded.policy),
            "task": loaded.config["task"],
            "split": split,
            "first": first,
            **numbers,
            "sampling": asdict(sampling),
            "seed": seed,
            "tokenizer_sha256": vocabulary_hash(loaded.tokenizer),
            **stored,
        },
    )
    starts = range(0, num_prompts, shard_size)
    questions: set[str] = set()
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        progress = bar.add_task("sampling", total=num_prompts * num_samples)
        advance = partial(bar.advance, progress)
        for number, start in enumerate(starts):
            indices = range(first + start, first + min(start + shard_size, num_prompts))
            path = folder / f"shard-{number:05}-of-{len(starts):05}.parquet"
            if path.exists():
                questions.update(pq.read_table(path, columns=["prompt"])["prompt"].unique().to_pylist())
                advance(len(indices) * num_samples)
                continue
            prompts = [loaded.task.sample(split, i) for i in indices]
            questions.update(map(question_key, prompts))
            Accuracy(loaded.task.is_correct).check_prompts(prompts)
            samples = path.with_suffix(SAMPLES)
            if samples.exists():
                advance(len(indices) * num_samples)
            else:
                options = {"sampling": sampling, "seed": seed, "step": GENERATION_STEP, "advance": advance}
                completions = sample(loaded.policy, loaded.engine, prompts, num_samples=num_samples, **options)
                write_shard(samples, samples_table(completions))
            completions, expanded = read_samples(samples), expand(prompts, num_samples)
            try:
                rows = table(expanded, completions, loaded, num_samples)
                if top_k:
                    rows = with_top_k(rows, loaded, expanded, completions, k=top_k, temperature=temperature)
            except Exception:
                log.warning(f"{samples} keeps what was sampled and is not scored; the same command scores it")
                raise
            write_shard(path, rows)
            samples.unlink()
    repeats = f" of {len(questions)} different prompts ({num_prompts} asked for)" * (len(questions) < num_prompts)
    print(f"{num_prompts * num_samples} completions{repeats} in {len(starts)} files in {folder}")


def claim(folder: Path, meta: dict[str, Any]) -> None:
    """Note in meta.json how a folder's shards are made; refuse one whose shards were made otherwise.

    Where the weights lay does not matter, their hash does; and their tokenizer, noted since, goes with them.
    settings_sha256, of all but where the weights lay, is the name of what was made. A folder without `special_tokens`
    has prompts that begin with none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "meta.json"
    meta = json.loads(json.dumps(meta))
    compared = [key for key in meta if key not in ("checkpoint", "tokenizer_sha256")]
    if path.exists() and any(folder.glob("shard-*")):
        old = json.loads(path.read_text())
        optional = "logprobs", "special_tokens"
        known = {**dict.fromkeys(compared), **{key: old[key] for key in old if key in (*compared, *optional)}}
        changed = [key for key in known if known[key] != meta.get(key)]
        if changed:
            differences = "; ".join(f"{key} was {old.get(key)} and is now {meta.get(key)}" for key in changed)
            raise ValueError(f"{folder} holds shards made with other settings ({differences}); choose another output")
    else:
        named = {"settings_sha256": config_hash({key: meta[key] for key in compared})}
        write_whole(path, json.dumps(meta | named, indent=2) + "\n")


def samples_table(completions: list[Completion]) -> pa.Table:
    """Completions before they are scored, which a scorer that fails does not lose."""
    columns = {name: [getattr(completion, name) for completion in completions] for name in SAMPLED.names}
    return pa.table(columns, schema=SAMPLED)


def read_samples(path: Path) -> list[Completion]:
    """The inverse of `samples_table`."""
    return [
        Completion(tuple(row["ids"]), row["text"], row["truncated"], tuple(row["sampling_logprobs"]))
        for row in pq.read_table(path).to_pylist()
    ]


def table(prompts: list[Prompt], completions: list[Completion], loaded: Loaded, num_samples: int) -> pa.Table:
    """The rows of B completions, each with its own prompt."""
    columns = {
        "prompt_index": [p.index for p in prompts],
        "kind": [p.kind for p in prompts],
        "difficulty": [p.difficulty for p in prompts],
        "language": [p.language for p in prompts],
        "prompt": [p.text for p in prompts],
        "answer": [p.answer for p in prompts],
        "number": [row % num_samples for row in range(len(completions))],
        "completion": [c.text for c in completions],
        "completion_ids": [c.ids for c in completions],
        "length": [len(c.ids) for c in completions],
        "truncated": [c.truncated for c in completions],
        "accuracy": Accuracy(loaded.task.is_correct)(prompts, completions),
        "wellformed": [value == 1.0 for value in Format()(prompts, completions)],
        "language_consistency": consistency_of(loaded.task).shares(prompts, completions),
        "sampling_logprobs": [c.sampling_logprobs for c in completions],
    }
    return pa.table(columns, schema=SCHEMA)


def with_top_k(
    rows: pa.Table,
    loaded: Loaded,
    prompts: list[Prompt],
    completions: list[Completion],
    *,
    k: int,
    temperature: float,
) -> pa.Table:
    """The rows with the policy's k likeliest tokens at each place of the completions."""
    found = top_k_rows(loaded.policy, loaded.tokenizer, prompts, completions, k=k, temperature=temperature)
    for i, (name, kind) in enumerate(zip(TOP, TOP_TYPES, strict=True)):
        rows = rows.append_column(name, pa.array([row[i].tolist() for row in found], kind))
    return rows


def write_shard(path: Path, rows: pa.Table) -> None:
    """Whole or not at all, so that a shard which is there is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(rows, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    run(generate, "generate")


if __name__ == "__main__":
    main()
