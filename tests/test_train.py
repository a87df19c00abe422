import json
import shutil

import pytest

from r1lab.run_folder import read_summary, write_summary


def test_killed_behind_the_last_step_it_still_knows_its_objective(tiny_run, train_small, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    path = folder / "summary.json"
    finished = json.loads(path.read_text())
    left = {key: value for key, value in finished.items() if key not in ("after", "objective")}
    path.write_text(json.dumps(left | {"status": "running"}))

    train_small(folder, "ckpt_path=last", "objective=validation/completion_length", "callback.samples.shown=0")
    summary = json.loads(path.read_text())
    assert summary["status"] == "finished" and summary["steps"] == 2
    # Measured in the step before the kill, and in no step since.
    last = (folder / "metrics.csv").read_text().splitlines()
    column = last[0].split(",").index("validation/completion_length")
    assert summary["objective"] == pytest.approx(float(last[-1].split(",")[column]))
    assert (summary["before"], summary["after"]) == (finished["before"], finished["after"])


def test_a_run_goes_on_with_its_own_settings_alone(tiny_run, train_small, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    with pytest.raises(ValueError, match="other settings .loss.beta was 0.001, not 0.5"):
        train_small(folder, "ckpt_path=last", "loss.beta=0.5", "callback.samples.shown=0")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(train_small, tmp_path):
    write_summary(tmp_path, {"status": "running"})
    train_small(tmp_path, "ckpt_path=last", "evaluate=false", "callback.samples.shown=0")
    assert read_summary(tmp_path)["status"] == "finished"
