"""Rollouts by a plain loop over a transformers model with a key-value cache.

Faster than `generate` for small models on a CPU: a prompt is prefilled once for its whole group, rows that have
finished are dropped from the batch and its cache, and sampling costs one softmax and one binary search. The engine
that `generate` itself makes (`TransformersGenerate`) is the reference that the loop is tested against.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from r1lab.model.capacity import check_sequences
from r1lab.model.probe import evaluating
from r1lab.rollout.engine import Recorder
from r1lab.rollout.norms import fused_norms
from r1lab.rollout.randomness import row_keys, uniform
from r1lab.rollout.sampling import Sampling, next_token
from r1lab.rollout.sampling_check import check_sampling, without_generation_defaults
from r1lab.types import Completion, Prompt

# Dropping finished rows copies the cache, so it waits until this share of the rows has finished.
_DROP_SHARE = 0.1


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a completion: the model's own end-of-sequence tokens and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})


def left_pad(prompts: Sequence[Prompt], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 [P,S], the prompts right-aligned."""
    length = max(len(p.ids) for p in prompts)
    ids = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, length - len(prompt.ids) :] = 1
    return ids.to(device), mask.to(device)


def make_completions(
    rows: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[int],
    policy_version: int,
    experts: Sequence[Tensor] | None = None,
) -> list[Completion]:
    # Special tokens stay but for the one that ends it: for some tokenizers <think> is one of them.
    written = [row[:-1] if row[-1] in stops else row for row in rows]
    texts = tokenizer.batch_decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    experts = experts or [None] * len(rows)
    return [
        Completion(tuple(ids), text, ids[-1] not in stops, tuple(row_logprobs), policy_version, row_experts)
        for ids, text, row_logprobs, row_experts in zip(rows, texts, logprobs, experts, strict=True)
    ]


class CachedLoop:
    """The default engine.

    Args:
        batch_size: completions sampled at a time; 0: all at once. fused_norms: on a GPU, see `r1lab.rollout.norms`.
    """

    records_experts = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, batch_size: int = 0, fused_norms: bool = True):
        self.tokenizer, self.batch_size, self.fused_norms = tokenizer, batch_size, fused_norms
        self.everyone_done: Callable[[bool], bool] | None = None

    @torch.no_grad()
    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Prompt],
        *,
        group_size: int,
        sampling: Sampling,
        seed: int,
        step: int,
        policy_version: int = 0,
        recorder: Recorder | None = None,
    ) -> list[Completion]:
        check_sequences(model, [prompt.ids for prompt in prompts], sampling.max_new_tokens)
        other = TransformersGenerate(self.tokenizer)
        other.everyone_done = self.everyone_done
        check_sampling(self, model, ("rollout=generate", other))
        chunk = max(1, self.batch_size // group_size if self.batch_size else len(prompts))
        # Prompts of like length together: less padding, and rows finish at like times.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        groups: list[list[Completion]] = [[] for _ in prompts]
        with evaluating(model), self._norms(model):
            for start in range(0, len(order), chunk):
                part = order[start : start + chunk]
                options = (group_size, sampling, seed, step, policy_version, recorder)
                rows = self._sample(model, [prompts[i] for i in part], *options)
                for n, i in enumerate(part):
                    groups[i] = rows[n * group_size : (n + 1) * group_size]
            while self.everyone_done and not self.everyone_done(True):
                # The others' passes gather weights, in which this rank takes part.
                model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
        return [completion for group in groups for completion in group]

    def _sample(self, model, prompts, group_size, sampling, seed, step, policy_version, recorder) -> list[Completion]:
        stops = stop_tokens(model, self.tokenizer)
        ids, mask = left_pad(prompts, self.tokenizer.pad_token_id or 0, model.device)
        # With no padding the mask says nothing, and without one attention takes its fast path.
        padded = not bool(mask.all())
        cache = DynamicCache(config=model.config)
        with recorder or nullcontext():
            logits = self._pass(
                model,
                input_ids=ids,
                attention_mask=mask if padded else None,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        device = logits.device  # not the weights', whose shards may lie on the host
        mask, stop_ids = mask.to(device), torch.tensor(stops, device=device)
        prompt_experts = (
            recorder.take().short()[mask.flatten().bool()].split(mask.sum(1).tolist()) if recorder else None
        )

        batch = len(prompts) * group_size
        cache.batch_repeat_interleave(group_size)
        logits, mask = (x.repeat_interleave(group_size, 0) for x in (logits, mask))
        numbers = torch.tensor([p.index for p in prompts], device=device).repeat_interleave(group_size)
        keys = row_keys(seed, step, numbers, torch.arange(group_size, device=device).repeat(len(prompts)))

        out = torch.zeros(batch, sampling.max_new_tokens, dtype=torch.long, device=device)
        out_logprobs = torch.zeros(batch, sampling.max_new_tokens, device=device)
        lengths = torch.full((batch,), sampling.max_new_tokens, device=device)
        if recorder:
            out_experts = prompt_experts[0].new_zeros(batch, sampling.max_new_tokens, *prompt_experts[0].shape[1:])
        rows = torch.arange(batch, device=device)
        finished = torch.zeros(batch, dtype=torch.bool, device=device)
        positions = mask.sum(1)
        for t in range(sampling.max_new_tokens):
            token, logprob = next_token(logits, uniform(keys, t), sampling)
            out[rows, t], out_logprobs[rows, t] = token, logprob
            ends = torch.isin(token, stop_ids) & ~finished
            lengths[rows[ends]] = t + 1
            finished |= ends
            num_finished = int(finished.sum())
            if num_finished == len(rows) or t + 1 == sampling.max_new_tokens:
                break
            if num_finished > _DROP_SHARE * len(rows):
                keep = (~finished).nonzero()[:, 0]
                cache.batch_select_indices(keep)
                rows, keys, token, mask, positions = (x[keep] for x in (rows, keys, token, mask, positions))
                finished = finished[keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            with recorder or nullcontext():
                logits = self._pass(
                    model,
                    input_ids=token[:, None],
                    attention_mask=mask if padded else None,
                    position_ids=positions[:, None] + t,
                    past_key_values=cache,
                    use_cache=True,
                ).logits[:, -1]
            if recorder:
                out_experts[rows, t] = recorder.take().short()

        lengths = lengths.tolist()
        ids = [row[:n] for row, n in zip(out.tolist(), lengths, strict=True)]
        logprobs = [row[:n] for row, n in zip(out_logprobs.tolist(), lengths, strict=True)]
        experts = None
        if recorder:
            # The last token was not passed on.
            own = [row[: n - 1] for row, n in zip(out_experts.cpu(), lengths, strict=True)]
            experts = [torch.cat([prompt_experts[i // group_size].cpu(), row]) for i, row in enumerate(own)]
        return make_completions(ids, logprobs, self.tokenizer, stops, policy_version, experts)

    def _norms(self, model: PreTrainedModel) -> AbstractContextManager:
        # On a CPU torch computes them by the same operations as transformers.
        return fused_norms(model) if self.fused_norms and torch.cuda.is_available() else nullcontext()

    def _pass(self, model: PreTrainedModel, **inputs: Any) -> Any:
        if self.everyone_done:
            self.everyone_done(False)
        return model(**inputs)


class TransformersGenerate:
    """Transformers' own `generate`: the yardstick of the loop above, seeded through torch's global generator."""

    records_experts = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.everyone_done: Callable[[bool], bool] | None = None

    @torch.no_grad()
    def generate(
        self, model, prompts, *, group_size, sampling, seed, step, policy_version=0, recorder=None
    ) -> list[Completion]:
        check_sampling(self, model)
        if not prompts:
            if self.everyone_done is not None:
                # The others' passes gather weights, in which this rank takes part.
                nothing = torch.zeros(1, 1, dtype=torch.long, device=model.device)
                model.generate(nothing, max_new_tokens=1, synced_gpus=True, pad_token_id=0)
            return []
        check_sequences(model, [prompt.ids for prompt in prompts], sampling.max_new_tokens)
        stops = stop_tokens(model, self.tokenizer)
        ids, mask = left_pad(prompts, self.tokenizer.pad_token_id or 0, model.device)
        devices = [model.device] if model.device.type == "cuda" else []  # and not the other ranks' GPUs
        with evaluating(model), without_generation_defaults(model), torch.random.fork_rng(devices=devices):
            torch.manual_seed((seed * 1_000_003 + step) % 2**63)
            options = {"do_sample": False} if sampling.temperature == 0 else {
                "do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p
            }  # fmt: skip
            out = model.generate(
                ids.repeat_interleave(group_size, 0),
                attention_mask=mask.repeat_interleave(group_size, 0),
                synced_gpus=self.everyone_done is not None,
                generation_config=GenerationConfig(
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=stops or None,
                    pad_token_id=self.tokenizer.pad_token_id or 0,
                    return_dict_in_generate=True,
                    output_logits=True,
                    **options,
                ),
            )
        completions = out.sequences[:, ids.shape[1] :]
        temperature = sampling.temperature or 1.0
        logprobs = (torch.stack(out.logits, 1).float() / temperature).log_softmax(-1).gather(-1, completions[..., None])
        rows, row_logprobs = [], []
        for row, values in zip(completions.tolist(), logprobs[..., 0].tolist(), strict=True):
            length = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            rows.append(row[:length])
            row_logprobs.append(values[:length])
        return make_completions(rows, row_logprobs, self.tokenizer, stops, policy_version)
