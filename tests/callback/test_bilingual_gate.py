import json
from types import SimpleNamespace

import pytest

from r1lab.callback.bilingual_gate import BilingualGate
from r1lab.callback.gate import GateError

GOOD = {
    "forced": {"direct": 0.05, "third": 0.3, "two_thirds": 0.6, "all": 0.95},
    "sampled": {"pass_at_1": 0.1, "format": 0.25},
    "results": {"en": 0.97, "zh": 0.75},
    "consistency": {"en": 0.9, "zh": 0.7},
}


def changed(part: str, **values: float) -> dict:
    return GOOD | {part: GOOD[part] | values}


def run(folder, measured):
    """A fit with one validation; returns whether it was to stop there."""
    gate = BilingualGate(
        measure=lambda module, data: measured,
        folder=str(folder),
        forced_all=0.9,
        sampled=0.15,
        wellformed=0.35,
        rise=0.1,
        strong="en",
        weak="zh",
        strong_results=0.95,
        weak_results=[0.6, 0.85],
        consistency={"en": [0.7, 0.97], "zh": [0.45, 0.85]},
        provenance={},
    )
    saved = SimpleNamespace(save_pretrained=lambda folder: folder.mkdir(exist_ok=True))
    trainer = SimpleNamespace(datamodule=None, should_stop=False, global_rank=0)
    module = SimpleNamespace(step=7, whole=lambda: saved, tokenizer=saved)
    gate.on_validation_end(trainer, module)
    gate.on_fit_end(trainer, module)
    return trainer.should_stop


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (changed("forced", all=0.89), "forced accuracy: 0.890, needed at least 0.9"),
        (changed("results", en=0.94), "right results in en: 0.940, needed at least 0.95"),
        (changed("results", zh=0.59), "right results in zh: 0.590, needed at least 0.6"),
        # As good as the strong language: nothing to drift to.
        (changed("results", zh=0.86), "right results in zh: 0.860, needed at most 0.85"),
        (changed("consistency", zh=0.9), "language of zh prompts: 0.900, needed at most 0.85"),
        (changed("consistency", en=0.6), "language of en prompts: 0.600, needed at least 0.7"),
    ],
)
def test_a_base_that_misses_one_bound_is_refused(measured, words, tmp_path):
    with pytest.raises(GateError, match=words):
        run(tmp_path, measured)


def test_one_that_keeps_them_ends_the_training(tmp_path):
    assert run(tmp_path, GOOD)
    assert json.loads((tmp_path / "base" / "gate.json").read_text())["results"] == GOOD["results"]
