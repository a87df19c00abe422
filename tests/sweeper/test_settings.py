import pytest

from r1lab.sweeper.settings import Settings
from tests.sweeper.fake import settings


@pytest.mark.parametrize("seeds, expected", [(3, [1, 2, 3]), ([7, 2], [7, 2])])
def test_seeds_are_a_number_or_a_list(tmp_path, seeds, expected):
    assert Settings(**settings(tmp_path, seeds=seeds)).seed_list == expected


def test_one_objective_or_several(tmp_path):
    one = Settings(**settings(tmp_path))
    assert (one.objective_list, one.direction_list) == (["validation/pass_at_1"], ["maximize"])
    two = Settings(**settings(tmp_path, objectives=["a", "b"], directions=["maximize", "minimize"]))
    assert (two.objective_list, two.direction_list) == (["a", "b"], ["maximize", "minimize"])


@pytest.mark.parametrize(
    "given, told",
    [
        ({"seeds": "two"}, "hydra.sweeper.seeds must be a number or a list of numbers, got two"),
        ({"seeds": ["a"]}, "hydra.sweeper.seeds must be a number or a list of numbers"),
        ({"workers": "two"}, "hydra.sweeper.workers must be at least 1, got two"),
        ({"minimum_effect": "abc"}, "hydra.sweeper.minimum_effect must be a number or null"),
        ({"directions": "up"}, "hydra.sweeper.directions: each is maximize or minimize, got up"),
        ({"exclude": {"x": 1}}, "hydra.sweeper.exclude must be a list of points"),
        ({"seeds": 0}, "hydra.sweeper.seeds must be a number above 0 or a list of different seeds, got 0"),
        ({"seeds": [1, 2, 1]}, "hydra.sweeper.seeds must be a number above 0"),
        ({"objectives": ["a", "b"]}, "hydra.sweeper.directions=maximize must be as many as the objectives"),
        (
            {"objectives": ["a", "b"], "directions": ["maximize"] * 2, "pruner": "median"},
            "hydra.sweeper.pruner: pruning needs a single objective.*set hydra/sweeper/pruner=none",
        ),
        ({"sampler": "grid", "custom_search_space": "a.b"}, "custom_search_space adds parameters that a grid cannot"),
        ({"pruner": "wilcoxon", "seeds": 4}, "could never prune with 4: set hydra.sweeper.seeds=5 or more"),
        ({"exclude": [{"x": 1}]}, "hydra.sweeper.exclude leaves out points of a grid"),
        ({"objectives": "heldout/pass_at_1", "pruner": "median"}, "comes after its last step: name a metric of the"),
        ({"expected": [{"point": {"x": 1}, "direction": "up", "source": "?"}]}, "hydra.sweeper.expected: an entry is"),
        ({"workers": 0}, "hydra.sweeper.workers must be at least 1, got 0"),
        ({"batch": 0}, "hydra.sweeper.batch must be at least 1"),
        ({"n_trials": 0}, "hydra.sweeper.n_trials must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_settings_name(tmp_path, given, told):
    with pytest.raises(ValueError, match=told):
        Settings(**settings(tmp_path, **given))


def test_every_setting_of_the_config_is_one_of_the_class(tmp_path):
    made = Settings(**settings(tmp_path, sampler="grid"))
    assert made.is_grid and not Settings(**settings(tmp_path, sampler="tpe")).is_grid
