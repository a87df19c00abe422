"""The gate of the tiny base: reasoning must be there, latent, and worth its length; else RL has nothing to find."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L


class GateError(RuntimeError):
    """A base that R1-Zero would not learn from."""


def at_least(what: str, value: float, bound: float) -> tuple[str, float, str, bool]:
    return what, value, f"at least {bound}", value >= bound


def at_most(what: str, value: float, bound: float) -> tuple[str, float, str, bool]:
    return what, value, f"at most {bound}", value <= bound


class BaseGate(L.Callback):
    """After each validation: measure the base, and end the training as soon as it passes.

    At the end `gate.json` is written, and a base that passed is saved as a Hugging Face folder, `base`. The base is
    gated, not timed: with longer training it would learn to do more in its head, and working would be worth less.

    Args:
        measure: module and data -> {"forced": {direct, third, two_thirds, all}, "sampled": scores, ...}.
        folder: the run's folder.
        forced_all: least accuracy when made to write the whole working.
        sampled: largest accuracy of its own samples. wellformed: largest share of well-formed ones.
        rise: least rise of the forced accuracy from one share of the working to the next.
        provenance: written beside the weights: what remakes them.
    """

    def __init__(
        self,
        *,
        measure: Callable[[L.LightningModule, L.LightningDataModule], dict],
        folder: str,
        forced_all: float,
        sampled: float,
        wellformed: float,
        rise: float,
        provenance: dict[str, str | int],
    ):
        # Hydra hands a mapping of its own, which neither merges with a dict nor turns into JSON.
        self.measure, self.folder, self.provenance = measure, Path(folder), dict(provenance)
        self.forced_all, self.sampled, self.wellformed, self.rise = forced_all, sampled, wellformed, rise
        self.report: dict = {}

    def bounds(self, measured: dict) -> list[tuple[str, float, str, bool]]:
        """What is asked of a base: in words, its value, the bound in words, and whether it is kept."""
        forced, sampled = list(measured["forced"].values()), measured["sampled"]
        return [
            at_least("forced accuracy", forced[-1], self.forced_all),
            at_most("sampled accuracy", sampled["pass_at_1"], self.sampled),
            at_most("well-formed samples", sampled["format"], self.wellformed),
            at_least(
                "least rise with more working", min(b - a for a, b in zip(forced, forced[1:], strict=False)), self.rise
            ),
        ]

    def failures(self, measured: dict) -> list[str]:
        """What keeps a base from passing, in words; empty when it passes."""
        return [
            f"{what}: {value:.3f}, needed {bound}" for what, value, bound, kept in self.bounds(measured) if not kept
        ]

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        measured = self.measure(module, trainer.datamodule)
        failures = self.failures(measured)
        self.report = {"passed": not failures, "failures": failures, "steps": module.step, **measured}
        trainer.should_stop = trainer.should_stop or not failures

    def state_dict(self) -> dict:
        return {"report": self.report}

    def load_state_dict(self, state: dict) -> None:
        self.report = state["report"]

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        policy = module.whole()  # all ranks gather one in shards
        if trainer.global_rank or not self.report:
            return
        text = json.dumps(self.report | self.provenance, indent=2) + "\n"
        (self.folder / "gate.json").write_text(text)
        if failures := self.report["failures"]:
            raise GateError(f"the base did not pass its gate: {'; '.join(failures)}; see {self.folder}/gate.json")
        policy.save_pretrained(self.folder / "base")
        module.tokenizer.save_pretrained(self.folder / "base")
        (self.folder / "base" / "gate.json").write_text(text)
