import pytest
import torch

from r1lab.rollout.collate import collate, microbatches


def test_collate():
    batch = collate([[5, 6], [7]], [[1, 2, 3], [4]], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 3], [7, 4, 0, 0, 0]]
    assert batch.completion_ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.completion_mask.tolist() == [[True, True, True], [True, False, False]]
    # The token at column c is predicted at c - 1: the first by the prompt's last token.
    assert batch.positions[0].tolist() == [1, 2, 3]
    assert batch.positions[1, 0] == 0
    assert batch.positions.max() < batch.input_ids.shape[1]
    assert batch.sequences.tolist() == [[0] * 5, [1, 1, -1, -1, -1]]
    assert batch.to(torch.device("cpu")).input_ids.tolist() == batch.input_ids.tolist()


def test_every_counted_position_predicts_its_token():
    prompts = [[9] * n for n in (3, 1, 4)]
    completions = [[10 + n, 20 + n, 30 + n][: n + 1] for n in range(3)]
    batch = collate(prompts, completions, pad_id=0)
    following = batch.input_ids.gather(1, (batch.positions + 1).clamp(max=batch.input_ids.shape[1] - 1))
    assert torch.equal(following[batch.completion_mask], batch.completion_ids[batch.completion_mask])
    assert batch.completion_mask.sum(1).tolist() == [1, 2, 3]


def test_packed_rows_lie_behind_one_another_without_padding():
    batch = collate([[5, 6], [7], [8, 9]], [[1, 2, 3], [4], [10, 11]], pad_id=0, packed=True)
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 3, 7, 4, 8, 9, 10, 11]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]]
    assert batch.sequences.tolist() == [[0] * 5 + [1] * 2 + [2] * 4]
    padded = collate([[5, 6], [7], [8, 9]], [[1, 2, 3], [4], [10, 11]], pad_id=0)
    assert padded.position_ids is None
    for name in ("completion_ids", "completion_mask"):
        assert torch.equal(getattr(batch, name), getattr(padded, name))
    following = batch.input_ids[0, batch.positions[batch.completion_mask] + 1]
    assert torch.equal(following, batch.completion_ids[batch.completion_mask])
    assert int(batch.positions.max()) < batch.input_ids.shape[1]
    moved = batch.to(torch.device("cpu"))
    assert moved.position_ids.tolist() == batch.position_ids.tolist() and padded.to("cpu").position_ids is None


def test_microbatches_hold_the_budget_and_every_row_once():
    lengths = [3, 9, 4, 4, 8, 1]
    # Longest first: 9 and 8 padded to 9 are 18; 4, 4, 3, 1 padded to 4 are 16.
    assert microbatches(lengths, 18) == [[1, 4], [2, 3, 0, 5]]
    # 9 alone; 8 alone, as two rows of 8 would be 16; three rows of 4 are 12, four would be 16.
    assert microbatches(lengths, 12) == [[1], [4], [2, 3, 0], [5]]


def test_packed_microbatches_hold_the_budget_without_padding():
    # 9 + 8 = 17, and 4 more are over; 4 + 4 + 3 + 1 = 12.
    assert microbatches([3, 9, 4, 4, 8, 1], 18, packed=True) == [[1, 4], [2, 3, 0, 5]]
    # 9 + 4 are 13; padded, 4 would be 9.
    assert microbatches([9, 4, 1], 13, packed=True) == [[0, 1], [2]]
    assert microbatches([9, 4, 1], 13) == [[0], [1, 2]]
    assert [sorted(part) for part in microbatches([3, 9, 4], 0, packed=True)] == [[0, 1, 2]]
    assert microbatches([30, 20, 1], 10, packed=True) == [[0], [1], [2]]


def test_no_budget_is_one_microbatch_and_a_row_over_the_budget_stands_alone():
    assert [sorted(part) for part in microbatches([3, 9, 4], 0)] == [[0, 1, 2]]
    assert microbatches([30, 20, 1], 10) == [[0], [1], [2]]
    assert microbatches([], 10) == []


def test_rows_need_a_pad_token():
    with pytest.raises(ValueError, match="the tokenizer has no pad_token to fill rows with: set its pad_token"):
        collate([(2, 3), (2,)], [(4,), (5, 6)], None)
