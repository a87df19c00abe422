from types import SimpleNamespace

from r1lab.data.preferences import Preference, PreferenceData
from r1lab.data.prompts import PromptData
from r1lab.task.different import different, first_prompts, question_key
from r1lab.types import Prompt


class Rounds:
    """Five questions, again and again; the answer that is noted beside one may be another."""

    def sample(self, split, index):
        return Prompt((index % 5,), f"q{index % 5}", answer=str(index), index=index)


def test_the_first_of_each_question_stays_in_order(caplog):
    with caplog.at_level("INFO", "r1lab.task"):
        prompts = first_prompts(Rounds(), "heldout", 512)
        assert [prompt.index for prompt in first_prompts(Rounds(), "heldout", 4)] == [0, 1, 2, 3]
    assert [prompt.index for prompt in prompts] == [0, 1, 2, 3, 4]
    assert caplog.messages == ["heldout: 5 different prompts of 512 asked for; each is scored once"]
    assert different(reversed(prompts), question_key) == prompts[::-1]


def trained_by(data, rank, ranks):
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
    return next(iter(data.val_dataloader()))


def test_ranks_share_the_different_prompts_of_a_validation():
    data = PromptData(Rounds(), updates_per_rollout=1, seed=0, validation_prompts=256)
    shares = [[prompt.index for prompt in trained_by(data, rank, 6)] for rank in range(6)]
    assert shares == [[0], [1], [2], [3], [4], []]


def test_ranks_share_the_different_pairs_of_a_validation():
    class Pairs:
        def pair(self, split, index):
            return Preference(Rounds().sample(split, index), "good", "bad" if index < 7 else "worse")

    data = PreferenceData(Pairs(), Rounds(), batch_size=2, seed=0, validation_prompts=20)
    assert [len(trained_by(data, rank, 3)) for rank in range(3)] == [4, 3, 3]  # five with each of the two
