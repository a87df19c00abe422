from itertools import islice
from types import SimpleNamespace

import pytest

from r1lab.data.prompts import PromptData, RolloutPrompts
from r1lab.types import Prompt


class Counting:
    name = "counting"

    def sample(self, split, index):
        return Prompt((1,), f"{split} {index}", "", index=index)


def first(prompts, count):
    return [[p.text for p in item] for item in islice(iter(prompts), count)]


def data(step=0, validation_prompts=3, rank=0, world_size=1, seed=0):
    made = PromptData(
        Counting(), prompts_per_rollout=2, updates_per_rollout=3, seed=seed, validation_prompts=validation_prompts
    )
    module = SimpleNamespace(step=step)
    made.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module)
    return made


def test_a_rollout_every_third_step_brings_the_next_prompts():
    expected = [["train 0", "train 1"], [], [], ["train 2", "train 3"], [], [], ["train 4", "train 5"]]
    assert first(RolloutPrompts(Counting(), 2, 3, seed=0, rank=0, world_size=1), 7) == expected
    assert first(data().train_dataloader(), 7) == expected


@pytest.mark.parametrize("step", range(7))
def test_goes_on_at_any_step(step):
    saved = data(step=step).state_dict()
    resumed = data()
    resumed.load_state_dict(saved)
    assert first(resumed.train_dataloader(), 9) == first(data().train_dataloader(), 9 + step)[step:]


def test_ranks_share_each_rollout():
    mine = [first(RolloutPrompts(Counting(), 4, 1, seed=0, rank=rank, world_size=2), 2) for rank in (0, 1)]
    assert mine == [[["train 0", "train 2"], ["train 4", "train 6"]], [["train 1", "train 3"], ["train 5", "train 7"]]]
    with pytest.raises(ValueError, match="does not divide among 2 ranks"):
        RolloutPrompts(Counting(), 3, 1, seed=0, rank=0, world_size=2)


def test_validation_is_always_the_same_and_shared_by_ranks():
    assert first(data(step=5).val_dataloader(), 2) == [["validation 0", "validation 1", "validation 2"]]
    assert first(data(rank=1, world_size=2).val_dataloader(), 2) == [["validation 1"]]


def test_each_seed_has_prompts_of_its_own():
    seen = [text for seed in (0, 1, 2) for item in first(data(seed=seed).train_dataloader(), 300) for text in item]
    assert len(set(seen)) == len(seen) == 3 * 100 * 2
    assert first(data(seed=2).val_dataloader(), 1) == first(data(seed=1).val_dataloader(), 1)
