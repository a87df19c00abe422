"""AdamW with its two moments in 8 bits (Dettmers et al., 2110.02861), by bitsandbytes.

Moments are quantised in blocks of 256: about 2 bytes a parameter in the place of AdamW's 8. Those of a parameter with
fewer than 4096 elements stay in float32, as bitsandbytes has them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from r1lab.model.quantize import bitsandbytes


def adamw_8bit(*, paged: bool, **options: Any) -> Callable[..., torch.optim.Optimizer]:
    """parameters -> optimizer.

    Args:
        paged: moments of parameters from 100,000 elements on lie in memory that CUDA moves between the GPU and the
            host, a page at a time, as there is room: what runs out of memory in a peak otherwise, goes through.
        options: of AdamW: lr, betas, weight_decay.

    Raises:
        ImportError: without bitsandbytes.
        ValueError: paged without a CUDA GPU.
    """
    name = "adamw_8bit_paged" if paged else "adamw_8bit"
    package = bitsandbytes(f"optimizer={name}")
    if paged and not torch.cuda.is_available():
        raise ValueError(f"optimizer={name} pages the memory of a CUDA GPU, and there is none: take adamw_8bit")
    return partial(_paged(package.optim.PagedAdamW8bit) if paged else package.optim.AdamW8bit, **options)


def _paged(base: type) -> type:
    class PagedAdamW8bit(base):
        """bitsandbytes' own loads a checkpoint's moments into ordinary memory; here they are paged again."""

        def to_gpu(self) -> None:  # bitsandbytes calls it once, in the first step
            super().to_gpu()
            for p, state in self.state.items():
                for name in ("state1", "state2"):
                    if p.is_cuda and name in state and not getattr(state[name], "is_paged", False):
                        # Paged where it is large; copied in place, since a result of copy_ would not know that it is.
                        buffer = self.get_state_buffer(p, dtype=state[name].dtype)
                        buffer.copy_(state[name])
                        state[name] = buffer

    return PagedAdamW8bit
