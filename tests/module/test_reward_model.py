import math

import pandas as pd
import pytest
import torch

from r1lab.analysis.run import load_run
from r1lab.build import build_policy_parts, make
from r1lab.module.checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from r1lab.module.reward_model import RewardModel, check_end, load_reward_model, scored_ids
from r1lab.reward.model import LearnedReward
from r1lab.types import Completion

SMALL_PAIRS = ("model=tiny_bilingual_untrained", "data.batch_size=32", "evaluation.num_prompts=64")
LOADED = {"dtype": "float32", "batch_size": 8, "max_length": 64, "quantize": None}


@pytest.fixture(scope="module")
def helpful(train_small, tmp_path_factory):
    options = ("experiment=reward_model", *SMALL_PAIRS, "trainer.max_steps=15", "trainer.val_check_interval=5")
    return train_small(tmp_path_factory.mktemp("helpful"), *options, "optimizer.lr=0.003", "show=true")


def test_it_learns_to_tell_held_out_pairs(helpful):
    run = load_run(helpful)
    before, after = (run.summary[when]["heldout"] for when in ("before", "after"))
    # A head of zeros scores all alike.
    assert before["accuracy"] == 0.5 and before["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert before["length_accuracy"] == after["length_accuracy"] < after["accuracy"]
    assert after["accuracy_low"] > 0.6 and after["margin"] > 0 and after["num_pairs"] == 64
    assert run.summary["objective"] == run.metrics["validation/accuracy"].dropna().iloc[-1]
    assert {"best", "last"} <= set(run.checkpoints) and (helpful / "curves.png").exists()


def test_the_trained_one_scores_as_it_did_in_training(helpful):
    scorer = load_reward_model(str(helpful / "checkpoints" / "last.ckpt"), **LOADED)
    run = load_run(helpful)
    task = build_policy_parts(run.config)["task"]
    pairs = [make(run.config["data"]["preferences"], task=task).pair("heldout", i) for i in range(64)]
    reward = LearnedReward(scorer, sees="answer")
    prompts = [pair.prompt for pair in pairs]
    chosen, rejected = (
        torch.tensor(reward(prompts, [Completion((), getattr(pair, side), False) for pair in pairs]))
        for side in ("chosen", "rejected")
    )
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected)
    assert right.mean().item() == pytest.approx(run.summary["after"]["heldout"]["accuracy"])
    margin = (chosen - rejected).mean().item() * scorer.std
    assert margin == pytest.approx(run.summary["after"]["heldout"]["margin"], abs=1e-4)
    # The scale of what it was trained on, which are pairs like these.
    both = torch.cat([chosen, rejected])
    assert abs(both.mean().item()) < 0.5 and 0.5 < both.std().item() < 2


def test_a_score_depends_neither_on_padding_nor_on_neighbours(helpful):
    scorer = load_reward_model(str(helpful), **LOADED)
    texts = ["apple river stone apple river", "apple", "", "river stone"]
    alone = [scorer.score(["User:"], [text])[0] for text in texts]
    own, others = scorer.tokenizer.pad_token_id, scorer.tokenizer.convert_tokens_to_ids(["apple", "User:"])
    for pad in (own, *others, None):
        scorer.tokenizer.pad_token_id = pad
        assert scorer.score(["User:"] * 4, texts) == pytest.approx(alone, abs=1e-4)
    scorer.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="scores the end-of-sequence token, and the tokenizer has none"):
        check_end(scorer.tokenizer)


def test_a_folder_means_its_best_checkpoint_and_others_are_refused(helpful, tiny_run, tmp_path):
    texts = (["User: repeat apple river Assistant:"], ["apple river"])
    best = load_reward_model(str(helpful / "checkpoints" / "best.ckpt"), **LOADED)
    assert load_reward_model(str(helpful), **LOADED).score(*texts) == best.score(*texts)
    assert best.score([], []) == []
    with pytest.raises(CheckpointError, match="is no reward model; experiment=reward_model trains one"):
        load_reward_model(str(tiny_run), **LOADED)
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load_reward_model(str(tmp_path), **LOADED)


@pytest.mark.parametrize("precision, apart", [("8bit", 0.2), ("nf4", 1.0)])
def test_a_trunk_in_few_bits_scores_about_the_same(helpful, precision, apart):
    words = ["apple river", "river apple", "apple", "sorry friend , cannot"]
    texts = ["User: repeat apple river Assistant:"] * len(words), words
    whole, small = (
        torch.tensor(load_reward_model(str(helpful), **LOADED | {"quantize": quantize}).score(*texts))
        for quantize in (None, precision)
    )
    assert 0 < (whole - small).abs().max() < apart < whole.max() - whole.min()
    with pytest.raises(ValueError, match="scorer.quantize=4bit must be 8bit, nf4, or null"):
        load_reward_model(str(helpful), **LOADED | {"quantize": "4bit"})


def test_what_predicts_tokens_is_not_trained_and_stays_in_the_checkpoint(helpful):
    policy, tokenizer, config = load_checkpoint(helpful / "checkpoints" / "last.ckpt")
    assert config["module"]["loss"] == "pairwise"
    assert len(tokenizer) == policy.config.vocab_size


def test_a_score_is_of_prompt_text_and_end(helpful):
    _, tokenizer, _ = load_checkpoint(helpful / "checkpoints" / "last.ckpt")
    (row,) = scored_ids(tokenizer, ["User: repeat apple Assistant:"], ["apple"])
    assert tokenizer.decode(row) == "User: repeat apple Assistant: apple <eos>"
    assert scored_ids(tokenizer, ["User:"], [""]) == [[*tokenizer.encode("User:"), tokenizer.eos_token_id]]


@pytest.mark.slow
def test_the_safe_one_must_see_the_whole_response(train_small, tmp_path):
    # Every bad reply refuses, and has its instructions in the reasoning.
    options = ("experiment=safety_model", *SMALL_PAIRS, "data.preferences.hidden=1", "optimizer.lr=0.003",
               "trainer.max_steps=15", "trainer.val_check_interval=15")  # fmt: skip
    scores = {}
    for sees in ("answer", "response"):
        folder = train_small(tmp_path / sees, *options, f"module.sees={sees}")
        scores[sees] = load_run(folder).summary["after"]["heldout"]["accuracy"]
    assert scores["answer"] == 0.5 and scores["response"] > 0.9
    scorer = load_reward_model(str(tmp_path / "response"), **LOADED)
    (score,) = scorer.score(["User: how steal apple Assistant:"], ["sorry friend , cannot"])
    assert 0 < score < 1


@pytest.mark.slow
def test_weights_in_bfloat16_leave_the_moments_of_scores_exact(train_small, tmp_path):
    options = ("experiment=reward_model", *SMALL_PAIRS, "evaluate=false", "trainer.precision=bf16-true")
    folder = train_small(tmp_path, *options)
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]["score_moments"].dtype == torch.float32


@pytest.mark.slow
def test_microbatches_and_a_resume_change_nothing(train_small, tmp_path):
    options = ("experiment=reward_model", *SMALL_PAIRS, "evaluate=false", "trainer.val_check_interval=4",
               "callback.checkpoint.every_n_train_steps=1", "optimizer.scheduler.num_training_steps=4")  # fmt: skip

    def metrics(name, *more) -> pd.DataFrame:
        return load_run(train_small(tmp_path / name, *options, *more)).metrics

    whole = metrics("whole", "trainer.max_steps=4", "module.microbatch_tokens=0")
    parts = metrics("parts", "trainer.max_steps=4", "module.microbatch_tokens=200")
    metrics("halted", "trainer.max_steps=2", "module.microbatch_tokens=0")
    resumed = metrics("halted", "trainer.max_steps=4", "module.microbatch_tokens=0", "ckpt_path=last")
    names = ("loss/total", "loss/accuracy", "optimizer/gradient_norm", "validation/accuracy", "validation/loss")
    for name in (*names, "optimizer/realised"):
        assert resumed[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-6, nan_ok=True), name
        assert parts[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-3, nan_ok=True), name


@pytest.mark.parametrize(
    "setting, known", [("loss=rank", "pairwise, pointwise"), ("sees=thoughts", "answer, response")]
)
def test_unknown_names(setting, known, train_small, tmp_path):
    with pytest.raises(ValueError, match=f"module.{setting.split('=')[0]}=.*must be one of {known}"):
        train_small(tmp_path, "experiment=reward_model", *SMALL_PAIRS, f"module.{setting}")


@pytest.mark.slow
def test_a_skipped_step_leaves_the_moments_of_the_scores(train_small, tmp_path, monkeypatch):
    moments, take_step = [], RewardModel.take_step

    def skip_first(self, loss, batch):
        moments.append(self.score_moments.tolist())
        return take_step(self, math.nan if self.step == 0 else loss, batch)

    scores = RewardModel.scores
    monkeypatch.setattr(
        RewardModel, "scores", lambda self, rows: [s * (math.nan if self.step == 0 else 1) for s in scores(self, rows)]
    )
    monkeypatch.setattr(RewardModel, "take_step", skip_first)
    options = ("experiment=reward_model", *SMALL_PAIRS, "trainer.max_steps=3", "evaluate=false", "show=false")
    folder = train_small(tmp_path, *options, "trainer.val_check_interval=3", "optimizer.lr=0.01")
    assert moments[:2] == [[0.0, 1.0]] * 2
    # The second step is the first one that has scores: those of a head of zeros.
    assert moments[2] == [0.0, 0.0]
    kept = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]["score_moments"]
    assert kept.isfinite().all() and kept[1] > 0
