from types import SimpleNamespace

import pytest
import torch

from r1lab.callback.expert_load import ExpertLoad


def module(step: int, load: list[list[float]] | None) -> SimpleNamespace:
    return SimpleNamespace(step=step, routing=load and SimpleNamespace(latest=torch.tensor(load)))


TRAINER = SimpleNamespace(is_global_zero=True)


def test_a_line_a_written_step_and_layer(tmp_path):
    callback = ExpertLoad(tmp_path / "expert_load.csv", every=2)
    callback.on_train_start(TRAINER, module(0, None))
    for step in (1, 2, 3, 4):
        callback.on_train_batch_end(TRAINER, module(step, [[1.0, 3.0], [2.0, 2.0]]))
    lines = (tmp_path / "expert_load.csv").read_text().splitlines()
    assert lines == ["step,layer,expert_0,expert_1", "2,0,0.5,1.5", "2,1,1,1", "4,0,0.5,1.5", "4,1,1,1"]
    # Another process goes on from step 3.
    again = ExpertLoad(tmp_path / "expert_load.csv", every=2)
    again.on_train_start(TRAINER, module(3, None))
    assert (tmp_path / "expert_load.csv").read_text().splitlines() == lines[:3]


def test_no_file_without_routers(tmp_path):
    callback = ExpertLoad(tmp_path / "expert_load.csv", every=1)
    callback.on_train_batch_end(TRAINER, module(1, None))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="every must be at least 1"):
        ExpertLoad(tmp_path / "x", every=0)
