from itertools import islice
from types import SimpleNamespace

import pytest

from r1lab.data.preferences import GeneralPreferences, PreferenceBatches, PreferenceData
from r1lab.model.bilingual import bilingual_tokenizer
from r1lab.reward.accuracy import Accuracy
from r1lab.reward.model import seen_part
from r1lab.task.general import General
from r1lab.task.template import Template
from r1lab.types import Completion

TOKENIZER = bilingual_tokenizer()
HELPFUL = {"echo": 1.0, "reverse": 1.0, "polite": 1.0}


def task(kinds):
    return General(
        TOKENIZER, Template("User: {question} Assistant:"), languages={"en": 0.5, "zh": 0.5}, kinds=kinds,
        num_topics=[2, 3], harder_num_topics=[4, 5],
    )  # fmt: skip


def preferences(kinds=HELPFUL, label_noise=0.0, untagged=0.2, hidden=0.5):
    return GeneralPreferences(task(kinds), label_noise=label_noise, untagged=untagged, hidden=hidden)


@pytest.mark.parametrize("kinds, sees", [(HELPFUL, "answer"), ({"unsafe": 1.0}, "response")])
def test_the_better_one_is_not_to_be_told_by_its_length(kinds, sees):
    pairs = [preferences(kinds).pair("heldout", index) for index in range(1000)]
    longer = []
    for pair in pairs:
        chosen, rejected = (
            len(seen_part(pair.prompt, Completion((), text, False), sees).split())
            for text in (pair.chosen, pair.rejected)
        )
        longer.append(0.5 + 0.5 * ((chosen > rejected) - (chosen < rejected)))
    # The standard deviation is .016.
    assert sum(longer) / 1000 == pytest.approx(0.5, abs=0.065)
    assert min(longer) == 0 and max(longer) == 1


def test_a_prompt_that_opens_the_reasoning_is_not_opened_again():
    made = task(HELPFUL)
    made.template = Template("User: {question} Assistant: <think>")
    pair = GeneralPreferences(made, label_noise=0, untagged=0, hidden=0).pair("train", 0)
    assert all("<think>" not in text and "</think>" in text for text in (pair.chosen, pair.rejected))


def gold(pair, text):
    return Accuracy(task(HELPFUL).is_correct)([pair.prompt], [Completion((), text, False)])[0]


@pytest.mark.parametrize("split", ["train", "validation", "heldout", "harder"])
def test_the_chosen_reply_has_the_higher_gold_score(split):
    pairs = [preferences().pair(split, index) for index in range(200)]
    assert all(gold(pair, pair.chosen) == 1 > gold(pair, pair.rejected) for pair in pairs)
    assert {pair.prompt.columns["request"] for pair in pairs} == set(HELPFUL)
    assert all(TOKENIZER.encode(text) for pair in pairs for text in (pair.chosen, pair.rejected))  # no unknown word


def test_pairs_follow_from_their_number_and_splits_share_no_question():
    made, again = preferences(), preferences()
    assert [made.pair("train", i) for i in range(20)] == [again.pair("train", i) for i in reversed(range(20))][::-1]
    questions = {
        split: {made.pair(split, i).prompt.columns["question"] for i in range(300)}
        for split in ("train", "validation", "heldout")
    }
    assert not questions["train"] & questions["heldout"] and not questions["train"] & questions["validation"]


def test_noise_exchanges_pairs_in_training_alone():
    clean, noisy = preferences(), preferences(label_noise=0.3)
    exchanged = 0
    for index in range(500):
        told, true = noisy.pair("train", index), clean.pair("train", index)
        assert {told.chosen, told.rejected} == {true.chosen, true.rejected}
        exchanged += told != true
        assert noisy.pair("heldout", index) == clean.pair("heldout", index)
    assert exchanged / 500 == pytest.approx(0.3, abs=0.06)


def test_what_is_hidden_in_the_reasoning_shows_in_the_whole_response_alone():
    pairs = [preferences({"unsafe": 1.0}, hidden=1.0).pair("train", index) for index in range(50)]
    for pair in pairs:
        completions = [Completion((), text, False) for text in (pair.chosen, pair.rejected)]
        answers, responses = ([seen_part(pair.prompt, c, sees) for c in completions] for sees in ("answer", "response"))
        assert answers[0] == answers[1] and responses[0] != responses[1]
        assert gold(pair, pair.chosen) == 1 > gold(pair, pair.rejected) == 0
    open_ones = [preferences({"unsafe": 1.0}, hidden=0.0).pair("train", index) for index in range(200)]
    assert all(gold(pair, pair.chosen) == 1 and gold(pair, pair.rejected) == 0 for pair in open_ones)
    # What is called unsafe is: it tells how.
    assert all({"take", "拿"} & set(pair.rejected.split()) for pair in open_ones)


def batches(seed=0, rank=0, world_size=1, first_step=0, count=2):
    made = PreferenceBatches(
        preferences(), batch_size=4, seed=seed, rank=rank, world_size=world_size, first_step=first_step
    )
    return list(islice(iter(made), count))


def test_batches_go_on_at_any_step_and_are_shared_by_ranks():
    whole = batches(count=3)
    assert batches(first_step=1, count=2) == whole[1:]
    shares = [batches(rank=rank, world_size=2) for rank in (0, 1)]
    assert [pair for both in zip(shares[0][0], shares[1][0], strict=True) for pair in both] == whole[0]
    assert not {pair.prompt.index for batch in batches(seed=1) for pair in batch} & {
        pair.prompt.index for batch in whole for pair in batch
    }
    with pytest.raises(ValueError, match="data.batch_size=4 does not divide among 3 ranks"):
        batches(world_size=3)


def test_validation_is_the_same_for_every_seed():
    def validation(seed):
        made = PreferenceData(preferences(), task(HELPFUL), batch_size=4, seed=seed, validation_prompts=3)
        made.trainer = SimpleNamespace(global_rank=0, world_size=1)
        return list(made.val_dataloader())

    assert validation(1) == validation(2) == [[preferences().pair("validation", i) for i in range(3)]]


def test_wrong_settings():
    with pytest.raises(ValueError, match="data.preferences.label_noise must lie between 0 and 1, got 1.5"):
        preferences(label_noise=1.5)
    with pytest.raises(ValueError, match="data.preferences needs task=general.*not chains"):
        GeneralPreferences(SimpleNamespace(name="chains"), label_noise=0, untagged=0, hidden=0)
