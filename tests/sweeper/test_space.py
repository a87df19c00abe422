import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from r1lab.sweeper.space import SpaceError, parse_space

PARAMS = {
    "loss.beta": "0.0,0.04",
    "rollout.group_size": "choice(4,16)",
    "reference": "fixed,none",
    "reward": "[accuracy],[accuracy,format]",
    "loss.ratio_cap": "null,3.0",
}


def test_every_form_of_hydras_grammar():
    space = parse_space(
        PARAMS
        | {
            "module.num_minibatches": "range(1,6,2)",
            "optimizer.lr": "tag(log, interval(1e-5, 1e-2))",
            "data.size": "int(interval(2, 8))",
            "evaluate": False,
        },
        ["seed=4"],
    )
    kinds = {name: p.kind for name, p in space.parameters.items()}
    assert kinds == dict.fromkeys(PARAMS, "choice") | {
        "module.num_minibatches": "range", "optimizer.lr": "interval", "data.size": "int_interval"
    }  # fmt: skip
    assert space.parameters["loss.ratio_cap"].distribution == CategoricalDistribution([None, 3.0])
    assert space.parameters["module.num_minibatches"].distribution == CategoricalDistribution([1, 3, 5])
    assert space.parameters["optimizer.lr"].distribution == FloatDistribution(1e-5, 1e-2, log=True)
    assert space.parameters["data.size"].distribution == IntDistribution(2, 8)
    assert space.fixed == ["evaluate=False", "seed=4"]


def test_points_become_overrides():
    space = parse_space(PARAMS, ["seed=4"])
    grid = space.grid()
    assert len(grid) == 2**5
    assert space.overrides(grid[0]) == [
        "seed=4",
        "loss.beta=0.0",
        "rollout.group_size=4",
        "reference=fixed",
        "reward=[accuracy]",
        "loss.ratio_cap=null",
    ]
    assert space.overrides(grid[-1])[1:] == [
        "loss.beta=0.04",
        "rollout.group_size=16",
        "reference=none",
        "reward=[accuracy,format]",
        "loss.ratio_cap=3.0",
    ]
    # What a custom search space adds is no parameter of its own.
    assert space.overrides({"loss.kl_target": 0.5, "name": "a b"})[1:] == ["loss.kl_target=0.5", "name=a\\ b"]


def test_the_command_line_replaces_a_parameter():
    space = parse_space(PARAMS, ["loss.beta=0.5", "reference=fixed,ema"])
    assert "loss.beta" not in space.parameters and "loss.beta=0.5" in space.fixed
    assert list(space.parameters["reference"].levels) == ["fixed", "ema"]


def test_what_is_queued_is_what_a_trial_gets():
    space = parse_space({"a": "1,2", "b": "interval(0,1)"}, [])
    study = optuna.create_study()
    study.enqueue_trial({"a": 2, "b": 0.25})
    trial = study.ask()
    assert {name: p.suggest(name, trial) for name, p in space.parameters.items()} == {"a": 2, "b": 0.25}


@pytest.mark.parametrize(
    "params, told",
    [
        ({"loss.beta": "choice(1,"}, r"loss.beta=choice\(1, is not in Hydra's"),
        ({"loss.beta": "choice(1)"}, "loss.beta: needs at least two different levels"),
        ({"loss.beta": "1,2,1"}, "loss.beta: needs at least two different levels"),
        ({"task": "glob(*)"}, "task: a glob is not supported"),
        ({"loss.beta": "interval(2,1)"}, r"loss.beta: interval\(2.0, 1.0\) is empty"),
        ({"loss.beta": "tag(log,interval(0,1))"}, "loss.beta: a logarithmic interval must begin above 0"),
    ],
)
def test_errors_name_the_parameter(params, told):
    with pytest.raises(SpaceError, match=told):
        parse_space(params, [])


def test_a_grid_needs_levels():
    with pytest.raises(SpaceError, match="loss.beta is an interval, which a grid cannot enumerate"):
        parse_space({"loss.beta": "interval(0,1)"}, []).grid()
