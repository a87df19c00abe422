"""The output head of a model, applied to hidden states: by the definitions in `loss`, or by the kernels in `kernel`."""

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from r1lab.loss import distill, grpo, logprob, ppo, sparse_distill
from r1lab.loss.grpo import LossOutput
from r1lab.loss.sharded_logprob import sharded_linear_logprob
from r1lab.module.head_check import check_head
from r1lab.module.head_parts import gathered, head_parts, own_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHOICES = ("auto", "triton", "torch")
OLDEST = 8  # the major compute capability from which on Triton compiles for a GPU


class LinearHead:
    """Hidden states [N,H] -> logprobs, entropies, GRPO's or a distillation's loss under a model's head.

    Args:
        name: triton: fused kernels; torch: the definitions; auto: Triton for what lies on a CUDA GPU, else PyTorch.
        chunk_bytes: of the logits held at a time; None: what each of the two takes by itself.
        sharded: of a head in FSDP2's shards, bring hidden states to the rows (PyTorch alone), not the rows to them.

    Raises:
        ValueError: for an unknown name, chunk_bytes that are not positive, or triton where it cannot run.
    """

    def __init__(self, name: str = "auto", chunk_bytes: int | None = None, sharded: bool = False):
        if name not in CHOICES:
            raise ValueError(f"kernel.name {name!r} is not one of {', '.join(CHOICES)}")
        if chunk_bytes is not None:
            logprob.check_chunk_bytes(chunk_bytes, "kernel.chunk_bytes, if not null,")
        if name == "triton" and find_spec("triton") is None:
            raise ValueError("kernel=triton needs the package triton: pip install triton, or take kernel=torch")
        if name == "triton" and not torch.cuda.is_available() and not _interpreted():
            raise ValueError(
                "kernel=triton needs a CUDA GPU, and there is none: take kernel=auto or kernel=torch "
                "(TRITON_INTERPRET=1 runs the kernels on a CPU, slowly, for tests)"
            )
        self.name, self.sharded = name, sharded
        self.watch: Callable[[PreTrainedModel, int], None] | None = None  # told of a model and tokens at each pass
        self.budget = {} if chunk_bytes is None else {"chunk_bytes": chunk_bytes}

    def logprob(
        self,
        model: "PreTrainedModel",
        hidden: Tensor,
        ids: Tensor,
        *,
        temperature: float,
        entropy: Literal["none", "value", "gradient"] = "none",
    ) -> tuple[Tensor, Tensor | None]:
        """`r1lab.loss.logprob.linear_logprob` under the model's head: float32 [N] each, the entropy where asked.

        Of several tokens at a place, ids [N,K], PyTorch makes float32 [N,K], whatever the kernel.
        """
        self.tell(model, hidden)
        function, part_of = logprob.linear_logprob, gathered
        if ids.dim() == 1 and self.stays_sharded(model):
            function, part_of = sharded_linear_logprob, own_rows
        elif ids.dim() == 1 and self.takes_triton(hidden):
            from r1lab.kernel.linear_logprob import linear_logprob as function
        weight, options = head_parts(model, temperature, part_of)
        if function is sharded_linear_logprob:
            options |= _shard(model)
        return function(hidden, weight, ids, entropy=entropy, **options, **self.budget)

    def buckets(self, model: "PreTrainedModel", hidden: Tensor, ids: Tensor, *, temperature: float) -> Tensor:
        """`r1lab.loss.logprob.linear_buckets` under the model's head, by PyTorch: ids [N,K] -> float32 [N,K+1]."""
        self.tell(model, hidden)
        weight, of_head = head_parts(model, temperature)
        return logprob.linear_buckets(hidden, weight, ids, **of_head, **self.budget)

    def fuses(self, loss: Callable, model: "PreTrainedModel", hidden: Tensor) -> bool:
        """Whether `grpo_loss` takes the place of a loss, or of PPO's but for the values' part: Triton's turn, and the
        loss with its parameters bound.
        """
        bound = isinstance(loss, partial) and loss.func in (grpo.grpo_loss, ppo.ppo_loss)
        return bound and not self.stays_sharded(model) and self.takes_triton(hidden)

    def stays_sharded(self, model: "PreTrainedModel") -> bool:
        """Whether the head is not gathered; ValueError where its shards are no rows."""
        weight = model.get_output_embeddings().weight
        if not self.sharded or not isinstance(weight, DTensor):
            return False
        if [placement.is_shard(0) for placement in weight.placements] != [True]:
            raise ValueError(
                f"kernel.sharded=true needs a head sharded by rows alone, got {weight.placements}: set it false"
            )
        return True

    def grpo_loss(
        self,
        model: "PreTrainedModel",
        hidden: Tensor,
        ids: Tensor,
        old_logprobs: Tensor | None,
        ref_logprobs: Tensor | None,
        advantages: Tensor,
        completion_mask: Tensor,
        *,
        temperature: float,
        **options: Any,
    ) -> LossOutput:
        """`r1lab.loss.grpo.linear_grpo_loss` under the model's head, gradients made as the loss is."""
        self.tell(model, hidden)
        function = grpo.linear_grpo_loss
        if self.takes_triton(hidden):
            from r1lab.kernel.linear_grpo_loss import linear_grpo_loss as function
        weight, of_head = head_parts(model, temperature)
        tensors = (old_logprobs, ref_logprobs, advantages, completion_mask)
        return function(hidden, weight, ids, *tensors, **options, **of_head, **self.budget)

    def distill_loss(
        self,
        model: "PreTrainedModel",
        hidden: Tensor,
        teacher: "PreTrainedModel",
        teacher_hidden: Tensor,
        *,
        temperature: float,
        teacher_temperature: float | None = None,
        **options: Any,
    ) -> Tensor:
        """`r1lab.loss.distill.linear_distill_loss` under the heads of student and teacher.

        Of heads of different length, padded for speed beyond their one vocabulary, the rows of both count.

        Raises:
            ValueError: for a head with a bias or a soft cap.
        """
        self.tell(model, hidden)
        self.tell(teacher, teacher_hidden)
        weight, own = head_parts(model, temperature)
        theirs, of_teacher = head_parts(teacher, temperature if teacher_temperature is None else teacher_temperature)
        options |= {"temperature": own.pop("temperature"), "teacher_temperature": of_teacher.pop("temperature")}
        function = distill.linear_distill_loss
        if self.takes_triton(hidden):
            from r1lab.kernel.linear_distill_loss import linear_distill_loss as function
        if any(value is not None for value in (*own.values(), *of_teacher.values())):
            raise ValueError(
                "a whole distribution is distilled under plain heads, and one of these has a bias or a soft cap: take "
                "module.mode=top_k or module.mode=sampled"
            )
        rows = min(len(weight), len(theirs))
        weight, theirs = (each if len(each) == rows else each[:rows] for each in (weight, theirs))
        return function(hidden, weight, teacher_hidden, theirs, **options, **self.budget)

    def top_k(
        self, model: "PreTrainedModel", hidden: Tensor, *, k: int, temperature: float, tail: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`r1lab.loss.sparse_distill.linear_top_k` under the model's head."""
        self.tell(model, hidden)
        weight, of_head = head_parts(model, temperature)
        return sparse_distill.linear_top_k(hidden, weight, k=k, tail=tail, **of_head, **self.budget)

    def draws(
        self,
        model: "PreTrainedModel",
        hidden: Tensor,
        uniform: Tensor,
        *,
        temperature: float,
        proposal_temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`r1lab.loss.sparse_distill.linear_draws` under the model's head."""
        self.tell(model, hidden)
        weight, of_head = head_parts(model, temperature)
        options = {"proposal_temperature": proposal_temperature, **of_head, **self.budget}
        return sparse_distill.linear_draws(hidden, weight, uniform, **options)

    def tell(self, model: "PreTrainedModel", hidden: Tensor) -> None:
        """Check the model's head at its first use, and tell the watcher that it is applied to hidden states."""
        check_head(model)
        if self.watch is not None:
            self.watch(model, len(hidden))

    def takes_triton(self, hidden: Tensor) -> bool:
        """Whether Triton's turn it is for these hidden states; ValueError where it was asked for and cannot be."""
        if self.name == "triton" and not hidden.is_cuda and not _interpreted():
            raise ValueError("kernel=triton, but the model is on the CPU: set trainer.accelerator=gpu, or kernel=auto")
        if self.name != "auto":
            return self.name == "triton"
        # The kernels compute in float32, and float64 is not to lose its precision unasked.
        if not hidden.is_cuda or hidden.dtype == torch.float64 or find_spec("triton") is None:
            return False
        return torch.cuda.get_device_capability(hidden.device)[0] >= OLDEST


AUTO = LinearHead()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _shard(model: "PreTrainedModel") -> dict[str, Any]:
    """Which rows of the head this rank has, and who has the others."""
    weight = model.get_output_embeddings().weight
    mesh = weight.device_mesh
    rows = -(-len(weight) // mesh.size())  # of all ranks but the last
    return {"first": rows * mesh.get_local_rank(), "group": mesh.get_group()}
