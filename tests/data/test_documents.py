from itertools import islice
from types import SimpleNamespace

import pytest

from r1lab.data.documents import DocumentBatches, DocumentData
from r1lab.model.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


class Numbers:
    def document(self, index):
        return f"User: {index} Assistant:", " ".join(str(n) for n in range(index % 3 + 1))


def batches(microbatch_tokens=0, padding_free=False, rank=0, world_size=1, first_step=0):
    return DocumentBatches(
        Numbers(),
        TOKENIZER,
        batch_size=4,
        microbatch_tokens=microbatch_tokens,
        padding_free=padding_free,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
    )


def documents(batch):
    """The batch's rows as {number in the prompt: completion}, `<eos>` included."""
    parts = [zip(part.input_ids, part.completion_ids, part.completion_mask, strict=True) for part in batch]
    rows = [row for part in parts for row in part]
    return {TOKENIZER.decode(ids[1:2]): TOKENIZER.decode(completion[mask]) for ids, completion, mask in rows}


def first(batches, count):
    return [documents(batch) for batch in islice(iter(batches), count)]


def test_documents_in_order_each_with_its_end():
    expected = [
        {"0": "0 <eos>", "1": "0 1 <eos>", "2": "0 1 2 <eos>", "3": "0 <eos>"},
        {"4": "0 1 <eos>", "5": "0 1 2 <eos>", "6": "0 <eos>", "7": "0 1 <eos>"},
    ]
    assert first(batches(), 2) == expected
    assert first(batches(first_step=1), 1) == expected[1:]


def test_microbatches_hold_the_budget_and_the_same_documents():
    # Rows of 5, 6, 7 and 5 tokens: 7 and 6 padded to 7 are 14.
    parts = next(iter(batches(microbatch_tokens=14)))
    assert [part.input_ids.shape for part in parts] == [(2, 7), (2, 5)]
    assert documents(parts) == first(batches(), 1)[0]


def test_packed_microbatches_hold_the_same_documents():
    # 7 + 6 = 13, 5 + 5 = 10
    parts = next(iter(batches(microbatch_tokens=14, padding_free=True)))
    assert [part.input_ids.shape for part in parts] == [(1, 13), (1, 10)]
    padded = next(iter(batches(microbatch_tokens=14)))
    for part, other in zip(parts, padded, strict=True):
        assert part.completion_ids.tolist() == other.completion_ids.tolist()
        assert part.input_ids[0].tolist() == other.input_ids[other.sequences >= 0].tolist()


def test_ranks_share_each_batch():
    shares = [first(batches(rank=rank, world_size=2), 1)[0] for rank in (0, 1)]
    assert [list(share) for share in shares] == [["2", "0"], ["1", "3"]]
    with pytest.raises(ValueError, match="does not divide among 3 ranks"):
        batches(world_size=3)


def test_data_goes_on_where_it_was_saved():
    def data(step):
        sizes = {"batch_size": 4, "microbatch_tokens": 0, "validation_prompts": 1, "validation_documents": 3}
        made = DocumentData(Numbers(), TOKENIZER, task=None, padding_free=False, **sizes)
        module = SimpleNamespace(step=step)
        made.trainer = SimpleNamespace(global_rank=0, world_size=1, lightning_module=module)
        return made

    resumed = data(0)
    resumed.load_state_dict(data(3).state_dict())
    assert first(resumed.train_dataloader(), 2) == first(data(0).train_dataloader(), 5)[3:]
