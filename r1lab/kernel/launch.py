"""Launches of the same kernel again and again, without what Triton does anew for each."""

from typing import Any


class Repeated:
    """A kernel that one pass launches for chunk after chunk: compiled or found at the first, then only launched.

    Triton looks at every argument of every launch to find what it compiled for such arguments. With twenty of them
    that takes the host as long as a small chunk takes the GPU. Here the first launch's arguments stand for the later
    ones': constants are the same, tensors have the dtypes and the alignment they had, and integers that differ are
    those that the kernel does not specialise on. Arguments are given in the kernel's order, all of them.
    """

    def __init__(self, kernel: Any, **options: Any):
        self.kernel, self.options, self.compiled = kernel, options, None

    def __call__(self, blocks: int, *arguments: Any) -> None:
        if self.compiled is None:
            # None in the interpreter, which compiles nothing.
            self.compiled = self.kernel[(blocks,)](*arguments, **self.options)
        else:
            self.compiled[(blocks, 1, 1)](*arguments)
