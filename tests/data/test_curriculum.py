import pandas as pd
import pytest

from r1lab.data.curriculum import Curriculum, measured_rates
from r1lab.types import Prompt

SETTINGS = {"lowest": 0.2, "highest": 0.8, "explore": 0.25, "decay": 0.5}


def prompt(difficulty, index=0):
    return Prompt((1,), "", "", index=index, kind="sum", difficulty=difficulty)


def test_levels_in_the_band_are_taken_and_a_share_of_the_others():
    curriculum = Curriculum(**SETTINGS)
    curriculum.rates = {"sum/1": 0.2, "sum/2": 0.8, "sum/3": 0.81, "sum/4": 0.0}
    shares = [sum(curriculum.accepts(prompt(level, index)) for index in range(1000)) / 1000 for level in range(1, 6)]
    assert shares[:2] == [1, 1] and shares[4] == 1  # both ends lie inside; level 5 was never measured
    assert shares[2] == pytest.approx(0.25, abs=0.04) == shares[3]


def test_a_rollout_moves_the_rates_by_the_mean_of_each_level():
    curriculum = Curriculum(**SETTINGS)
    curriculum.note([(prompt(1), 0.0), (prompt(1), 0.5), (prompt(2), 1.0)])
    assert curriculum.rates == {"sum/1": 0.25, "sum/2": 1.0}  # a first measurement counts whole
    curriculum.note([(prompt(1), 0.75)])
    assert curriculum.rates == {"sum/1": 0.5, "sum/2": 1.0}


def test_rates_measured_beforehand(tmp_path):
    for name, difficulty, accuracy in (("a", [1, 1, 2], [1.0, 0.0, 0.5]), ("b", [1, 1, 3], [0.0, 0.0, 1.0])):
        pd.DataFrame({"kind": "sum", "difficulty": difficulty, "accuracy": accuracy}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    # Partial credit is not right.
    expected = {"sum/1": 0.25, "sum/2": 0.0, "sum/3": 1.0}
    assert measured_rates(tmp_path) == expected == Curriculum(**SETTINGS, measured=str(tmp_path)).rates
    with pytest.raises(FileNotFoundError, match=r"data.curriculum.measured=.*no Parquet file; make some with"):
        measured_rates(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "setting, told",
    [
        ({"lowest": 0.9}, "lowest=0.9 and highest=0.8"),
        ({"highest": 1.5}, "highest=1.5"),
        ({"explore": 0.0}, "explore=0.0 must be above 0"),
        ({"decay": 2.0}, "decay=2.0 must lie"),
    ],
)
def test_numbers_out_of_range(setting, told):
    with pytest.raises(ValueError, match=f"data.curriculum.*{told}"):
        Curriculum(**SETTINGS | setting)
