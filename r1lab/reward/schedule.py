"""The weight of a reward term over the steps of training."""

from collections.abc import Sequence
from numbers import Real

LARGEST = 1e30  # of weights and rewards: sums over a rollout of such numbers stay within float32


class Schedule:
    """A piecewise linear weight: straight lines between points [when, weight], flat before the first, behind the last.

    `when` is an optimizer step where it is a whole number, and a share of the run, from 0.0 to 1.0, where it is a
    fraction; one schedule has either. Two points at the same place make a jump, whose second weight holds from there
    on. DeepSeek-R1 has its preference rewards in the last quarter of the run alone (2501.12948v2, section 3.2):
    `[[0.75, 0], [0.75, 1]]`.

    Args:
        points: in ascending order.
        max_steps: optimizer steps of the whole run, for shares of it; None or -1 where it has no end.

    Raises:
        ValueError: no points, in another order, not finite, steps beside shares, an end at step 1, or shares of a run
            without an end.
    """

    def __init__(self, points: Sequence[Sequence[float]], max_steps: int | None = None):
        form = "points [[when, weight], ...], as [[0, 0.0], [300, 1.0]]"
        if not points or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in points):
            raise ValueError(f"a schedule has {form}, got {points!r}")
        if any(not isinstance(x, Real) or isinstance(x, bool) or not abs(x) <= LARGEST for p in points for x in p):
            raise ValueError(f"a schedule has {form}, of numbers up to {LARGEST:.0e}, got {points!r}")
        places = [when for when, _ in points if when]
        if {isinstance(when, int) for when in places} == {True, False}:
            raise ValueError(
                f"a schedule has steps, as whole numbers, or shares of the run, as fractions, not both; the end of the "
                f"run is 1.0, and 1 the first step: got {points!r}"
            )
        if len(points) > 1 and isinstance(points[-1][0], int) and points[-1][0] == 1:
            raise ValueError(f"this schedule ends at step 1; the end of the run is 1.0: got {points!r}")
        self.points = [(_step(when, max_steps), float(weight)) for when, weight in points]
        if self.points != sorted(self.points, key=lambda point: point[0]):
            raise ValueError(f"the points of a schedule must ascend, got {points!r}")

    def __call__(self, step: int) -> float:
        """The weight after `step` optimizer steps."""
        before = [point for point in self.points if point[0] <= step]
        after = [point for point in self.points if point[0] > step]
        if not before or not after:
            return (before or self.points[:1])[-1][1]
        (start, low), (end, high) = before[-1], after[0]
        return low + (high - low) * (step - start) / (end - start)


def _step(when: float, max_steps: int | None) -> float:
    if isinstance(when, int):
        return when
    if not 0 <= when <= 1:
        raise ValueError(f"a share of the run is from 0.0 to 1.0, got {when}; write a step as a whole number")
    if max_steps is None or max_steps < 0:
        raise ValueError(f"{when} is a share of trainer.max_steps, which is not set: give steps as whole numbers")
    return when * max_steps
