"""Kernels on the GPU with R1LAB_TEST_GPU=1 at full size, elsewhere in Triton's interpreter on small shapes."""

import inspect

import pytest
import torch

pytest.importorskip("triton")


@pytest.fixture(scope="session")
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch, device):
    """In the interpreter, rows of a few blocks although they are short."""
    if device == "cpu":
        from r1lab.kernel import rows

        monkeypatch.setattr(rows, "BLOCK", 64)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What is allocated without a value holds NaN, so that a number nobody wrote is seen."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor):
        return tensor.fill_(True if tensor.dtype == torch.bool else float("nan")) if tensor.numel() else tensor

    def wanted(kwargs):
        return kwargs.get("dtype") in (None, torch.bool) or kwargs["dtype"].is_floating_point

    def made(*args, **kwargs):
        out = empty(*args, **kwargs)
        return poison(out) if wanted(kwargs) else out

    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: poison(empty_like(*args, **kwargs)))


@pytest.fixture
def product_of_the_gpu(monkeypatch):
    """What a GPU of Hopper's kind takes for bfloat16, here in the interpreter for any dtype, in small tiles."""
    from r1lab.kernel import chunks, product

    monkeypatch.setattr(product, "TILE", {"BM": 16, "BN": 64, "BK": 16, "num_warps": 4})
    monkeypatch.setattr(chunks, "pays", lambda hidden, weight: len(hidden) > 0)


@pytest.fixture
def calls(monkeypatch):
    """How often a function of `chunks` is called: calls(owner, its name) -> a list as long as that."""

    def count(owner, name):
        made, function = [], getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: made.append(name) or function(*args, **kwargs))
        return made

    return count


@pytest.fixture(scope="session")
def same_signature():
    """The same parameters, and defaults but for the budget."""

    def check(ours, definition):
        given = [list(inspect.signature(function).parameters.values()) for function in (ours, definition)]
        for mine, theirs in zip(*given, strict=True):
            assert (mine.name, mine.kind, mine.annotation) == (theirs.name, theirs.kind, theirs.annotation)
            assert mine.default == theirs.default or mine.name == "chunk_bytes"

    return check


@pytest.fixture(scope="session")
def assert_close_to_float64():
    """max|fused - ref64| <= 2 max|torch of the same dtype - ref64| + 1e-6 max|ref64|, for each tensor."""

    def check(fused, torch_same, ref64, slack=1e-6):
        assert len(fused) == len(torch_same) == len(ref64)
        for number, (ours, theirs, exact) in enumerate(zip(fused, torch_same, ref64, strict=True)):
            assert ours.shape == exact.shape and ours.isfinite().all(), number
            error, allowed = ((x.double() - exact).abs().max().item() for x in (ours, theirs))
            size = exact.abs().max().item()
            assert error <= 2 * allowed + slack * size, (number, error, allowed, size)

    return check
