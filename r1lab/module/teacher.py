"""The teacher of a distillation: the frozen policy of any checkpoint, in process and beside the module's own weights.

It is no submodule, so that neither the optimizer nor a checkpoint ever holds it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.dtype import dtype_of
from r1lab.model.attention import use_attention
from r1lab.model.capacity import check_token_ids
from r1lab.model.folder import as_setting
from r1lab.model.memory import weights_mib
from r1lab.model.moe import cast
from r1lab.model.policy import load_policy, load_tokenizer
from r1lab.model.quantize import check_precision
from r1lab.model.quantize import quantize as quantized
from r1lab.model.tokenizer import prompt_start, refuse_other_tokens, vocabulary_hash
from r1lab.module.base import PolicyModule
from r1lab.module.checkpoint import checkpoint_file, load_checkpoint
from r1lab.module.logprobs import counted_hidden
from r1lab.rollout.collate import Batch


@dataclass(frozen=True)
class Teacher:
    """A frozen model and its tokenizer. name: what it was loaded from."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """`counted_hidden` of the teacher, [N,H'], on the batch's device, to which it moves."""
        if self.model.device != batch.input_ids.device:
            self.model.to(batch.input_ids.device)
        return counted_hidden(self.model.base_model, batch)

    def refuse_other_tokens(self, student: PreTrainedTokenizerBase) -> None:
        """Raises ValueError where its tokens are not the student's, or its prompts begin with other ones."""
        own = vocabulary_hash(self.tokenizer), prompt_start(self.tokenizer)
        refuse_other_tokens(student, *own, f"module.teacher.name={self.name}")


def load_teacher(name: str, dtype: str | None, quantize: str | None) -> Teacher:
    """The policy of a checkpoint file, a run folder (its last), a Hugging Face folder or a shipped base.

    Args:
        dtype: of its weights (`bfloat16`, ...); None: those of the checkpoint, float32 for a Hugging Face folder.
        quantize: 8bit or nf4, see `r1lab.model.quantize`; None: not.

    Raises:
        CheckpointError: there is none of these, or it is damaged.
        ValueError, ImportError: for another dtype or precision, or one without bitsandbytes.
    """
    check_precision(quantize, "module.teacher.quantize")
    kind = dtype_of(dtype, "module.teacher.dtype") if dtype else None
    file = checkpoint_file(name)
    if file is None:
        with as_setting("module.teacher.name"):
            model, tokenizer = load_policy(name, dtype=dtype or "float32"), load_tokenizer(name)
    else:
        model, tokenizer, _ = load_checkpoint(file)
        model = cast(model, kind) if kind else model
    check_token_ids(model, tokenizer, f"module.teacher.name={name}")
    use_attention(model, "auto")
    return Teacher(name, quantized(model.eval().requires_grad_(False), quantize), tokenizer)


class Taught(PolicyModule):
    """What modules with a teacher have in common: it is made with the policy, and its tokens are counted.

    Args (beside those of `PolicyModule`):
        teacher: makes the teacher; None: there is none in process.
    """

    def __init__(self, *, teacher: Callable[[], Teacher] | None, **parts: Any):
        super().__init__(**parts)
        self.make_teacher = teacher
        self.teacher: Teacher | None = None
        self.teacher_tokens = 0  # that the teacher wrote or judged, over all ranks and steps

    def make_models(self) -> None:
        super().make_models()
        if self.teacher is None and self.make_teacher is not None:
            self.teacher = self.make_teacher()
            self.teacher.refuse_other_tokens(self.tokenizer)

    def scored_models(self) -> list[PreTrainedModel]:
        if self.teacher is None:
            return super().scored_models()
        return [*super().scored_models(), self.teacher.model.to(self.device)]

    def memory(self) -> dict[str, float]:
        return super().memory() | {"memory/teacher_mib": weights_mib(self.teacher and self.teacher.model)}

    def state(self) -> dict[str, Any]:
        return super().state() | {"teacher_tokens": self.teacher_tokens}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.teacher_tokens = state["teacher_tokens"]
