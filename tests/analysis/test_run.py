import json

import pytest

from r1lab.analysis.run import load_run


def test_reads_what_is_there(tmp_path):
    (tmp_path / "config.yaml").write_text("name: r1zero\nloss: {beta: 0.001}\n")
    (tmp_path / "metrics.csv").write_text("step,a,b\n1,0.5,\n2,0.25,3.0\n")
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished"}))
    (tmp_path / "samples.jsonl").write_text('{"step": 1, "completion": "a\\u2028b"}\n{"step": 2}\n')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    (tmp_path / "checkpoints/.last.ckpt.7.tmp").write_bytes(b"")
    run = load_run(tmp_path)
    assert run.config["loss"]["beta"] == 0.001
    assert run.metrics["step"].tolist() == [1, 2] and run.metrics["b"].isna().tolist() == [True, False]
    assert run.summary == {"status": "finished"}
    assert [s["step"] for s in run.samples] == [1, 2]
    assert run.checkpoints == {"last": tmp_path / "checkpoints/last.ckpt"}


def test_a_killed_run_loads_without_its_torn_lines(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a\n1,0.5\n2,0.2")
    (tmp_path / "samples.jsonl").write_text('{"step": 1}\n{"step": ')
    run = load_run(tmp_path)
    assert run.metrics["a"].tolist() == [0.5]
    assert run.samples == [{"step": 1}]
    assert run.config == {} and run.summary == {} and run.checkpoints == {}


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.yaml").write_text("name: r1zero\n")
    assert load_run(tmp_path).metrics.columns.tolist() == ["step"]


def test_no_run_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        load_run(tmp_path)
