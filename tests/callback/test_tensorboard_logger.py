import pytest

from r1lab.callback.tensorboard_logger import TensorBoard

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402


def test_a_resumed_run_shows_each_step_once(tmp_path):
    for steps, value in ((range(1, 6), 0.0), (range(4, 8), 1.0)):  # the second goes on from the checkpoint of step 3
        logger = TensorBoard(save_dir=tmp_path, name="tensorboard", version="")
        for step in steps:
            logger.log_metrics({"loss/total": value}, step)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert shown == [(1, 0.0), (2, 0.0), (3, 0.0), (4, 1.0), (5, 1.0), (6, 1.0), (7, 1.0)]
