import numpy as np
import pytest

from r1lab.analysis.search_panels import importances
from r1lab.analysis.sweep import SweepError, load_sweep


@pytest.fixture
def search(write_sweep, tmp_path):
    """A score that lr decides alone; its trials have no beta where kl is null."""
    interval = {"kind": "interval", "low": 0.0, "high": 1.0, "log": False}
    params = {"lr": interval, "kl": ["k3", None], "beta": interval}
    writer = write_sweep(tmp_path / "tpe", params, seeds=[1], sampler="tpe")

    def write(count):
        rng = np.random.default_rng(0)
        for lr, beta in rng.uniform(size=(count, 2)):
            kl = {"kl": "k3", "beta": beta} if beta > 0.5 else {"kl": None}
            writer.trial({"lr": float(lr), **kl}, {1: float(lr)})
        return load_sweep(writer.folder)

    return write


def test_what_decides_is_important(search):
    found = importances(search(30))
    assert list(found) == ["lr", "kl"] and found["lr"] > 0.9 and sum(found.values()) == pytest.approx(1)


def test_too_few_trials(search):
    with pytest.raises(SweepError, match="needs 8 finished trials, there are 3"):
        importances(search(3))


def test_equal_scores(write_sweep, tmp_path):
    writer = write_sweep(tmp_path / "flat", {"a": [1, 2], "b": [1, 2]}, sampler="tpe")
    for i in range(10):
        writer.trial({"a": 1 + i % 2, "b": 1 + i % 3 % 2}, {1: 0.5})
    with pytest.raises(SweepError, match="zero total variance"):
        importances(load_sweep(writer.folder))
