import pytest

from r1lab.analysis.setting import describe, find_baseline, key, label, short_names


def test_the_same_value():
    assert key(1) == key(1.0) and key(0.1 + 0.2) == key(0.3)
    assert len({key(v) for v in (1, True, "1", None, "null")}) == 5


def test_as_on_the_command_line():
    assert [label(v) for v in (None, True, 0.001, 1e-6, 8, "k3")] == ["null", "true", "0.001", "1e-06", "8", "k3"]
    assert describe({"loss.beta": 0.0, "loss.kl": None}, {"loss.beta": "beta"}) == "beta=0, loss.kl=null"


def test_short_names_tell_apart():
    assert list(short_names(["loss.beta", "reward.format.weight"]).values()) == ["beta", "format.weight"]
    assert list(short_names(["loss.scale", "advantage.scale"]).values()) == ["loss.scale", "advantage.scale"]
    assert short_names(["seed"]) == {"seed": "seed"}


SETTINGS = [{"kl": None}, {"kl": "k3", "beta": 0.0}, {"kl": "k3", "beta": 0.1}]


@pytest.mark.parametrize(
    ("baseline", "index", "reason"),
    [
        ({"kl": "k3", "beta": 0.1, "base": "one"}, 2, ""),
        ({"kl": None}, 0, ""),
        ({"beta": 0}, 1, ""),
        ({"kl": "k3"}, None, "fits 2 points"),
        ({"kl": "k1"}, None, "is not among the trials"),
        ({"base": "one"}, None, "names no baseline"),
        (None, None, "names no baseline"),
    ],
)
def test_baseline(baseline, index, reason):
    found, why = find_baseline(SETTINGS, baseline, ["base"])
    assert found == index and (reason in why if reason else why == "")
