import torch

from r1lab.rollout.randomness import mix, row_keys, uniform

# The first outputs of SplitMix64 from the state 1234567, as published test values (Rosetta Code, "Pseudo-random
# numbers/Splitmix64").
KNOWN = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
GOLDEN = 0x9E3779B97F4A7C15


def signed(x):
    return (x + 2**63) % 2**64 - 2**63


def test_known_values():
    states = torch.tensor([signed(1234567 + (n + 1) * GOLDEN) for n in range(5)])
    assert mix(states).tolist() == [signed(x) for x in KNOWN]


def test_uniform_is_the_top_24_bits_of_the_generator_at_that_position():
    key = torch.tensor([1234567])
    assert [uniform(key, n).item() for n in range(5)] == [(x >> 40) / 2**24 for x in KNOWN]


def keys(seed, step, prompts, completions):
    return row_keys(seed, step, torch.tensor(prompts), torch.tensor(completions))


def test_every_part_of_the_key_counts_and_no_two_change_places():
    base = keys(1, 2, [3], [4])
    others = [keys(*parts) for parts in ((9, 2, [3], [4]), (1, 9, [3], [4]), (1, 2, [9], [4]), (1, 2, [3], [9]))]
    others += [keys(2, 1, [3], [4]), keys(1, 2, [4], [3]), keys(1, 3, [2], [4])]
    assert len({int(k) for k in [base, *others]}) == 8
    assert torch.equal(keys(1, -1, [3], [4]), keys(1, -1, [3], [4]))


def test_a_row_does_not_depend_on_the_others():
    together = uniform(keys(5, 6, [0, 1, 2], [7, 8, 9]), 3)
    alone = [uniform(keys(5, 6, [p], [c]), 3) for p, c in ((0, 7), (1, 8), (2, 9))]
    assert torch.equal(together, torch.cat(alone))


def test_uniform_over_rows_and_over_positions():
    rows = torch.arange(4_000)
    many_rows = uniform(row_keys(1, 0, rows // 16, rows % 16), 0)
    many_positions = torch.cat([uniform(keys(1, 0, [0], [0]), n) for n in range(4_000)])
    for draws in (many_rows, many_positions):
        assert 0 <= draws.min() and draws.max() < 1
        # 4 000 draws into 20 bins of 200: chi-square has 19 degrees of freedom, mean 19 and standard deviation 6.2.
        counts = torch.histc(draws, 20, 0, 1)
        assert ((counts - 200) ** 2 / 200).sum() < 19 + 4 * 6.2
        # Correlation of neighbours: standard error .016.
        assert abs(torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]) < 0.064
