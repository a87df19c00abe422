from optuna.trial import TrialState, create_trial

from r1lab.analysis.seed_rows import curve_rows, seed_rows

RECORD = {"objectives": ["score"], "seeds": [7, 9], "steps": 100}
PLACES = {0: {"trial": 0, "state": "PRUNED", "point": 0, "block": ""}}


def trial(intermediate=None, **attrs):
    frozen = create_trial(state=TrialState.PRUNED, intermediate_values=intermediate or {}, user_attrs=attrs)
    frozen.number = 0
    return [frozen]


def test_a_pruned_trial():
    # Seed 7 ended after its 100 steps; seed 9 was cut after 40: keys 100 + 20 and 100 + 40.
    note = {"value": 0.5, "steps": 100, "seconds": 8.0, "curve": {"step": [50, 100], "score": [0.4, 0.5]}}
    trials = trial({50: 0.4, 100: 0.5, 120: 0.2, 140: 0.3}, **{"seed/7": note, "pruned": {"seed_index": 1, "step": 40}})
    first, second = seed_rows(trials, PLACES, RECORD)
    assert (first["seed"], first["score"], first["steps"], first["last/score"]) == (7, 0.5, 100, 0.5)
    assert (second["seed"], second["score"], second["steps"]) == (9, None, 40)
    points = [(row["seed"], row["step"], row["score"]) for row in curve_rows(trials, PLACES, RECORD)]
    assert points == [(7, 50, 0.4), (7, 100, 0.5), (9, 20, 0.2), (9, 40, 0.3)]


def test_scores_memory_and_what_is_no_number():
    note = {
        "value": float("nan"),
        "memory_mib": {"policy": 900, "optimizer": 200, "value": None},
        "after": {"heldout": {"pass_at_1": 0.6, "note": "text"}},
        "curve": {"step": [1, 2, 3], "loss/kl": [0.1, 0.2, None]},
    }
    (row,) = seed_rows(trial(**{"seed/9": note}), PLACES, RECORD)
    assert row["score"] is None and row["memory_mib"] == 1100 and row["last/loss/kl"] == 0.2
    (on_gpu,) = seed_rows(trial(**{"seed/9": {"memory_mib": {"policy": 900, "peak": 4000}}}), PLACES, RECORD)
    assert on_gpu["memory_mib"] == 4000
    assert row["after/heldout/pass_at_1"] == 0.6 and row["after/heldout/note"] is None


def test_a_trial_that_noted_nothing():
    (row,) = seed_rows(trial(error="loss is nan"), PLACES, RECORD)
    assert row["seed"] is None and row["steps"] is None and row["error"] == "loss is nan"
    (row,) = seed_rows(trial(pruned={"seed_index": 0, "step": 30}), PLACES, RECORD)
    assert (row["seed"], row["steps"]) == (7, 30)
