"""The output head of a model, applied to hidden states: by the definitions in `loss`, or by the kernels in `kernel`."""

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from r1lab.loss import grpo, logprob
from r1lab.loss.grpo import LossOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHOICES = ("auto", "triton", "torch")
OLDEST = 8  # the major compute capability from which on Triton compiles for a GPU


class LinearHead:
    """Hidden states [N,H] -> logprobs, entropies or the GRPO loss under a model's head, its bias and soft cap included.

    Args:
        name: triton: fused kernels; torch: the definitions; auto: Triton for what lies on a CUDA GPU, else PyTorch.
        chunk_bytes: of the logits held at a time; None: what each of the two takes by itself.

    Raises:
        ValueError: for an unknown name, chunk_bytes that are not positive, or triton where it cannot run.
    """

    def __init__(self, name: str = "auto", chunk_bytes: int | None = None):
        if name not in CHOICES:
            raise ValueError(f"kernel.name {name!r} is not one of {', '.join(CHOICES)}")
        if chunk_bytes is not None and chunk_bytes <= 0:
            raise ValueError(f"kernel.chunk_bytes must be above 0, or null for the kernel's own, got {chunk_bytes}")
        if name == "triton" and find_spec("triton") is None:
            raise ValueError("kernel=triton needs the package triton: pip install triton, or take kernel=torch")
        if name == "triton" and not torch.cuda.is_available() and not _interpreted():
            raise ValueError(
                "kernel=triton needs a CUDA GPU, and there is none: take kernel=auto or kernel=torch "
                "(TRITON_INTERPRET=1 runs the kernels on a CPU, slowly, for tests)"
            )
        self.name = name
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
        """`r1lab.loss.logprob.linear_logprob` under the model's head: float32 [N] each, the entropy where asked."""
        function = logprob.linear_logprob
        if self.takes_triton(hidden):
            from r1lab.kernel.linear_logprob import linear_logprob as function
        weight, options = _parts(model)
        return function(hidden, weight, ids, temperature=temperature, entropy=entropy, **options, **self.budget)

    def fuses(self, loss: Callable, hidden: Tensor) -> bool:
        """Whether `grpo_loss` takes the place of a loss: Triton's turn, and GRPO's loss with its parameters bound."""
        return isinstance(loss, partial) and loss.func is grpo.grpo_loss and self.takes_triton(hidden)

    def grpo_loss(
        self,
        model: "PreTrainedModel",
        hidden: Tensor,
        ids: Tensor,
        old_logprobs: Tensor | None,
        ref_logprobs: Tensor | None,
        advantages: Tensor,
        completion_mask: Tensor,
        **options: Any,
    ) -> LossOutput:
        """`r1lab.loss.grpo.linear_grpo_loss` under the model's head, gradients made as the loss is."""
        function = grpo.linear_grpo_loss
        if self.takes_triton(hidden):
            from r1lab.kernel.linear_grpo_loss import linear_grpo_loss as function
        weight, of_head = _parts(model)
        tensors = (old_logprobs, ref_logprobs, advantages, completion_mask)
        return function(hidden, weight, ids, *tensors, **options, **of_head, **self.budget)

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


def _parts(model: "PreTrainedModel") -> tuple[Tensor, dict[str, Any]]:
    """The head's weight [V,H], and what else it does to logits: bias [V] or None, softcap or None."""
    head = model.get_output_embeddings()
    bias, softcap = getattr(head, "bias", None), getattr(model.config, "final_logit_softcapping", None)
    return gathered(head.weight), {"bias": None if bias is None else gathered(bias), "softcap": softcap}


def gathered(weight: Tensor) -> Tensor:
    """A parameter sharded by FSDP2 in whole, gathered once for all the tokens of a pass; any other as it is.

    Its gradient goes back in shards, as the mean over the ranks: each has tokens of its own.
    """
    if not isinstance(weight, DTensor):
        return weight
    whole = weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / weight.device_mesh.size())
    return whole
