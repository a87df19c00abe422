"""The strategies under which every process holds the whole model."""

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy


def single(*, devices: int | str | list[int], num_nodes: int, **_: object) -> str:
    """One process. Raises ValueError for more than one device."""
    count = len(devices) if isinstance(devices, list) else devices
    if str(count) in ("auto", "-1"):
        count = torch.cuda.device_count()
    if num_nodes > 1 or int(count) > 1:
        raise ValueError(
            f"strategy=single is one process, and there are trainer.devices={devices} and trainer.num_nodes="
            f"{num_nodes}: take strategy=ddp, or fsdp2, which shards the model"
        )
    return "auto"


def ddp(**_: object) -> Strategy:
    """A copy of the model in each process, gradients averaged; Lightning's own."""
    return DDPStrategy()
