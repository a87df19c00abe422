"""The parts of a model's output head as tensors, as `loss` and `kernel` take them, gathered from shards."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from r1lab.model.logit_transform import logit_transform

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def head_parts(
    model: "PreTrainedModel", temperature: float, part_of: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, dict[str, Any]]:
    """The head's weight [V,H], and the options that give the model's distribution at a temperature.

    Args:
        part_of: what of a parameter is used; None: all of it, `gathered`.

    Returns:
        The weight, and a dict of bias ([V] or None), softcap (or None) and temperature. The model's scale of logits is
        part of the last two, see `r1lab.model.logit_transform.LogitTransform.at_scale_one`.
    """
    part_of = part_of or gathered
    head, transform = model.get_output_embeddings(), logit_transform(model.config)
    temperature, softcap = transform.at_scale_one(temperature)
    bias = getattr(head, "bias", None)
    weight, bias = part_of(head.weight), None if bias is None else part_of(bias)
    if transform.rows is not None and transform.rows < len(head.weight):
        if part_of is own_rows:
            raise ValueError(
                f"kernel.sharded=true with a head of {len(head.weight)} rows of which {transform.rows} are tokens: set "
                "kernel.sharded=false"
            )
        weight, bias = weight[: transform.rows], None if bias is None else bias[: transform.rows]
    return weight, {"bias": bias, "softcap": softcap, "temperature": temperature}


def gathered(weight: Tensor) -> Tensor:
    """A parameter sharded by FSDP2 in whole, gathered once for all the tokens of a pass; any other as it is.

    Its gradient goes back in shards, as the mean over the ranks: each has tokens of its own.
    """
    if not isinstance(weight, DTensor):
        return weight
    return _mean(_on_device(weight).full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim), weight)


def own_rows(weight: Tensor) -> Tensor:
    """This rank's rows of a parameter sharded by FSDP2; a gradient that sums over all ranks' tokens becomes a mean."""
    return _mean(_on_device(weight).to_local(), weight)


def _on_device(weight: DTensor) -> DTensor:
    """Where ranks compute and exchange: shards may lie on the host (`strategy.cpu_offload`)."""
    return weight.to(weight.device_mesh.device_type)


def _mean(part: Tensor, weight: DTensor) -> Tensor:
    if part.requires_grad:
        part.register_hook(lambda gradient: gradient / weight.device_mesh.size())
    return part
