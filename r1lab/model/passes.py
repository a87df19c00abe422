"""What the passes of training allocate beside weights, gradients and optimizer state: by running them on fake tensors.

Each counts in bytes, for a model's full depth: what a layer leaves behind, times the layers that are not computed with.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from r1lab.model.fake import FakeModel
from r1lab.model.ledger import Ledger, rounded


@dataclass(frozen=True)
class Microbatch:
    """rows of `width` tokens each, of which `counted` have a loss."""

    rows: int
    width: int
    counted: int


@dataclass(frozen=True)
class UpdateBytes:
    """Of a microbatch's forward and backward pass, gradients of weights aside but while they are being made.

    activations: what the backward pass of the layers needs, all of it. head: on top of that, from the last hidden
    states to their gradient. peak: the most at a time. course: in the order of the passes, the most at a time and the
    number of layers whose gradients have been made by then; empty where two models are computed with.
    """

    activations: int
    head: int
    peak: int
    course: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class RolloutBytes:
    """cache: keys and values (or latents) at full length. peak: with them, the most at a time. token: the cache of one,
    where no layer has a window."""

    cache: int
    peak: int
    token: int

    def times(self, prompts: float) -> "RolloutBytes":
        """Of so many prompts instead of one: all of it is a multiple of the rows."""
        return RolloutBytes(int(self.cache * prompts), int(self.peak * prompts), self.token)


@contextmanager
def dry(*models: FakeModel, autocast: torch.dtype | None = None) -> Iterator[Ledger]:
    """Passes inside are computed on fake tensors, under autocast where that is on; the ledger counts."""
    with ExitStack() as stack:
        stack.enter_context(models[0].mode)
        ledger = stack.enter_context(Ledger(*(each.model for each in models)))
        stack.enter_context(nullcontext() if autocast is None else torch.autocast("cpu", autocast))
        yield ledger


class _Depth:
    """Watches a model's layers in a forward pass: `missing`, what those would leave behind that are not there."""

    def __init__(self, fake: FakeModel, ledger: Ledger, behind: Callable[[int], None] | None = None):
        """behind: called with a layer's number when its backward pass is done."""
        self.fake, self.ledger, self.behind = fake, ledger, behind
        self.at: list[int] = []

    def __enter__(self) -> "_Depth":
        layers = self.fake.layers
        self.hooks = [layer.register_forward_pre_hook(self._start, with_kwargs=True) for layer in layers]
        # What the last layer was given is let go of when the model goes on, to its last norm.
        self.hooks += [module.register_forward_pre_hook(self._behind) for module in self.fake.beside_layers]
        return self

    def _start(self, layer, args, kwargs) -> None:
        number = len(self.at)
        self.at.append(self.ledger.now)
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.behind is not None and hidden.requires_grad:
            hidden.register_hook(lambda _: self.behind(number))

    def _behind(self, *_: Any) -> None:
        if len(self.at) == len(self.fake.layers):
            self.at.append(self.ledger.now)

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    @property
    def there(self) -> int:
        """What the layers that are there left behind."""
        return self.at[-1] - self.at[0]

    @property
    def missing(self) -> int:
        return sum(self.missing_of)

    @property
    def missing_of(self) -> list[int]:
        """What is missing for each layer that is there."""
        left = [after - before for before, after in zip(self.at, self.at[1:], strict=False)]
        return [count * max(nbytes, 0) for count, nbytes in zip(self.fake.extra, left, strict=True)]


def hidden_states(fake: FakeModel, batch: Microbatch) -> Tensor:
    """[N, H] of the counted tokens, as `r1lab.module.logprobs.counted_hidden` takes them."""
    ids = torch.zeros(batch.rows, batch.width, dtype=torch.int64)
    rows, positions = (torch.zeros(batch.counted, dtype=torch.int64) for _ in range(2))
    hidden = fake.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[rows, positions]


@torch.no_grad()
def forward_bytes(ledger: Ledger, fake: FakeModel, batch: Microbatch, head: Callable[[Tensor], Any]) -> int:
    """The most that a pass without gradient takes at a time; `head` is what becomes of the hidden states [N, H].

    What it leaves behind, autocast's copies of the weights, is counted as well.
    """
    ledger.restart()
    before = ledger.now
    with _Depth(fake, ledger) as depth:
        head(hidden_states(fake, batch))
    return ledger.peak - before + depth.missing


@torch.no_grad()
def copies_bytes(ledger: Ledger, fake: FakeModel, batch: Microbatch, *, head: bool = False) -> int:
    """Autocast's copies of the weights that are trained: made when first used, and kept to the end of the step.

    head: that of the output head as well, which sampling makes; the head of the loss makes its own each time.
    """
    before = ledger.now
    with _Depth(fake, ledger) as depth:
        hidden = hidden_states(fake, batch)
    if head:
        fake.model.get_output_embeddings()(hidden[:1])
    del hidden
    return ledger.now - before + depth.missing


def update_bytes(
    ledger: Ledger,
    fake: FakeModel,
    batch: Microbatch,
    loss: Callable[[Tensor], Tensor],
    *,
    checkpointing: bool = False,
    second: FakeModel | None = None,
) -> UpdateBytes:
    """A microbatch's forward and backward pass; weights' gradients are given up when they are made.

    Args:
        loss: hidden states [N, H] of the policy -> the scalar loss.
        checkpointing: only the layers' inputs are saved, and a layer computed again for its backward pass.
        second: another model that the loss computes with, a value model.
    """
    models = [fake] if second is None else [fake, second]
    regions: dict[str | int, int] = {}

    def close(region: str | int) -> None:
        regions.setdefault(region, ledger.peak)
        ledger.restart()

    with ExitStack() as stack:
        for each in models:
            stack.enter_context(_given_up(each))
            if checkpointing:
                stack.enter_context(_checkpointed(each))
        depths = [_Depth(fake, ledger, behind=close)]
        depths += [_Depth(each, ledger) for each in models[1:]]
        ledger.restart()
        before = ledger.now
        for depth in depths:
            stack.enter_context(depth)
        hidden = hidden_states(fake, batch)
        activations = ledger.now - before
        close("forward")
        hidden.register_hook(lambda _: close("head"))
        loss(hidden).backward()
        close("end")
    del hidden
    missing = sum(depth.missing for depth in depths)
    activations += sum(depth.there for depth in depths[1:])
    own = _course(fake, depths[0].missing_of, {name: peak - before for name, peak in regions.items()})
    further = missing - depths[0].missing
    return UpdateBytes(
        activations=activations + missing,
        head=max(regions.get("head", 0) - before - activations, 0),
        peak=max(most for most, _ in own) + further,  # of both, as if the second's were there throughout
        course=() if second is not None else own,
    )


def _course(fake: FakeModel, missing: list[int], regions: dict[str | int, int]) -> tuple[tuple[int, int], ...]:
    """See `UpdateBytes.course`. Of layers that are alike, one that is there stands for, the topmost and the lowest
    count: in between both change evenly."""
    left, made = sum(missing), 0
    course = [(max(regions.get(region, 0) for region in ("forward", "head")) + left, made)]
    for number in reversed(range(len(missing))):
        # Where nothing below is trained, backward ends before it.
        peak, alike = regions.get(number, 0), fake.extra[number]
        course.append((peak + left, made))
        left, made = left - missing[number], made + alike
        course.append((peak + left, made))
        made += 1
    return (*course, (regions["end"], made))  # with the embedding's gradient


@torch.no_grad()
def rollout_bytes(
    ledger: Ledger,
    fake: FakeModel,
    *,
    prompts: int,
    group_size: int,
    prompt_tokens: int,
    new_tokens: int,
    sample: Callable[[Tensor], Any],
) -> RolloutBytes:
    """A rollout as `r1lab.rollout.hf.CachedLoop` makes it: prompts prefilled once, then one token at a time.

    sample: logits [B, V] -> tokens and their logprobs. Every completion is taken to be as long as it may.
    """
    before, batch = ledger.now, prompts * group_size
    ledger.restart()
    with _Depth(fake, ledger) as depth:
        cache = DynamicCache(config=fake.model.config)
        mask = torch.ones(prompts, prompt_tokens, dtype=torch.int64)
        logits = _logits(fake, mask, cache, prompt_tokens, logits_to_keep=1)
        cache.batch_repeat_interleave(group_size)
        logits = logits.repeat_interleave(group_size, 0)
        sample(logits)
    prefill = ledger.peak - before + depth.missing + _cache_bytes(fake, cache, extra=True)
    # At the end of the longest completions.
    length = prompt_tokens + new_tokens - 1
    for layer in cache.layers:
        kept = min(length, (getattr(layer, "sliding_window", None) or length + 1) - 1)
        layer.keys, layer.values = (x.new_zeros(*x.shape[:2], kept, x.shape[3]) for x in (layer.keys, layer.values))
    held = [_cache_bytes(fake, cache), _cache_bytes(fake, cache, extra=True)]
    numbers = [sum(x.nbytes for x in (layer.keys, layer.values)) for layer in cache.layers]
    token = sum(n * (1 + more) for n, more in zip(numbers, fake.extra, strict=True)) // (batch * length)
    written = [torch.zeros(batch, new_tokens, dtype=dtype) for dtype in (torch.int64, torch.float32)]
    ledger.restart()
    mask = torch.ones(batch, prompt_tokens + new_tokens, dtype=torch.int64)
    logits = _logits(fake, mask, cache, 1)
    sample(logits)
    peak = ledger.peak - before + held[1]
    del written
    return RolloutBytes(sum(held), max(prefill, peak), token)


def _logits(fake: FakeModel, mask: Tensor, cache: DynamicCache, tokens: int, **options: Any) -> Tensor:
    ids = torch.zeros(len(mask), mask.shape[1] if tokens > 1 else 1, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
    return fake.model(input_ids=ids, **given, **options).logits[:, -1]


def _cache_bytes(fake: FakeModel, cache: DynamicCache, *, extra: bool = False) -> int:
    """Of the layers that are there, or of those that are not."""
    own = [sum(rounded(x.nbytes) for x in vars(layer).values() if isinstance(x, Tensor)) for layer in cache.layers]
    return sum(nbytes * count for nbytes, count in zip(own, fake.extra if extra else [1] * len(own), strict=True))


@contextmanager
def _given_up(fake: FakeModel) -> Iterator[None]:
    """Gradients are let go of as soon as they are whole: whoever plans counts them by themselves."""
    weights = [p for p in fake.model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None)) for p in weights]
    yield
    for hook in hooks:
        hook.remove()


@contextmanager
def _checkpointed(fake: FakeModel) -> Iterator[None]:
    layers = list(fake.layers)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    yield
    for layer in layers:
        del layer.forward
