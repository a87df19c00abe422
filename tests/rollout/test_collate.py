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


def test_microbatches_hold_the_budget_and_every_row_once():
    lengths = [3, 9, 4, 4, 8, 1]
    # Longest first: 9 and 8 padded to 9 are 18; 4, 4, 3, 1 padded to 4 are 16.
    assert microbatches(lengths, 18) == [[1, 4], [2, 3, 0, 5]]
    # 9 alone; 8 alone, as two rows of 8 would be 16; three rows of 4 are 12, four would be 16.
    assert microbatches(lengths, 12) == [[1], [4], [2, 3, 0], [5]]


def test_no_budget_is_one_microbatch_and_a_row_over_the_budget_stands_alone():
    assert [sorted(part) for part in microbatches([3, 9, 4], 0)] == [[0, 1, 2]]
    assert microbatches([30, 20, 1], 10) == [[0], [1], [2]]
    assert microbatches([], 10) == []
