import asyncio
import math
from contextlib import nullcontext

import pytest
import torch

from r1lab.reward.schedule import Schedule
from r1lab.reward.weighted import RewardError, WeightedSum
from r1lab.types import Completion, Prompt

PROMPTS = [Prompt(ids=(1,), text="q", answer="7", index=b) for b in range(3)]
COMPLETIONS = [Completion((1,), f"text {b}", False) for b in range(3)]


def gives(values):
    return lambda prompts, completions: values


def total(**terms):
    return WeightedSum(terms, dict.fromkeys(terms, 1.0))(PROMPTS, COMPLETIONS)


def test_weighted_sum_with_terms_that_do_not_apply():
    terms = {"a": gives([1.0, None, 0.0]), "b": gives([2, True, None])}
    rewards = WeightedSum(terms, {"a": 1.0, "b": 0.5})(PROMPTS, COMPLETIONS)
    # 1 * 1 + .5 * 2,   nothing + .5 * 1,   1 * 0 + nothing
    assert rewards.total.tolist() == [2.0, 0.5, 0.0]
    assert rewards.total.dtype == torch.float32
    assert rewards.terms == {"a": [1.0, None, 0.0], "b": [2.0, 1.0, None]}


def test_a_completion_to_which_no_term_applies_has_no_reward():
    terms = {"a": gives([1.0, None, None]), "b": gives([2, None, 3.0])}
    rewards = WeightedSum(terms, {"a": 1.0, "b": 0.0})(PROMPTS, COMPLETIONS)
    # A term that is only measured applies all the same, as in TRL.
    assert rewards.total[[0, 2]].tolist() == [1.0, 0.0] and rewards.total[1].isnan()


def test_weight_zero_measures_and_weights_may_change():
    reward = WeightedSum({"a": gives([1.0, 2.0, 3.0])}, {"a": 0.0})
    assert reward(PROMPTS, COMPLETIONS).total.tolist() == [0.0, 0.0, 0.0]
    assert reward(PROMPTS, COMPLETIONS).terms["a"] == [1.0, 2.0, 3.0]
    reward.weights["a"] = 2.0
    assert reward(PROMPTS, COMPLETIONS).total.tolist() == [2.0, 4.0, 6.0]


def test_a_term_that_applies_to_nothing_says_so_once(caplog):
    def none(prompts, completions):
        return [None] * len(completions)

    reward = WeightedSum({"none": none, "watched": none}, {"none": 1.0, "watched": 0.0})
    prompts, completions = [Prompt((1,), "", "")] * 600, [Completion((1,), "", False)] * 600
    reward(prompts, completions)
    assert not caplog.messages
    reward(prompts, completions)
    reward(prompts, completions)
    assert [message.split(",")[0] for message in caplog.messages] == ["reward.none applied to none of 1200 completions"]


def test_weights_with_a_schedule():
    weights = {"a": 1.0, "b": Schedule([[0, 0.0], [10, 1.0]])}
    reward = WeightedSum({"a": gives([1, 1, 1]), "b": gives([2, 4, None])}, weights)
    assert reward(PROMPTS, COMPLETIONS).total.tolist() == [1.0, 1.0, 1.0]
    assert reward(PROMPTS, COMPLETIONS, 5).total.tolist() == [2.0, 3.0, 1.0]
    assert reward.scheduled(5) == {"b": 0.5}


def test_tensors_and_their_elements_are_numbers():
    rewards = total(a=gives(torch.tensor([1.0, 0.0, 0.5])), b=gives([torch.tensor(1.0), 0, 0]))
    assert rewards.total.tolist() == [2.0, 0.0, 0.5]


def test_terms_and_weights_must_match():
    with pytest.raises(ValueError, match=r"no weight for \['a'\], no term for \['b'\]"):
        WeightedSum({"a": gives([])}, {"b": 1.0})
    for bad in (math.nan, math.inf, 1e39, -(10**400)):
        with pytest.raises(ValueError, match="reward.a.weight must be a number up to"):
            WeightedSum({"a": gives([])}, {"a": bad})
    with pytest.raises(ValueError, match="3 prompts for 2 completions"):
        WeightedSum({"a": gives([0, 0])}, {"a": 1.0})(PROMPTS, COMPLETIONS[:2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, "1", [1.0], torch.tensor(math.nan), 1j])
def test_not_a_number_names_term_and_completion(bad):
    with pytest.raises(RewardError, match="'a' returned .*, not a finite number, for completion 1: 'text 1'"):
        total(a=gives([1.0, bad, 1.0]))


@pytest.mark.parametrize(
    "values, weights, message",
    [
        (
            [[0, 1e39, 0]],
            [1.0],
            "'t0' returned 1e\\+39, for completion 1: 'text 1': .*float32, and takes none above 1e\\+30",
        ),
        ([[0, -1e39, 0]], [0.0], "'t0' returned -1e\\+39"),  # also one that is measured alone
        ([[0, 10**400, 0]], [1.0], "'t0' returned a number, for completion 1"),
        ([[0, 1e30, 0]], [1e10], "reward.t0.weight=1e\\+10 times the value 1e\\+30 .* is 1e\\+40, for completion 1"),
        ([[0, 1.0, 0]], [Schedule([[0, 0], [9, 6e29]])], None),
        ([[0, 2.0, 0]], [Schedule([[0, 6e29]])], "reward.t0.weight=6e\\+29 times the value 2 .* is 1.2e\\+30"),
        (
            [[0, 6e29, 0], [0, 5e29, None]],
            [1.0, 1.0],
            "sum of the weighted rewards .*6e\\+29 .*5e\\+29 .* is 1.1e\\+30",
        ),
        ([[0, 6e29, 0], [0, -5e29, None]], [1.0, 1.0], None),
        ([[0, 1e30, None]], [1.0], None),
    ],
)
def test_rewards_beyond_float32_are_rejected_where_they_are_made(values, weights, message):
    names = [f"t{i}" for i in range(len(values))]
    reward = WeightedSum(dict(zip(names, map(gives, values), strict=True)), dict(zip(names, weights, strict=True)))
    with pytest.raises(RewardError, match=message) if message else nullcontext():
        assert reward(PROMPTS, COMPLETIONS).total.nan_to_num(0.0).isfinite().all()


@pytest.mark.parametrize("bad", [1.0, None, "1.0", {0: 1.0}, torch.tensor(1.0)])
def test_not_a_list(bad):
    with pytest.raises(RewardError, match="'a' returned .* instead of a list"):
        total(a=gives(bad))


def test_wrong_length():
    with pytest.raises(RewardError, match="'a' returned 2 rewards for 3 completions"):
        total(a=gives([1.0, 1.0]))


def fails_on_text_1(prompts, completions):
    return [1 / (c.text != "text 1") for c in completions]


async def fails_on_text_1_later(prompts, completions):
    await asyncio.sleep(0)
    return fails_on_text_1(prompts, completions)


@pytest.mark.parametrize("term", [fails_on_text_1, fails_on_text_1_later])
def test_a_term_that_raises_names_the_completion(term):
    with pytest.raises(RewardError, match="'a' raised ZeroDivisionError: .*, for completion 1: 'text 1'") as caught:
        total(ok=gives([0, 0, 0]), a=term)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_term_that_raises_for_the_batch_alone():
    def fails(prompts, completions):
        if len(completions) > 1:
            raise KeyError("batch")
        return [0.0]

    words = r"'a' raised KeyError: 'batch' \(test_weighted.py, line \d+\), for a batch of 3 completions but for none"
    with pytest.raises(RewardError, match=words):
        total(a=fails)


def test_long_texts_are_shortened():
    completions = [Completion((1,), "x" * 10_000, False)]
    with pytest.raises(RewardError) as caught:
        WeightedSum({"a": gives([math.nan])}, {"a": 1.0})(PROMPTS[:1], completions)
    assert len(str(caught.value)) < 400


def rendezvous(number: int):
    """Async terms that each wait for all the others to have started: in sequence they would never end."""
    started, everyone = [], asyncio.Event()

    def term(name):
        async def wait(prompts, completions):
            started.append(name)
            if len(started) == number:
                everyone.set()
            await asyncio.wait_for(everyone.wait(), timeout=5)
            return [1.0] * len(completions)

        return wait

    return {f"t{n}": term(n) for n in range(number)}


def test_async_terms_run_at_the_same_time():
    assert total(plain=gives([1, 0, 0]), **rendezvous(3)).total.tolist() == [4.0, 3.0, 3.0]


def test_async_terms_inside_a_running_loop():
    async def notebook():
        return total(**rendezvous(2))

    assert asyncio.run(notebook()).total.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_a_failing_term_leaves_no_coroutine_unawaited():
    with pytest.raises(RewardError):
        total(later=rendezvous(1)["t0"], now=fails_on_text_1)


def test_no_completions():
    rewards = WeightedSum({"a": gives([])}, {"a": 1.0})([], [])
    assert rewards.total.shape == (0,)
