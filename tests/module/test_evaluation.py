"""Scores by hand, of an engine that says what the test has written down."""

from dataclasses import replace

import pytest

from r1lab.metric.interval import bootstrap_interval
from r1lab.model.tiny import tiny_tokenizer
from r1lab.module import evaluation
from r1lab.module.evaluation import EVALUATION_STEP, evaluate, evaluate_splits, reasoning_length, sample
from r1lab.rollout.sampling import Sampling
from r1lab.types import Completion, Prompt

TOKENIZER = tiny_tokenizer()
SAMPLING = Sampling(1.0, 40)
ANSWERS = ("12", "12", "30")
PROMPTS = [Prompt((1,), f"prompt {n}", answer, index=n) for n, answer in enumerate(ANSWERS)]

RIGHT = "<think> 7 + 5 = 12 </think> <answer> 12 </answer>"  # 14 tokens with its end, 5 of reasoning
WRONG = "<think> hmm </think> <answer> 13 </answer>"  # 7 tokens, 1 of reasoning
BARE = "<answer> 12 </answer>"  # right, not well-formed; 4 tokens
CUT = "<think> 7 + 5 = 12"  # truncated; 6 tokens
NOISE = "ok 12 12"  # no tags; 4 tokens


def completion(text):
    truncated = text == CUT
    ids = TOKENIZER.encode(text) + ([] if truncated else [TOKENIZER.eos_token_id])
    return Completion(tuple(ids), text, truncated)


class Scripted:
    """Four samples of each prompt, and a greedy one."""

    samples = ([RIGHT, WRONG, BARE, CUT], [WRONG, WRONG, NOISE, NOISE], [RIGHT, RIGHT, BARE, NOISE])
    greedy = (RIGHT, BARE, RIGHT)

    def __init__(self):
        self.calls = []

    def generate(self, model, prompts, *, group_size, sampling, seed, step, policy_version=0):
        self.calls.append((tuple(p.index for p in prompts), group_size, sampling, seed, step))
        texts = [
            text
            for p in prompts
            for text in ([self.greedy[p.index]] if sampling.temperature == 0 else self.samples[p.index][:group_size])
        ]
        return [completion(text) for text in texts]


def is_correct(prompt, answer):
    # Partial credit is not a solved problem.
    return 1.0 if answer == prompt.answer else 0.9


def scores(engine=None, **options):
    settings = {"sampling": SAMPLING, "num_samples": 4, "seed": 5} | options
    return evaluate(None, TOKENIZER, engine or Scripted(), PROMPTS, is_correct, **settings)


def test_numbers_by_hand():
    got = scores(ks=[1, 2, 4])
    # Right: 2, 0 and 0 of 4 (the third prompt's answer is 30).
    assert got["pass_at_1"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert (got["pass_at_1_low"], got["pass_at_1_high"]) == bootstrap_interval(
        [0.5, 0.0, 0.0], level=0.95, resamples=1000, seed=0
    )
    # 1 - C(2,2)/C(4,2) = 5/6 of the first prompt
    assert got["pass_at_2"] == pytest.approx(5 / 6 / 3)
    assert got["pass_at_4"] == pytest.approx(1 / 3)
    # Of four, the first prompt's answers are 12 twice and 13 once (a truncated one has none), so the vote is right.
    assert got["cons_at_4"] == pytest.approx(1 / 3)
    assert got["greedy"] == pytest.approx(2 / 3)  # RIGHT, BARE of answer 12; not the third
    assert got["format"] == pytest.approx(6 / 12)
    lengths = [14 - 3, 7, 4, 6, 7, 7, 4, 4, 11, 11, 4, 4]
    assert [len(completion(t).ids) for texts in Scripted.samples for t in texts] == lengths
    assert got["completion_length"] == pytest.approx(sum(lengths) / 12)
    # all but the first prompt's RIGHT and BARE
    assert got["wrong_completion_length"] == pytest.approx((sum(lengths) - 11 - 4) / 10)
    # RIGHT has 5, WRONG 1, the others none: an open tag is no reasoning.
    assert got["reasoning_length"] == pytest.approx((5 * 3 + 1 * 3) / 12)
    assert got["wellformed_reasoning_length"] == pytest.approx((5 * 3 + 1 * 3) / 6)
    assert got["truncated"] == pytest.approx(1 / 12)
    assert got["num_prompts"] == 3


def test_nothing_wellformed_has_length_zero():
    engine = Scripted()
    engine.samples = ([NOISE], [NOISE], [NOISE])
    assert scores(engine, num_samples=1)["wellformed_reasoning_length"] == 0.0


def test_samples_and_greedy_are_asked_for_with_the_key_of_evaluations():
    engine = Scripted()
    scores(engine)
    assert engine.calls == [
        ((0, 1, 2), 4, SAMPLING, 5, EVALUATION_STEP),
        ((0, 1, 2), 1, Sampling(0.0, 40), 5, EVALUATION_STEP),
    ]
    engine = Scripted()
    assert "greedy" not in scores(engine, greedy=False) and len(engine.calls) == 1


@pytest.mark.parametrize("k", [0, 5])
def test_k_needs_as_many_samples(k):
    with pytest.raises(ValueError, match=rf"^evaluation.ks=\[.*{k}\]: pass@{k} needs"):
        scores(ks=[k])


def test_parts_change_nothing_and_are_reported(monkeypatch):
    whole, done = scores(ks=[2]), []
    monkeypatch.setattr(evaluation, "AT_A_TIME", 9)  # two prompts of four samples
    engine = Scripted()
    assert scores(engine, ks=[2], advance=done.append) == whole
    assert [call[:2] for call in engine.calls] == [((0, 1), 4), ((2,), 4), ((0, 1, 2), 1)]
    assert done == [8, 4, 3]
    monkeypatch.setattr(evaluation, "AT_A_TIME", 1)  # a prompt is never divided
    texts = [c.text for c in sample(None, Scripted(), PROMPTS, num_samples=4, sampling=SAMPLING, seed=0)]
    assert texts == [text for texts in Scripted.samples for text in texts]


def test_splits():
    class Task:
        splits = ("heldout", "harder")

        def sample(self, split, index):
            # `harder` asks the third question alone.
            return PROMPTS[2 if split == "harder" else index]

        def is_correct(self, prompt, answer):
            return answer == prompt.answer

    options = {"splits": ["heldout", "harder"], "num_prompts": 2, "num_samples": 4, "sampling": SAMPLING, "seed": 5}
    got = evaluate_splits(None, TOKENIZER, Scripted(), Task(), **options)
    assert list(got) == ["heldout", "harder"]
    assert [got[split]["pass_at_1"] for split in got] == [0.25, 0.0]
    # The second prompt of `harder` is the first again.
    assert [got[split]["num_prompts"] for split in got] == [2, 1]
    # A task without harder problems is scored on the others.
    Task.splits = ("heldout",)
    assert list(evaluate_splits(None, TOKENIZER, Scripted(), Task(), **options)) == ["heldout"]


def test_a_question_that_comes_again_is_scored_once(caplog):
    class Rounds:
        splits = ("heldout",)

        def sample(self, split, index):
            return replace(PROMPTS[index % 3], index=index)

        is_correct = staticmethod(is_correct)

    options = {"num_samples": 4, "sampling": SAMPLING, "seed": 5, "ks": [1, 2]}
    with caplog.at_level("INFO", "r1lab.task"):
        got = evaluate_splits(None, TOKENIZER, Scripted(), Rounds(), splits=["heldout"], num_prompts=512, **options)
    assert got["heldout"] == scores(ks=[1, 2]) and got["heldout"]["num_prompts"] == 3
    assert caplog.messages == ["heldout: 3 different prompts of 512 asked for; each is scored once"]
    again = evaluate(None, TOKENIZER, Scripted(), [*PROMPTS, *PROMPTS], is_correct, **options)
    assert again == got["heldout"]


def test_a_rank_without_prompts_takes_part():
    """Of 3 different prompts on 4 ranks the last has none, and all come to the scores of one rank alone."""
    shares = [PROMPTS[rank::4] for rank in range(4)]
    rows = [[], [], [], []]
    settings = {"sampling": SAMPLING, "num_samples": 4, "seed": 5}
    for rank, share in enumerate(shares):

        def note(own, rank=rank):
            rows[rank] = own
            return [row for part in rows for row in part]

        engine = Scripted()
        got = evaluate(None, TOKENIZER, engine, share, is_correct, gather=note, **settings)
        assert engine.calls  # with no prompts, too: the passes of the others may need it
    assert got == scores()
    with pytest.raises(ValueError, match="there is none: raise evaluation.num_prompts"):
        evaluate(None, TOKENIZER, Scripted(), [], is_correct, **settings)


def test_reasoning_length_counts_tokens_between_the_tags():
    lengths = [reasoning_length(PROMPTS[0], completion(text), TOKENIZER) for text in (RIGHT, WRONG, BARE, CUT, NOISE)]
    assert lengths == [5, 1, 0, 0, 0]


def test_a_template_that_opens_the_reasoning_counts_as_such_in_every_score():
    opened = [replace(prompt, text=f"{prompt.text} <think>") for prompt in PROMPTS]

    class Opened(Scripted):
        samples = ([RIGHT.removeprefix("<think>")] * 4,) * 3
        greedy = samples[0][:3]

    got = evaluate(None, TOKENIZER, Opened(), opened, is_correct, sampling=SAMPLING, num_samples=4, seed=5)
    assert got["format"] == 1.0 and got["reasoning_length"] == got["wellformed_reasoning_length"] == 5
    assert got["pass_at_1"] == got["greedy"] == pytest.approx(2 / 3)
