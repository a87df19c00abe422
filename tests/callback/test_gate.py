import json
from types import SimpleNamespace

import pytest

from r1lab.callback.gate import BaseGate, GateError

GOOD = {
    "forced": {"direct": 0.05, "third": 0.3, "two_thirds": 0.7, "all": 0.98},
    "sampled": {"pass_at_1": 0.12, "format": 0.25},
}


def gate(folder, measure) -> BaseGate:
    bounds = {"forced_all": 0.95, "sampled": 0.15, "wellformed": 0.35, "rise": 0.1}
    return BaseGate(measure=measure, folder=str(folder), provenance={"command": "train", "seed": 1}, **bounds)


def changed(part: str, **values: float) -> dict:
    return GOOD | {part: GOOD[part] | values}


class Saved:
    """A policy or tokenizer that notes where it was saved."""

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        self.folder = folder


def run(folder, *measurements):
    """A fit whose validations measure these in turn; returns the trainer and the module."""
    values = iter(measurements)
    callback = gate(folder, lambda module, data: next(values))
    trainer = SimpleNamespace(datamodule=None, should_stop=False, global_rank=0)
    policy = Saved()
    module = SimpleNamespace(step=7, policy=policy, tokenizer=Saved(), whole=lambda: policy)
    for _ in measurements:
        callback.on_validation_end(trainer, module)
    callback.on_fit_end(trainer, module)
    return trainer, module


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (changed("forced", all=0.94), "forced accuracy: 0.940, needed at least 0.95"),
        (changed("sampled", pass_at_1=0.16), "sampled accuracy: 0.160, needed at most 0.15"),
        (changed("sampled", format=0.36), "well-formed samples: 0.360, needed at most 0.35"),
        # .9 to .98 is the least of the rises .25, .6 and .08
        (changed("forced", two_thirds=0.9), "least rise with more working: 0.080, needed at least 0.1"),
        # More working that does worse is no rise either.
        (changed("forced", third=0.01), "least rise with more working: -0.040"),
    ],
)
def test_a_base_that_misses_one_bound_is_refused(measured, words, tmp_path):
    with pytest.raises(GateError, match=words):
        run(tmp_path, measured)
    assert json.loads((tmp_path / "gate.json").read_text())["passed"] is False
    assert not (tmp_path / "base").exists()


def test_training_ends_when_the_base_passes_and_ships_it_with_what_remakes_it(tmp_path):
    trainer, module = run(tmp_path, changed("forced", all=0.5), GOOD)
    assert trainer.should_stop
    assert module.policy.folder == module.tokenizer.folder == tmp_path / "base"
    shipped = json.loads((tmp_path / "base" / "gate.json").read_text())
    assert shipped == {"passed": True, "failures": [], "steps": 7, **GOOD, "command": "train", "seed": 1}


def test_training_goes_on_before(tmp_path):
    callback = gate(tmp_path, lambda module, data: changed("forced", all=0.5))
    trainer = SimpleNamespace(datamodule=None, should_stop=False, global_rank=0)
    callback.on_validation_end(trainer, SimpleNamespace(step=1))
    assert not trainer.should_stop
