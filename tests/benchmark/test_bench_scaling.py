"""The parts of bench_scaling that need no ranks; the slow test has two of them, by gloo."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from r1lab.model.policy import new_policy
from tests.benchmark import bench_scaling
from tests.benchmark.bench_head import append
from tests.benchmark.bench_scaling import asked, chosen, configurations, efficiency, missed, parsed
from tests.benchmark.scaling_checks import difference
from tests.benchmark.scaling_figure import last_rows, plot
from tests.benchmark.scaling_runs import (
    GATHERED,
    SHAPES,
    Configuration,
    Settings,
    figures,
    fits,
    largest,
    overrides,
    planned,
    reason,
)
from tests.benchmark.scaling_weights import repeated

GIB = 2**30
SETTINGS = Settings("cuda", 8, "bf16-mixed", 100.0)
SFT = Configuration("145m", "sft", "fsdp2", "", 2)
GRPO = Configuration("145m", "grpo", "fsdp2", "cpu", 4)
ROW = {
    "commit": "abc",
    "device": "H100",
    "torch": "2.11",
    "transformers": "5.17",
    "lightning": "2.6",
    "precision": "bf16-mixed",
    "steps": 10,
    "given": "",
    "model": "145m",
    "task": "sft",
    "strategy": "fsdp2",
    "reference": "",
    "gpus": 1,
    "tokens_per_second": 100.0,
    "planned_mib": 1000.0,
    "measured_mib": 900.0,
    "losses": "4.0 3.5 3.2",
}


def test_one_rank_comes_first_and_references_are_grpos():
    args = parsed(["--dry-run", "--gpus", "4", "1", "--strategies", "fsdp2"])
    found = [(c.task, c.reference, c.gpus) for c in configurations(args, args.gpus)]
    expected = [("sft", ""), ("grpo", "sharded"), ("grpo", "cpu")]
    assert found == [(task, reference, n) for task, reference in expected for n in (1, 4)]


def test_work_grows_with_the_ranks_unless_it_is_shared():
    told = overrides(GRPO, SETTINGS)
    assert {"rollout.batch_size=1024", "trainer.devices=4", "strategy.reference_on_cpu=true"} <= set(told)
    assert "rollout.batch_size=256" in overrides(GRPO, SETTINGS, share=1)
    assert {"data.batch_size=1024", "strategy.param_dtype=bfloat16"} <= set(overrides(SFT, SETTINGS))
    full = overrides(SFT, replace(SETTINGS, precision="32-true", given=("seed=3",)))
    assert full[-1] == "seed=3" and not any("param_dtype" in option for option in full)
    gathered = set(overrides(SFT, replace(SETTINGS, precision=GATHERED)))
    assert {"trainer.precision=32-true", "strategy.param_dtype=bfloat16"} <= gathered


def test_a_plan_leaves_no_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planned(replace(SFT, model="tiny"), SETTINGS).parameters
    assert not list(tmp_path.iterdir())


def test_a_plan_is_of_the_runs_own_settings():
    two, four = planned(SFT, SETTINGS), planned(replace(SFT, gpus=4), SETTINGS)
    # Beside the policy every rank makes the layer more of multi-token prediction.
    assert two.parameters == 145_219_584 and 1.1 < two.host / (2 * 4 * two.parameters) < 1.3
    # Shards are halved, activations are the same.
    assert two.plan.held["optimizer"] == pytest.approx(2 * four.plan.held["optimizer"], rel=0.01)
    assert two.plan.phases["update"]["activations"] == four.plan.phases["update"]["activations"]


@pytest.mark.slow
def test_the_largest_shape_fits_and_the_next_does_not():
    names = list(SHAPES)
    bounds = 16 * GIB, 1e15
    found = largest(SFT, SETTINGS, *bounds)
    following = names[names.index(found) + 1]
    assert fits(planned(replace(SFT, model=found), SETTINGS), *bounds)
    assert not fits(planned(replace(SFT, model=following), SETTINGS), *bounds)
    assert largest(SFT, SETTINGS, GIB / 4, 1e15) is None
    # Every rank makes whole models on the host.
    assert largest(SFT, SETTINGS, 1e15, 3 * GIB) == "145m"


@pytest.mark.parametrize("name", SHAPES)
def test_experts_of_a_shape_divide_into_groups(name):
    shape = SHAPES[name].config
    assert shape.get("n_routed_experts", 32) % 4 == 0 and shape.get("hidden_size", 512) % 64 == 0


def test_efficiency_is_of_one_rank_of_the_same_run():
    others = pd.DataFrame([ROW, ROW | {"gpus": 2}, ROW | {"commit": "old", "tokens_per_second": 1.0}])
    assert efficiency(ROW | {"gpus": 4, "tokens_per_second": 380.0}, others) == 0.95
    assert efficiency(ROW, others) == 1.0
    assert efficiency(ROW | {"gpus": 2, "strategy": "fsdp"}, others) == ""
    assert efficiency(ROW | {"gpus": 2}, pd.DataFrame()) == ""
    assert efficiency(ROW | {"gpus": 2, "given": "data.batch_size=8"}, others) == ""


def test_auto_is_one_shape_for_all_ranks(monkeypatch):
    few, many = (replace(SFT, model=name, gpus=8) for name in ("auto", "each"))
    monkeypatch.setattr(bench_scaling, "largest", lambda configuration, *_: f"of {configuration.gpus}")
    assert chosen(few, SETTINGS, 1.0, 1.0, 2).model == "of 2" and chosen(many, SETTINGS, 1.0, 1.0, 2).model == "of 8"
    assert chosen(SFT, SETTINGS, 1.0, 1.0, 1) == SFT


def test_what_is_missed_is_said():
    nothing = {"efficiency": "", "ratio": ""}
    assert missed({"efficiency": 0.93, "ratio": 1.1}, compared=True) == missed(nothing, compared=False) == []
    assert len(missed({"efficiency": 0.8, "ratio": 0.7}, compared=True)) == 2
    assert missed(nothing, compared=True) == ["there is no run of one rank to compare with"]


def test_figures_leave_out_the_first_and_the_last_steps():
    steps = pd.DataFrame({"step": range(1, 8), "time/step_seconds": [9.0, 9, 1, 2, 4, 9, 9], "loss/tokens": 100.0})
    steps["loss/total"], steps["memory/peak_mib"] = 3.0, range(7)
    steps["communication/share"] = [None] * 6 + [0.25]
    run = type("Run", (), {"metrics": steps, "summary": {"train_seconds": 43.0}, "config": {}})
    found = figures(run, "sft")
    assert (found["step_seconds_p50"], found["timed_steps"], found["tokens_per_step"]) == (2.0, 3, 100)
    assert found["step_seconds"] == "9 9 1 2 4 9 9"
    assert found["tokens_per_second"] == round(300 / 7, 1) and found["update_seconds_p50"] == ""
    assert (found["communication_share"], found["communication_exposed"], found["measured_mib"]) == (0.25, "", 6.0)


def test_columns_that_are_new_are_empty_above(tmp_path):
    path = tmp_path / "rows.csv"
    for row in ({"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "c": 6, "b": 7}, {"a": 8, "b": 9, "c": 10}):
        append([row], path)
    assert path.read_text() == "a,b,c\n1,2,\n3,4,\n5,7,6\n8,9,10\n"


def test_losses_are_compared_step_by_step():
    expected = pd.DataFrame({"step": [1, 2, 3], "loss/total": [2.0, 1.0, 1.5], "optimizer/gradient_norm": 1.0})
    later = expected.iloc[1:]
    assert difference(later, expected, "sft").equal
    for name, by in (("loss/total", 5e-3), ("optimizer/gradient_norm", 0.02)):
        apart = difference(later.assign(**{name: later[name] + by}), expected, "sft")
        assert not apart.equal and apart.of[name] == pytest.approx(by / expected[name].max())
    assert not difference(expected, later, "sft").equal  # a step that the other has not
    assert not difference(expected.iloc[:0], expected, "sft").equal
    assert not difference(pd.concat([later, later]), expected, "sft").equal
    still = expected.assign(**{"optimizer/gradient_norm": 0.0})
    assert not difference(still, still, "sft").equal  # nothing is shown by a step that does nothing


def test_a_policy_that_does_not_learn_is_told_from_one_that_does():
    steps = {"step": [1, 2, 3], "optimizer/gradient_norm": 1.0}
    expected = pd.DataFrame(steps | {"loss/kl": [0.0, 1e-3, 4e-3], "loss/total": [0.0, 1e-6, 4e-6]})
    assert difference(expected, expected, "grpo").equal
    still = difference(expected.assign(**{"loss/kl": 0.0, "loss/total": 0.0}), expected, "grpo")
    assert not still.equal and still.row["kl_difference"] == "1"
    assert not difference(expected.assign(**{"loss/total": 0.0}), expected, "grpo").equal


def test_the_reason_is_the_first_failures():
    text = """error: another rank is gone
    Failures:
    [1]:
      rank      : 0 (local_rank: 0)
      exitcode  : 1 (pid: 1)
    Root Cause (first observed failure):
    [0]:
      rank      : 1 (local_rank: 1)
      exitcode  : -9 (pid: 2)
      traceback : Signal 9 (SIGKILL) received by PID 2
    """
    expected = "rank : 1 (local_rank: 1); exitcode : -9 (pid: 2); traceback : Signal 9 (SIGKILL) received by PID 2"
    assert reason(text) == f"error: another rank is gone; {expected}"
    assert reason("one\n\ntwo\n") == "one; two"


def test_the_last_runs_rows_are_drawn(tmp_path):
    rows = [ROW | {"commit": "old"}, ROW, ROW | {"gpus": 2, "measured_mib": ""}, ROW | {"tokens_per_second": 110.0}]
    own = last_rows(pd.DataFrame(rows))
    assert own["tokens_per_second"].tolist() == [100.0, 110.0] and own["gpus"].tolist() == [2, 1]
    # Tasks may have been run at different commits.
    other = [ROW | {"task": "grpo", "commit": commit} for commit in ("older", "other")]
    assert last_rows(pd.DataFrame([*other, *rows]))["commit"].tolist() == ["other", "abc", "abc"]
    plot(own, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_too_few_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        parsed(["--dry-run", "--steps", "4"])
    assert "--steps must be above 4" in capsys.readouterr().err


def test_what_cannot_be_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_scaling, "gpu_bytes", lambda: None)
    (tmp_path / "file").touch()
    cpu = ["--device", "cpu", "--output", str(tmp_path)]
    for told, message in (
        ([], "there is no GPU; --device cpu"),
        (["--timeout", "0"], "--timeout must be a number above 0"),
        (["--timeout", "nan"], "--timeout must be a number above 0"),
        (["--dry-run", "--device", "cpu"], "leave out --device cpu"),
        ([*cpu, "--gpus", "2", "--kill", "2"], "--kill RANK must be below the largest of --gpus, got 2"),
        ([*cpu, "--strategies", "fsdp"], "--strategies fsdp needs GPUs; on a CPU take fsdp2"),
        ([*cpu, "--runs", str(tmp_path)], "is no empty folder: give another"),
        (["--device", "cpu", "--output", str(tmp_path / "file")], "file cannot be written (File exists)"),
    ):
        with pytest.raises(SystemExit):
            parsed(told)
        assert message in capsys.readouterr().err


def test_a_check_of_rank_0_is_one(tmp_path):
    cpu = ["--device", "cpu", "--gpus", "2", "--output", str(tmp_path)]
    for told, checks in (
        ([], []),
        (["--kill", "0"], ["kill"]),
        (["--kill"], ["kill"]),
        (["--resume", "--losses"], ["losses", "resume"]),
    ):
        assert asked(parsed([*cpu, *told])) == checks


def test_more_ranks_than_gpus_are_left_out(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_scaling, "gpu_bytes", lambda: 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(bench_scaling, "check_all", lambda args, settings, gpus, folder: [f"of {gpus}"])
    for told, said in (([], "of [1, 2]"), (["--device", "cpu", "--gpus", "4"], "of [4]")):
        monkeypatch.setattr("sys.argv", ["bench_scaling", "--losses", "--output", str(tmp_path), *told])
        with pytest.raises(SystemExit):
            bench_scaling.main()
        shown = capsys.readouterr().out
        assert said in shown and ("this machine has 2: 4, 8 left out" in shown) == (not told)


@pytest.mark.slow
def test_two_gloo_ranks_are_measured_and_checked(tmp_path, monkeypatch, capsys):
    common = ["bench_scaling", "--device", "cpu", "--tasks", "sft", "--strategies", "fsdp2", "--output", str(tmp_path)]
    for own in (
        ["--gpus", "1", "2", "--steps", "5"],
        ["--gpus", "2", "--losses", "--kill"],
        ["--gpus", "2", "--kill", "0"],
    ):
        monkeypatch.setattr("sys.argv", [*common, *own])
        bench_scaling.main()
    shown = capsys.readouterr().out
    assert "ranks: passed" in shown
    rows = pd.read_csv(tmp_path / "bench_scaling.csv")
    assert rows["gpus"].tolist() == [1, 2] and (
        rows["communication_share"].iloc[1] > rows["communication_share"].iloc[0]
    )
    assert (tmp_path / "bench_scaling.png").exists()
    checks = pd.read_csv(tmp_path / "bench_scaling_checks.csv")
    assert checks["check"].tolist() == ["losses", "kill", "kill"] and checks["passed"].all()
    for rank, (_, row) in zip((1, 0), checks.iloc[1:].iterrows(), strict=True):
        assert row["seconds"] < 60 and "SIGKILL" in row["message"] and f"rank {rank} killed" in row["against"]


def test_weights_for_timing_are_a_models():
    config = {"model_type": "deepseek_v3", "vocab_size": 128, "hidden_size": 128, "intermediate_size": 96}
    config |= {"moe_intermediate_size": 48, "num_hidden_layers": 2, "first_k_dense_replace": 1}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16}
    config |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 2}
    config |= {"topk_group": 1, "num_experts_per_tok": 2, "pad_token_id": 0, "initializer_range": 0.02}
    model, plain = repeated(config, seed=0), new_policy(config, seed=0)
    assert {name: p.shape for name, p in model.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    for (name, own), (_, other) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(own, other), name
    for name, own in model.named_parameters():
        other = plain.get_parameter(name)
        assert own.std().item() == pytest.approx(other.std().item(), rel=0.1), name
        assert own.mean().item() == pytest.approx(other.mean().item(), abs=0.1 / own.numel() ** 0.5), name
    ids = torch.arange(2, 30)[None]
    assert model(ids).logits.std().item() == pytest.approx(plain(ids).logits.std().item(), rel=0.3)
    assert torch.equal(model(ids).logits, repeated(config, seed=0)(ids).logits)
