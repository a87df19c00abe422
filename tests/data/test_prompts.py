from itertools import islice
from types import SimpleNamespace

import pytest

from r1lab.data.curriculum import Curriculum
from r1lab.data.prompts import PromptData, PromptStream
from r1lab.types import Prompt


class Counting:
    name = "counting"

    def sample(self, split, index):
        return Prompt((1,), f"{split} {index}", "", index=index, kind="count", difficulty=index % 3)


def data(step=0, validation_prompts=3, rank=0, world_size=1, seed=0, **options):
    made = PromptData(Counting(), updates_per_rollout=3, seed=seed, validation_prompts=validation_prompts, **options)
    module = SimpleNamespace(step=step)
    made.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module)
    return made


def texts(prompts):
    return [prompt.text for prompt in prompts]


def rollouts(made, steps, count=2):
    """What the rollouts of the first steps are of, an empty list where none is due."""
    return [texts(item.take(count)) if item else [] for item in islice(iter(made.train_dataloader()), steps)]


def test_a_rollout_every_third_step_takes_the_next_prompts():
    expected = [["train 0", "train 1"], [], [], ["train 2", "train 3"], [], [], ["train 4", "train 5"]]
    assert rollouts(data(), 7) == expected


@pytest.mark.parametrize("step", range(7))
def test_goes_on_at_any_step(step):
    halted = data(step=step)
    rollouts(halted, step)
    resumed = data()
    resumed.load_state_dict(halted.state_dict())
    assert rollouts(resumed, 9) == rollouts(data(), 9 + step)[step:]


def test_what_is_taken_follows_the_rollout_before_though_lightning_asks_for_items_ahead():
    made = data()
    items = [item for item in islice(iter(made.train_dataloader()), 7) if item]
    assert [texts(item.take(count)) for item, count in zip(items, (1, 3, 1), strict=True)] == [
        ["train 0"],
        ["train 1", "train 2", "train 3"],
        ["train 4"],
    ]
    resumed = data()
    resumed.load_state_dict(made.state_dict())
    assert texts(resumed.stream.take(2)) == ["train 5", "train 6"]


def test_ranks_share_what_is_taken():
    shares = []
    for rank in (0, 1):
        stream = PromptStream(Counting(), seed=0)
        stream.rank, stream.world_size = rank, 2
        shares.append([texts(stream.take(count)) for count in (4, 1, 2)])
    assert shares == [
        [["train 0", "train 2"], ["train 4"], ["train 5"]],
        [["train 1", "train 3"], [], ["train 6"]],
    ]


def test_validation_is_always_the_same_and_shared_by_ranks():
    def validation(**options):
        return [texts(item) for item in data(**options).val_dataloader()]

    assert validation(step=5) == [["validation 0", "validation 1", "validation 2"]]
    assert validation(rank=1, world_size=2) == [["validation 1"]]
    assert validation(seed=2) == validation(seed=1)


def test_each_seed_has_prompts_of_its_own():
    seen = [text for seed in (0, 1, 2) for text in texts(PromptStream(Counting(), seed=seed).take(200))]
    assert len(set(seen)) == len(seen) == 3 * 200


def curriculum(**options):
    made = Curriculum(**{"lowest": 0.2, "highest": 0.8, "explore": 0.1, "decay": 0.5} | options)
    made.rates = {"count/0": 0.0, "count/1": 0.5, "count/2": 1.0}
    return made


def test_a_curriculum_passes_over_prompts_and_the_ranks_agree_on_which():
    def taken(rank, world_size):
        stream = PromptStream(Counting(), seed=3, curriculum=curriculum())
        stream.rank, stream.world_size = rank, world_size
        return [prompt for _ in range(10) for prompt in stream.take(10)], stream.position

    alone, position = taken(0, 1)
    inside = sum(prompt.difficulty == 1 for prompt in alone)
    # A third of the prompts lies inside, and a tenth of the others is taken all the same: 1 in 1.2 of those taken.
    assert 70 <= inside < 100 and 200 < position < 280
    shares, positions = zip(*(taken(rank, 2) for rank in (0, 1)), strict=True)
    assert sorted(texts(shares[0] + shares[1])) == sorted(texts(alone)) and set(positions) == {position}


def test_measured_rates_are_part_of_where_a_stream_goes_on():
    halted, resumed = (data(curriculum=curriculum()) for _ in range(2))
    halted.stream.take(5)
    halted.stream.curriculum.note([(Counting().sample("train", 1), 1.0)])
    resumed.load_state_dict(halted.state_dict())
    assert resumed.stream.curriculum.rates["count/1"] == 0.75
    assert texts(resumed.stream.take(9)) == texts(halted.stream.take(9))


def test_a_band_of_everything_is_no_curriculum():
    assert data(curriculum=curriculum(lowest=0.0, highest=1.0)).stream.curriculum is None


def test_a_curriculum_is_held_against_the_levels_of_the_task(caplog):
    data(curriculum=curriculum())
    foreign = curriculum()
    foreign.rates = {"sum/1": 0.5}
    with pytest.raises(
        ValueError, match=r"knows sum/1, none of which is a level of this task \(count/0, count/1, count/2"
    ):
        data(curriculum=foreign)
    assert not caplog.text
    single = Counting()
    single.sample = lambda split, index: Prompt((1,), "", "", index=index, kind="count", difficulty=0)
    PromptData(single, updates_per_rollout=1, seed=0, validation_prompts=1, curriculum=curriculum())
    assert "nothing to choose from: all prompts are of level count/0" in caplog.text
