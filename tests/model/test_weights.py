import pytest
import torch
from transformers import AutoConfig

from r1lab.model.fake import meta_model
from r1lab.model.weights import Weight, counted, optimizer_bytes, total, weights_of

MATRIX = Weight("w", (256, 64, 32), torch.bfloat16, 0, True)


def test_deepseek_v3_has_671_billion_parameters_37_of_them_active():
    # 2412.19437, section 4.2; transformers' default config is the model's.
    model = meta_model(AutoConfig.for_model("deepseek_v3"), torch.bfloat16)
    held, active = counted(model)
    assert held / 1e9 == pytest.approx(671.0, abs=0.1)
    assert active / 1e9 == pytest.approx(37, abs=0.6)
    weights = weights_of(model)
    assert total(w for w in weights if w.parameter) == 2 * held
    assert {w.layer for w in weights} == {None, *range(61)}


def test_shards_are_whole_rows_or_cut_anywhere():
    assert MATRIX.nbytes == 2 * 256 * 64 * 32
    assert MATRIX.shard(8, flat=False).nbytes == MATRIX.nbytes // 8
    # Over 256 ranks, rows are no more than one, and the rest have none.
    assert MATRIX.shard(1024, flat=False).nbytes == MATRIX.nbytes // 256
    assert MATRIX.shard(1024, flat=True).nbytes == MATRIX.nbytes // 1024
    assert Weight("w", (10,), torch.float32, None, True).shard(4, flat=False).shape == (3,)
    buffer = Weight("b", (10,), torch.float32, None, False)
    assert buffer.shard(4, flat=False) == buffer


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdamW", {}), ("Adam", {}), ("Adagrad", {}), ("SGD", {}), ("SGD", {"momentum": 0.9}), ("RAdam", {})],
)
def test_state_is_what_torch_makes(name, options):
    real = [torch.nn.Parameter(torch.zeros(64, 80)), torch.nn.Parameter(torch.zeros(7))]
    optimizer = getattr(torch.optim, name)(real, lr=0.1, **options)
    for p in real:
        p.grad = torch.ones_like(p)
    optimizer.step()
    held = sum(x.nbytes for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor))
    weights = [Weight("w", tuple(p.shape), p.dtype, None, True) for p in real]
    assert optimizer_bytes(name, weights, momentum="momentum" in options).state == held


@pytest.mark.parametrize("name", ["AdamW8bit", "AdamW32bit", "Lion8bit", "Adam8bit"])
def test_state_is_what_bitsandbytes_makes(name):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    real = [torch.nn.Parameter(torch.zeros(64, 80)), torch.nn.Parameter(torch.zeros(7))]
    if name == "AdamW32bit":
        optimizer = bitsandbytes.optim.AdamW32bit(real, lr=0.1)
    else:
        optimizer = getattr(bitsandbytes.optim, name)(real, lr=0.1)
    for p in real:
        p.grad = torch.ones_like(p)
    optimizer.step()
    tensors = [x for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor)]
    held = sum({x.data_ptr(): x.nbytes for x in tensors}.values())
    weights = [Weight("w", tuple(p.shape), p.dtype, None, True) for p in real]
    assert optimizer_bytes(name, weights).state == held


def test_a_paged_optimizer_is_on_the_host_but_for_small_tensors():
    small = Weight("b", (64,), torch.float32, None, True)
    found = optimizer_bytes("PagedAdamW32bit", [MATRIX, small])
    assert found.host == 8 * MATRIX.numel and found.state == 8 * 64


def test_a_step_of_adam_holds_the_roots_of_its_second_moments():
    assert optimizer_bytes("AdamW", [MATRIX]).step == MATRIX.nbytes
    assert optimizer_bytes("AdamW8bit", [MATRIX]).step == optimizer_bytes("SGD", [MATRIX]).step == 0


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="state of Adafactor is not known"):
        optimizer_bytes("Adafactor", [MATRIX])
