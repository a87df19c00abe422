from r1lab.analysis.effects import effects
from r1lab.analysis.sweep import load_sweep
from r1lab.analysis.verdict import finding, verdict


def test_five_lines(beta_sweep):
    sweep = load_sweep(beta_sweep.folder)
    lines = verdict(sweep, effects(sweep)).splitlines()
    assert lines[0] == "- **Question:** Does it matter?"
    # Nine runs of a minute
    assert lines[1] == (
        "- **Set-up:** commit 0a1b2c3d4e5f; a processor, 2 threads; 0.150 h of runs in 0.000 h; 3 trials x 3 seeds; "
        "all finished; `python -m r1lab.train -m +sweep=example`"
    )
    assert lines[2] == (
        "- **Finding:** validation/pass_at_1: baseline beta=0.001 0.600 [0.352, 0.848] (n 3); against it "
        "beta=0 +0.200 [-0.048, +0.448] (p 0.148); beta=0.1 -0.200 (p 0.250). Significant after Holm: 0 of 2. "
        "Held-out greedy: –, the scores after training lack it. "
        "Held-out pass@1 of beta=0, the best point: +0.200 [-0.048, +0.448] against the baseline's, unadjusted. "
        "Reported: no effect."
    )
    assert lines[3].startswith("- **Decision:** keep the baseline.")
    assert lines[4].startswith("- **What would change it:** Would have been found")
    assert len(lines) == 5 and verdict(load_sweep(beta_sweep.folder), effects(sweep)) == verdict(sweep, effects(sweep))


def test_without_a_baseline_the_best_and_the_worst(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "none", {"a": [1, 2]})
    writer.trial({"a": 1}, {1: 0.5, 2: 0.7})
    writer.trial({"a": 2}, {1: 0.2})
    sweep = load_sweep(writer.folder)
    # .6 +- 12.706205 * .141421 / sqrt(2)
    assert finding(sweep, effects(sweep)) == (
        "validation/pass_at_1: best a=1 0.600 [-0.671, 1.871] (n 2), worst a=2 0.200 (n 1). "
        "Held-out greedy: –, the scores after training lack it."
    )


def test_many_differences_are_counted(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "many", {"a": list(range(8))}, baseline={"a": 0})
    for a in range(8):
        writer.trial({"a": a}, {1: 0.5, 2: 0.5 + a / 20, 3: 0.5 - a / 20})
    sweep = load_sweep(writer.folder)
    assert "; and 3 more. Significant after Holm: 0 of 7." in finding(sweep, effects(sweep))


def test_other_outcomes_are_told_with_their_intervals(write_sweep, tmp_path):
    names = ["after/heldout/completion_length", "memory_mib", "last/loss/kl"]
    writer = write_sweep(tmp_path / "more", {"a": [1, 2]}, baseline={"a": 1}, secondary=names)
    for level, lengths in ((1, (10.0, 12.0, 14.0)), (2, (11.0, 14.0, 17.0))):
        scores = [{"heldout": {"pass_at_1": 0.5, "completion_length": length}} for length in lengths]
        writer.trial({"a": level}, {seed: writer.note(0.5, [0.5], after=after) for seed, after in enumerate(scores, 1)})
    sweep = load_sweep(writer.folder)
    text = finding(sweep, effects(sweep))
    # 12 and 2 -+ 4.302653 x (2 and 1) / sqrt(3)
    lengths = "completion length: a=1 12.0 [7.0, 17.0]; a=2 +2.000 [-0.484, +4.484]."
    assert f"{lengths} memory_mib: not measured. KL to the reference: a=1 0.010; a=2 +0.000." in text
