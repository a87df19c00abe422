from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from r1lab.analysis.run import load_run
from r1lab.callback.communication import Communication, covered, shares, spans

# The small runs of tests set what the default choice has.
OPTIONS = (
    "callback=[communication,default]",
    "callback.communication.steps=1",
    "callback.samples.shown=0",
    "evaluate=false",
)


def event(name, start, end, device=DeviceType.CUDA, annotation=False):
    """Of kineto, with microseconds."""
    values = {"name": name, "start_ns": 1000 * start, "duration_ns": 1000 * (end - start)}
    values |= {"device_type": device, "is_user_annotation": annotation}
    return SimpleNamespace(**{key: lambda value=value: value for key, value in values.items()})


def test_what_overlaps_counts_once():
    assert covered([]) == 0
    assert covered([(5, 7), (0, 3), (2, 4), (3, 3.5)]) == 6


def test_time_is_shared_out():
    # Of 10 microseconds collectives have 0-4 and 6-8, a kernel 3-7: 0-3 and 7-8 are theirs alone.
    found = shares([(0, 4), (6, 8)], [(3, 7)], 10e-6)
    assert found == {"share": pytest.approx(0.6), "exposed": pytest.approx(0.4)}
    assert shares([], [(3, 7)], 10e-6) == {"share": 0, "exposed": 0}


def test_collectives_are_told_from_the_rest():
    events = [
        event("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 0, 4),
        event("nccl:_all_gather_base", 0, 9, annotation=True),
        event("void at::native::elementwise_kernel", 2, 5),
        event("aten::mm", 0, 9, device=DeviceType.CPU),
        event("cudaLaunchKernel", 0, 1, device=DeviceType.CPU),
        event("gloo:all_reduce", 6, 7, device=DeviceType.CPU, annotation=True),
    ]
    assert spans(events) == ([(0, 4), (6, 7)], [(2, 5)])


def test_one_process_has_none(train_small, tmp_path):
    run = load_run(train_small(tmp_path, *OPTIONS))
    assert run.metrics["communication/share"].isna().tolist() == [True, False]
    assert run.metrics["communication/share"].iloc[-1] == 0
    assert "communication/exposed" not in run.metrics


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="callback.communication.steps must be at least 1, got 0"):
        Communication(steps=0)
