"""The gate of the tiny bilingual base: that of the tiny base, and one language in which it reckons better."""

from typing import Any

from r1lab.callback.gate import BaseGate, at_least, at_most


class BilingualGate(BaseGate):
    """After each validation: measure the base, and end the training as soon as it passes.

    Args (beside those of `BaseGate`, whose `measure` also returns "results" and "consistency" by language):
        strong, weak: the languages in which it reckons better and worse.
        strong_results: least probability of a right result in the strong one.
        weak_results: that in the weak one, least and largest.
        consistency: by language of the prompt, least and largest share of its words in the base's reasoning.
    """

    def __init__(
        self,
        *,
        strong: str,
        weak: str,
        strong_results: float,
        weak_results: tuple[float, float],
        consistency: dict[str, tuple[float, float]],
        **base: Any,
    ):
        super().__init__(**base)
        self.strong, self.weak = strong, weak
        self.strong_results, self.weak_results = strong_results, tuple(weak_results)
        self.consistency = {language: tuple(bounds) for language, bounds in consistency.items()}

    def bounds(self, measured: dict) -> list[tuple[str, float, str, bool]]:
        results, weak = measured["results"], f"right results in {self.weak}"
        mixing = [
            bound(f"reasoning in the language of {language} prompts", measured["consistency"][language], limit)
            for language, limits in self.consistency.items()
            for bound, limit in zip((at_least, at_most), limits, strict=True)
        ]
        return [
            *super().bounds(measured),
            at_least(f"right results in {self.strong}", results[self.strong], self.strong_results),
            at_least(weak, results[self.weak], self.weak_results[0]),
            at_most(weak, results[self.weak], self.weak_results[1]),
            *mixing,
        ]
