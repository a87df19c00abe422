from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from r1lab.analysis.run import load_run
from r1lab.build import policy_maker
from r1lab.entry import plain
from r1lab.model.policy import new_policy
from r1lab.module.checkpoint import read_checkpoint
from r1lab.module.distill import MODES
from r1lab.module.logprobs import counted_hidden
from r1lab.rollout.collate import collate
from tests.conftest import compose_run
from tests.module.head_model import HeadModel

QUIET = ("evaluate=false", "callback.samples.shown=0", "data.validation_prompts=2")
# Of another seed than the teacher, which two steps of RL without a right answer left where it was.
ALONE = (*QUIET, "experiment=distill", "data.batch_size=4", "seed=2")


@pytest.fixture
def taught(train_small, tiny_run, teacher_samples, tmp_path):
    """taught(*overrides): the run of a student with the teacher, or without, and its samples at hand."""

    def run(*overrides, teacher=True):
        given = [f"module.teacher.name={tiny_run}"] * teacher + [
            f"data.folder={teacher_samples}",
            "~data.filters.correct",
        ]
        return load_run(train_small(tmp_path / str(teacher), *ALONE, *given, *overrides))

    return run


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            ("module.mode=forward_kl", "module.student_fraction=0", "module.sft_weight=0.1"), marks=pytest.mark.slow
        ),
        ("module.mode=jsd", "module.student_fraction=0.5", "module.temperature=2", "module.teacher_temperature=0.5"),
        pytest.param(("module.mode=top_k", "module.k=3", "module.tail=false"), marks=pytest.mark.slow),
        pytest.param(
            (
                "module.mode=sampled",
                "module.num_draws=3",
                "module.proposal_temperature=1.5",
                "module.microbatch_tokens=20",
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_modes_and_who_samples(taught, overrides):
    run = taught(*overrides)
    metrics, fraction = run.metrics, 1.0
    for word in overrides:
        fraction = float(word.split("=")[1]) if "student_fraction" in word else fraction
    assert run.summary["status"] == "finished" and run.summary["flops"]["scoring"] > 0
    assert ("loss/data" in metrics, "loss/student" in metrics) == (fraction < 1, fraction > 0)
    assert ("loss/sft" in metrics) == any("sft_weight" in word for word in overrides)
    assert metrics["optimizer/gradient_norm"].gt(1e-4).all() and metrics["memory/teacher_mib"].gt(1).all()
    mixed = sum(
        share * metrics[f"loss/{name}"] for name, share in (("data", 1 - fraction), ("student", fraction)) if share
    )
    mixed = mixed + 0.1 * metrics["loss/sft"] if "loss/sft" in metrics else mixed
    assert metrics["loss/total"].tolist() == pytest.approx(mixed.tolist(), rel=1e-4)


@pytest.mark.slow
def test_stored_logprobs_are_the_teachers_own(taught):
    """What was written beforehand and what the teacher says in process are the same, step by step."""
    alike = ("module.mode=top_k", "module.student_fraction=0", "module.k=3")
    stored, asked = (taught(*alike, teacher=teacher).metrics for teacher in (False, True))
    assert stored["memory/teacher_mib"].eq(0).all() and asked["memory/teacher_mib"].gt(1).all()
    assert stored["loss/data"].tolist() == pytest.approx(asked["loss/data"].tolist(), rel=1e-4)


@pytest.mark.slow
def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(train_small, tiny_run, tmp_path):
    train_small(tmp_path, *ALONE, f"module.teacher.name={tiny_run}")
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert state["state_dict"] and all(name.startswith("policy.") for name in state["state_dict"])
    assert state["r1lab"]["teacher_tokens"] > 0
    # As many states as the policy has parameters.
    policy = [name for name in state["state_dict"] if not name.endswith(("lm_head.weight", "e_score_correction_bias"))]
    assert len(state["optimizer_states"][0]["state"]) == len(policy)


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(train_small, tiny_run, teacher_samples, tmp_path):
    given = (f"module.teacher.name={tiny_run}", f"data.folder={teacher_samples}", "~data.filters.correct")
    mixed = ("module.mode=sampled", "module.student_fraction=0.5", "trainer.val_check_interval=1")
    whole = load_run(train_small(tmp_path / "whole", *ALONE, *given, *mixed, "trainer.max_steps=3"))
    train_small(tmp_path / "parts", *ALONE, *given, *mixed, "trainer.max_steps=1")
    parts = load_run(
        train_small(tmp_path / "parts", *ALONE, *given, *mixed, "trainer.max_steps=3", "ckpt_path=last")
    )  # fmt: skip
    same = [name for name in whole.metrics if not name.startswith(("time/", "memory/")) and "seconds" not in name]
    pd.testing.assert_frame_equal(parts.metrics[same], whole.metrics[same], rtol=1e-5)
    assert parts.summary["flops"] == whole.summary["flops"]


@pytest.mark.slow
def test_microbatches_change_nothing(train_small, tiny_run, teacher_samples, tmp_path):
    common = (*ALONE, f"module.teacher.name={tiny_run}", f"data.folder={teacher_samples}", "~data.filters.correct")
    options = ("module.mode=jsd", "module.student_fraction=0.5", "kernel=torch")
    whole, split = (
        load_run(train_small(tmp_path / str(n), *common, *options, f"module.microbatch_tokens={n}")).metrics
        for n in (0, 15)
    )
    for name in ("loss/total", "optimizer/gradient_norm"):
        assert split[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-3), name


def save_model(folder: Path, *, words: int) -> Path:
    """A Hugging Face folder of an untrained model with the tiny tokenizer, or one with a word more."""
    from r1lab.model.tiny import word_tokenizer

    config = {"model_type": "llama", "vocab_size": 121 + words, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    new_policy({**config, **heads}, seed=0).save_pretrained(folder)
    word_tokenizer([str(n) for n in range(113 + words)]).save_pretrained(folder)
    return folder


def test_a_teacher_with_other_tokens_is_refused_but_for_its_samples(train_small, tmp_path):
    other = save_model(tmp_path / "other", words=1)
    with pytest.raises(ValueError, match=r"module.teacher.name=.*other has another tokenizer .* module.mode=sft"):
        train_small(tmp_path / "run", *ALONE, f"module.teacher.name={other}")
    with pytest.raises(ValueError, match="has another tokenizer"):
        train_small(tmp_path / "opd", "experiment=opd", *QUIET, f"module.teacher.name={other}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("module.mode=kl",), f"is not one of {', '.join(MODES)}"),
        (("module.mode=sft",), "module.student_fraction=1.0 some would be the student's own: set it to 0"),
        (("module.mode=forward_kl",), "set module.teacher.name to a checkpoint"),
        (("module.mode=top_k",), "mode=top_k on stored logprobs with student_fraction=0"),
        (("module.mode=top_k", "module.student_fraction=0"), "set data.folder"),
        (("module.student_fraction=1.5",), r"within \[0, 1\]"),
        (("module.sft_weight=1", "module.teacher.name=tiny"), "lower the fraction, or set the weight to 0"),
        (("module.teacher.name=tiny", "module.teacher_temperature=0"), "teacher_temperature must be above 0"),
        (("module.teacher.name=nowhere",), "there is no checkpoint at nowhere"),
        (("module.mode=sft", "module.student_fraction=0", "module.temperature=2"), "leave both at 1"),
        (
            ("module.mode=sampled", "module.teacher.name=tiny", "module.proposal_temperature=0"),
            "module.proposal_temperature must be above 0, got 0",
        ),
        (
            ("module.teacher.name=tiny", "module.temperature=1e-40"),
            "module.temperature must be from 0.001 to 1000",
        ),
        (("module.mode=top_k", "module.teacher.name=tiny", "module.k=122"), "module.k=122 is above the 121 tokens"),
    ],
)
def test_settings_that_do_not_go_together(overrides, message, train_small, tmp_path):
    with pytest.raises(Exception, match=message):
        train_small(tmp_path, *ALONE, *overrides)
    assert not (tmp_path / "summary.json").exists()


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("mode", ["forward_kl", "reverse_kl", "jsd", "top_k", "sampled"])
def test_each_mode_is_its_divergence_of_the_whole_distributions(mode, tiny_run, tmp_path):
    from r1lab.build import build_policy_parts
    from r1lab.train import build_module

    own = ("module.temperature=2", "module.teacher_temperature=0.5", "module.jsd_beta=0.3", "module.k=121")
    own += ("module.num_draws=4000",)
    config = compose_run(tmp_path, *ALONE, f"module.mode={mode}", f"module.teacher.name={tiny_run}", *own)
    module = build_module(config, build_policy_parts(config))
    module.make_models()
    ids = [[2, 3, 4], [5, 6]], [[7, 8, 9], [10, 1]]
    batch = collate(*ids, module.tokenizer.pad_token_id)
    with torch.no_grad():
        for model in (module.policy, module.teacher.model):  # fresh ones are all but uniform
            model.get_output_embeddings().weight *= 20
        hidden = counted_hidden(module.policy.base_model, batch)
        head = module.policy.get_output_embeddings().weight
        student = (hidden @ head.T / 2).log_softmax(-1)
        teacher = module.teacher
        taught = (teacher.hidden(batch) @ teacher.model.get_output_embeddings().weight.T / 0.5).log_softmax(-1)
        middle = (0.3 * taught.exp() + 0.7 * student.exp()).log()
        forward = kl(taught, student)
        expected = {
            "reverse_kl": kl(student, taught),
            "jsd": 0.3 * kl(taught, middle) + 0.7 * kl(student, middle),
        }.get(mode, forward)
        found = module.divergence(hidden, batch, [], 10, 1)
    assert abs(float((forward - kl(student, taught)).sum())) > 0.05 * float(forward.sum())  # they can be told apart
    within = 0.1 if mode == "sampled" else 1e-4
    assert float(found) == pytest.approx(float(expected.sum() / 10), rel=within)


def of_logits(vocabulary):
    """A model whose hidden states are its logits."""
    head = torch.nn.Linear(vocabulary, vocabulary, bias=False)
    torch.nn.init.eye_(head.weight)
    return HeadModel(head)


@pytest.mark.parametrize("stored", [False, True])
def test_the_tail_of_a_sure_student_is_trained_on(stored, tiny_run, tmp_path):
    """Float32 against float64: the student has all but 2e-9 of its mass on the teacher's three likeliest tokens."""
    from r1lab.build import build_policy_parts
    from r1lab.train import build_module

    config = compose_run(tmp_path, *ALONE, "module.mode=top_k", f"module.teacher.name={tiny_run}", "module.k=3")
    module = build_module(config, build_policy_parts(config))
    module.make_models()
    batch = collate([[2, 3, 4], [5, 6]], [[7, 8, 9], [10, 1]], module.tokenizer.pad_token_id)
    with torch.no_grad():
        of_teacher = module.teacher.model.get_output_embeddings().weight
        of_teacher *= 20
        taught = module.teacher.hidden(batch) @ of_teacher.T
        ids = taught.topk(3).indices
    module.policy = of_logits(len(of_teacher))
    hidden = torch.randn(taught.shape, generator=torch.Generator().manual_seed(0)) * 0.3
    hidden = hidden.scatter_add(1, ids, torch.full(ids.shape, 24.0)).requires_grad_()

    def divergence(t, s):
        def buckets(x):
            return torch.cat([x.gather(1, ids), x.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)], 1)

        return kl(buckets(t.log_softmax(-1)), buckets(s.log_softmax(-1))).sum() / 5

    exact = hidden.detach().double().requires_grad_()
    right = divergence(taught.double(), exact)
    rows = []
    if stored:
        logprobs = taught.log_softmax(-1).gather(1, ids)
        rows = [SimpleNamespace(top_ids=ids.tolist(), top_logprobs=logprobs.tolist())]
        module.teacher = None
    found = module.divergence(hidden, batch, rows, 5, 1)
    assert found.item() == pytest.approx(right.item(), rel=1e-5)
    (gradient,), (expected,) = (torch.autograd.grad(x, y) for x, y in ((found, hidden), (right, exact)))
    assert (gradient.double() - expected).norm() < 1e-5 * expected.norm()


def test_the_draws_follow_from_seed_step_and_place(tiny_run, tmp_path):
    from r1lab.build import build_policy_parts
    from r1lab.train import build_module

    config = compose_run(tmp_path, *ALONE, "module.mode=sampled", f"module.teacher.name={tiny_run}")
    module = build_module(config, build_policy_parts(config))
    first = module.uniform(5, 1)
    assert first.shape == (5, 12) and torch.equal(first, module.uniform(5, 1))
    assert torch.equal(first[:3], module.uniform(3, 1)) and not torch.equal(first, module.uniform(5, 2))
    module.step = 1
    assert not torch.equal(first, module.uniform(5, 1))


def made(command, *overrides):
    """The policy that a run with the overrides would train."""
    return policy_maker(plain(OmegaConf.masked_copy(command("train", *overrides), ["seed", "model"])))()


@pytest.mark.slow
def test_students_of_all_sizes_are_made_and_loaded(command, tmp_path):
    sizes = {}
    for name in ("small", "medium", "large", "moe"):
        policy = made(command, f"model=tiny_student_{name}")
        sizes[name] = sum(p.numel() for p in policy.parameters())
        if name not in ("small", "moe"):
            continue
        policy.save_pretrained(tmp_path / name)
        again = made(command, f"model=tiny_student_{name}", f"model.name={tmp_path / name}")
        assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))
    assert sizes["small"] < sizes["moe"] < sizes["medium"] < sizes["large"], sizes
