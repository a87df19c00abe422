"""Training of a reward model as a LightningModule, and the trained one as a scorer."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.dtype import dtype_of
from r1lab.loss.preference import PREFERENCE_LOSSES
from r1lab.metric.interval import bootstrap_interval
from r1lab.model.adapter import adapter_settings
from r1lab.model.capacity import check_sequences, check_token_ids
from r1lab.model.memory import trainable
from r1lab.model.moe import cast
from r1lab.model.quantize import check_precision
from r1lab.model.quantize import quantize as quantized
from r1lab.model.reward_model import last_token_scores
from r1lab.model.tokenizer import encode_prompts, eos_of
from r1lab.model.value import ValueModel, value_model
from r1lab.module.base import PolicyModule
from r1lab.module.checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from r1lab.reward.model import PARTS, check_padding, seen_part
from r1lab.rollout.collate import microbatches
from r1lab.task.different import different, pair_key
from r1lab.types import Completion, Prompt

_HEAD = "value_model."
# Share of the newest step in the moments of the scores.
_NEWEST = 0.2


class Preference(Protocol):
    """`r1lab.data.preferences.Preference`."""

    prompt: Prompt
    chosen: str
    rejected: str


class RewardModel(PolicyModule):
    """A policy's trunk with a scalar head, trained to tell the better of two responses.

    The trunk is the base's own, and a checkpoint holds it as its policy, the head beside it.

    Args (beside those of `PolicyModule`):
        loss: pairwise (Bradley-Terry: helpfulness) or pointwise (safe or not), see `r1lab.loss.preference`.
        sees: answer or response, see `r1lab.reward.model.LearnedReward`.
        microbatch_tokens: padded tokens a forward pass may hold (0: no limit).

    Raises:
        ValueError: for another loss or part.
    """

    def __init__(self, *, loss: str, sees: str, microbatch_tokens: int, **policy_parts: Any):
        super().__init__(**policy_parts)
        for name, value, known in (("loss", loss, PREFERENCE_LOSSES), ("sees", sees, PARTS)):
            if value not in known:
                raise ValueError(f"module.{name}={value!r} must be one of {', '.join(known)}")
        check_end(self.tokenizer)
        self.loss, self.sees, self.microbatch_tokens = loss, sees, microbatch_tokens
        # Mean and mean square of the scores of the last training pairs, for who makes a reward of them.
        self.register_buffer("score_moments", torch.tensor([0.0, 1.0]))

    def shard_models(self, shard: Callable) -> None:
        raise ValueError("module=reward_model trains whole: take strategy=single or strategy=ddp")

    def scored_models(self) -> list[PreTrainedModel]:
        return []  # it computes no logprobs

    def make_models(self) -> None:
        super().make_models()
        if self.value_model is None:
            # What predicts tokens has no part in a score.
            if adapter_settings(self.policy) is None:
                self.policy.requires_grad_(False).base_model.requires_grad_(True)
            self.value_model = value_model(self.policy, "shared")

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": trainable(self.policy, self.value_model)}]

    def training_step(self, pairs: Sequence[Preference], batch_idx: int) -> None:
        started = time.perf_counter()
        total = int(self.all_gather(torch.tensor(len(pairs), device=self.device)).sum())
        self.optimizers().zero_grad()
        sums = torch.zeros(4, device=self.device)
        rows, parts = self.parts(pairs)
        for number, part in enumerate(parts, 1):
            with self.exchange(number == len(parts)):
                chosen, rejected = self.scores([rows[i] for i in part])
                share = PREFERENCE_LOSSES[self.loss](chosen, rejected, pairs=total)
                self.backward_share(share)
            scores = torch.cat([chosen, rejected]).detach() / (2 * total) ** 0.5
            moments = (scores.sum() / (2 * total) ** 0.5, scores.square().sum())
            sums += torch.stack([share.detach(), self.accuracy(chosen, rejected).sum() / total, *moments])
        everyone = self.all_gather(sums).reshape(-1, 4).sum(0)
        loss, accuracy = everyone[:2].tolist()
        newest = _NEWEST if self.step > self.bad_steps else 1.0  # the first step that is not skipped sets them
        if self.take_step(loss, lambda: {"rows": rows}):
            self.score_moments = self.score_moments.lerp(everyone[2:], newest)
        seconds = time.perf_counter() - started
        self.log_step({"loss/total": loss, "loss/accuracy": accuracy, "time/step_seconds": seconds})

    def validation_step(self, pairs: Sequence[Preference], batch_idx: int) -> None:
        started = time.perf_counter()
        metrics = self.evaluate(pairs, self.everyones) | {"seconds": time.perf_counter() - started}
        named = {f"validation/{name}": float(value) for name, value in metrics.items()}
        self.log_dict(named | {"step": float(self.step)}, batch_size=1)

    @torch.no_grad()
    def evaluate(
        self, pairs: Sequence[Preference], gather: Callable[[Any], list] = lambda own: [own]
    ) -> dict[str, float]:
        """Accuracy and margin on the distinct pairs.

        Args:
            gather: one rank's scores -> those of each rank.

        Returns:
            accuracy, the share of pairs (pointwise: of responses) that are told rightly, with accuracy_low and
            accuracy_high (95 % bootstrap over pairs); loss; margin, the mean of chosen minus rejected; num_pairs;
            length_accuracy, the share of pairs that are told by the number of tokens alone, longer or shorter as does
            better: what there is to be told beyond it.
        """
        rows, parts = self.parts(different(pairs, pair_key))
        scored: list[list[float]] = []
        for part in parts:
            longer = torch.tensor([len(rows[i][0]) - len(rows[i][1]) for i in part], device=self.device)
            scored += torch.stack([*self.scores([rows[i] for i in part]), longer.float()], 1).tolist()
        # Sorted, so that the bootstrap does not depend on the order of the ranks.
        everyones = torch.tensor(sorted(pair for own in gather(scored) for pair in own))
        chosen, rejected, longer = everyones.unbind(1)
        right = self.accuracy(chosen, rejected)
        by_length = float(_above(longer, torch.zeros_like(longer)).mean())
        low, high = bootstrap_interval(right.tolist(), level=0.95, resamples=1000, seed=0)
        return {
            "accuracy": float(right.mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "loss": float(PREFERENCE_LOSSES[self.loss](chosen, rejected, pairs=len(right))),
            "margin": float((chosen - rejected).mean()),
            "num_pairs": len(right),
            "length_accuracy": max(by_length, 1 - by_length),
        }

    def accuracy(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """[b] -> [b] of 0, 0.5 or 1; a tie is half right."""
        if self.loss == "pairwise":
            return _above(chosen, rejected)
        nothing = torch.zeros_like(chosen)
        return (_above(chosen, nothing) + _above(nothing, rejected)) / 2

    def parts(self, pairs: Sequence[Preference]) -> tuple[list[tuple[list[int], list[int]]], list[list[int]]]:
        """The ids of each pair as they are scored, (chosen, rejected); and which pairs a microbatch has."""
        sides = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
        texts = [seen_part(prompt, Completion((), text, truncated=False), self.sees) for prompt, text in sides]
        ids = scored_ids(self.tokenizer, [prompt.text for prompt, _ in sides], texts)
        check_sequences(self.policy, ids)
        rows = list(zip(ids[::2], ids[1::2], strict=True))
        return rows, microbatches([2 * max(map(len, row)) for row in rows], self.microbatch_tokens)

    def scores(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Scores of the chosen and of the rejected responses of some pairs, float32 [b] each."""
        both = [row[side] for side in (0, 1) for row in rows]
        inputs = padded(both, self.tokenizer.pad_token_id, self.device)
        chosen, rejected = last_token_scores(self.policy.base_model, self.value_model, *inputs).chunk(2)
        return chosen, rejected


class RewardModelScorer:
    """A trained reward model, as `r1lab.reward.model.LearnedReward` asks for it.

    Scores of a pointwise one are probabilities. Those of a pairwise one have neither a zero nor a scale of their own:
    they are given the mean 0 and the standard deviation 1 over the pairs it was trained on, to be added to others.

    Args:
        policy, head: of `load_reward_model`. pointwise: which of the two it is.
        moments: mean and mean square of the raw scores over training pairs; of a pairwise one.
        batch_size: texts a forward pass. max_length: tokens of prompt and text together; what is over is cut off the
            left end, where the prompt stands.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        head: ValueModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pointwise: bool,
        batch_size: int,
        max_length: int,
        moments: Sequence[float] = (0.0, 1.0),
    ):
        check_end(tokenizer)
        self.policy, self.head, self.tokenizer = policy.requires_grad_(False), head.requires_grad_(False), tokenizer
        self.pointwise, self.batch_size, self.max_length = pointwise, batch_size, max_length
        self.mean, square = moments
        self.std = max(square - self.mean**2, 1e-12) ** 0.5

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """B prompts' texts and the B texts that answer them -> B scores."""
        return self.score_rows([row[-self.max_length :] for row in scored_ids(self.tokenizer, prompts, texts)])

    @torch.no_grad()
    def score_rows(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The scores of B rows of ids."""
        check_sequences(self.policy, rows)
        scores: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            inputs = padded(
                rows[start : start + self.batch_size], self.tokenizer.pad_token_id, self.head.head.weight.device
            )
            raw = last_token_scores(self.policy.base_model, self.head, *inputs)
            scores += (raw.sigmoid() if self.pointwise else (raw - self.mean) / self.std).tolist()
        return scores


def load_reward_model(
    name: str, dtype: str, batch_size: int, max_length: int, quantize: str | None
) -> RewardModelScorer:
    """The scorer of a checkpoint, or of a run's folder (its best), on the GPU where there is one.

    Args:
        quantize: 8bit or nf4, of its trunk, see `r1lab.model.quantize`; None: not.

    Raises:
        CheckpointError: if there is none, or it is no reward model's.
        ValueError, ImportError: for another dtype or precision, one without bitsandbytes, or a model whose scores
            depend on padding.
    """
    kind = dtype_of(dtype, "scorer.dtype")
    check_precision(quantize, "scorer.quantize")
    path = Path(name).expanduser()
    found = [path / "checkpoints" / f"{which}.ckpt" for which in ("best", "last")] if path.is_dir() else [path]
    path = next((file for file in found if file.is_file()), found[0])
    policy, tokenizer, config = load_checkpoint(path)
    state = read_checkpoint(path)["state_dict"]
    weights = {k.removeprefix(_HEAD): v for k, v in state.items() if k.startswith(_HEAD)}
    settings = config["module"]
    if settings.get("loss") not in PREFERENCE_LOSSES or not weights:
        raise CheckpointError(f"{path} is no reward model; experiment=reward_model trains one")
    check_token_ids(policy, tokenizer, f"scorer.name={name}")
    head = ValueModel(weights["head.weight"].shape[1], None)
    head.load_state_dict(weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = RewardModelScorer(
        quantized(cast(policy, kind), quantize).to(device),
        head.to(device),
        tokenizer,
        pointwise=settings["loss"] == "pointwise",
        batch_size=batch_size,
        max_length=max_length,
        # A checkpoint from before there were moments keeps its raw scores.
        moments=state["score_moments"].tolist() if "score_moments" in state else (0.0, 1.0),
    )
    if batch_size > 1:
        check_padding(scorer.score_rows, scorer.policy, tokenizer)
    return scorer


def check_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError where a tokenizer has no token that ends a text, which is the one that is scored."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "a reward model scores the end-of-sequence token, and the tokenizer has none; set its eos_token"
        )


def scored_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """The ids that are scored: prompt, text, and the end-of-sequence token, whose hidden state has seen both."""
    prompt_ids, end = encode_prompts(tokenizer, prompts), eos_of(tokenizer)
    text_ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [[*prompt, *text, end] for prompt, text in zip(prompt_ids, text_ids, strict=True)]


def padded(rows: Sequence[Sequence[int]], pad_id: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids int64 [B, S], padded on the right by any id, and their lengths int64 [B]."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id or 0] * (width - len(row))] for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows], device=device)


def _above(first: Tensor, second: Tensor) -> Tensor:
    return (first > second).float() + 0.5 * (first == second)
