import json

import pytest

from r1lab.task import gym_rules
from r1lab.task.gym_rules import agrees, has_form, same_text
from r1lab.task.reasoning_gym import ReasoningGym
from r1lab.task.template import Template
from tests.task.gym_scores import NoTokens, scores


def test_same_text_up_to_white_space():
    assert same_text(" 1  2 \n\n3\t4\n", "1 2\n3 4")
    assert not same_text("1 2 3 4", "1 2\n3 4") and not same_text("1 2", "12") and not same_text("a", "A")


@pytest.mark.parametrize(
    ("name", "right", "also_right", "wrong"),
    [
        ("game_of_life_halting", "True", ["true"], ["False", "True x", "I do not know"]),
        ("spell_backward", "mrofsi", ["MROFSI"], ["mrofsi x", "mrofsimrofsi"]),
        ("gsm_symbolic", "1512", ["1,512", "1512.0"], ["-1512"]),
        ("number_format", "379119118.799", ["3.79119118799e+08"], ["379119118.8"]),
        ("decimal_arithmetic", "94.504373144", ["94.504373144"], ["94.504", "94.50437314"]),
        ("calendar_arithmetic", "-1", [], ["100"]),
        ("coin_flip", "0.375", ["3/8", "0.37501"], ["0.3", "0"]),
        ("coin_flip", "0.00006", ["0.00006"], ["0"]),
        ("pool_matrix", "4.25 2.3333", ["4.25 2.33"], ["4.29 2.33"]),
        ("number_sorting", "['21.3', '-8']", ["[21.3, -8.0]"], ["['20.9', '-8']"]),
        ("palindrome_partitioning", '[["a", "a"], ["aa"]]', ['[["aa"], ["a", "a"]]'], ['[["a", "a"], ["aa"], ["aa"]]']),
        ("word_sorting", "yes, no", ["yes,no"], ["yes, no, no"]),
        ("time_intervals", "02:43:12.450", ["2:43:12.45"], ["02:43:12.450:07", "02:43:12.045"]),
        ("time_intervals", "5 days", [], ["5 days, 03:04"]),
        ("codeio", '{"a": 1}', ['{ "a":1 }'], ['{"a": 1, "b": 2}']),
        ("game_of_life", "[[0,1]]", ["[[0, 1]]"], ["[[0,1],[1,1]]", "[[0,1,1]]"]),
        ("knights_knaves", "Zoe is a sage, and Noah is a fool.", ["Noah is a fool, Zoe is a sage"],
         ["Zoe is a sage, and Noah is a fool. x", "Zoe is a sage. Zoe is a sage, and Noah is a fool."]),
    ],
)  # fmt: skip
def test_rules(name, right, also_right, wrong):
    entry = {"answer": right, "metadata": {}}
    assert [agrees(name, answer, entry) for answer in also_right] == [True] * len(also_right)
    assert [agrees(name, answer, entry) for answer in wrong] == [False] * len(wrong)


def test_commas_separate_thousands():
    right = ["1,234", "-12,345,678.5", "1234", "12."]
    assert [has_form("chain_sum", answer) for answer in [*right, "1,2", ",12", "12,", "1,23,4"]] == [True] * 4 + [
        False
    ] * 4


@pytest.mark.parametrize("text", ["nan", "['nan', 'nan']"])
def test_numbers_that_are_none_are_rejected(text):
    # complex_arithmetic and number_sorting pay 1 for them.
    assert not has_form("complex_arithmetic", text)
    with pytest.raises(ValueError):
        agrees("number_sorting", text, {"answer": "['1', '2']"})


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("sokoban", ["LURD", "L U\nR"], ["LURD x", "left", "lurd"]),
        ("rush_hour", ["F+1 K-3"], ["F+1 x", "F+999999999", "f+1", "I do not know"]),
        ("rubiks_cube", ["U R' F2", "Rw U'"], ["U9999999999", "U 7", "solve it"]),
        ("quantum_lock", ["A → B → C", "a,b c", "ABC"], ["A → B x", "A → B 7", "I do not know", ""]),
        ("tower_of_hanoi", ["Move disk 1 from Peg 2 to Peg 3\nMove disk 2 from Peg 2 to Peg 1"],
         ["xMove disk 1 from Peg 2 to Peg 3", "Move disk 1 from Peg 2 to Peg 3 x"]),
        ("fraction_simplification", ["16/25", r"$\frac{16}{25}$", r"\dfrac{16}{25}"],
         [r"$\frac{16}{25}$x", "16/25 7"]),
        ("advanced_geometry", ["81.87°", "(-20.636, 7)"], ["(1, 2), (3, 4)", "81.87° x"]),
        ("polynomial_equations", ["-1.09, 2"], ["-1.09, junk", "", "nan"]),
        ("kakurasu", ["0 1\n1 0"], ["0 1\n1 0 x", "0 1\n1 7"]),
    ],
)  # fmt: skip
def test_forms(name, right, wrong):
    assert [has_form(name, answer) for answer in right] == [True] * len(right)
    assert [has_form(name, answer) for answer in wrong] == [False] * len(wrong)


def test_a_graph_is_coloured_vertex_by_vertex():
    entry = {"metadata": {"puzzle": {"vertices": [0, 1]}}}
    assert agrees("graph_color", '{"0": 1, "1": 2}', entry)
    for wrong in ('{"0": 1, "1": 2, "x": 3}', '{"0": 1}', '{"0": 1, "1": true}'):
        assert not agrees("graph_color", wrong, entry)


def test_antiderivatives_have_known_constants():
    entry = {"metadata": {"variable": "X"}}
    assert agrees("simple_integration", "3*X**2 + sin(X) + C", entry)
    assert not agrees("simple_integration", "x + 3*X**2", entry)


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("reasoning_gym")

    @pytest.mark.parametrize(
        ("name", "hedges"),
        [
            ("syllogism", ["Yes No", "No Yes"]),
            ("course_schedule", ["True False"]),
            ("isomorphic_strings", ["False True"]),
            ("caesar_cipher", ["{} X"]),
            ("number_filtering", ["{} ['1']"]),
        ],
    )
    def test_the_right_answer_among_others_earns_nothing(self, name, hedges):
        task = ReasoningGym(NoTokens(), Template("{question}"), name)
        for prompt in [task.sample("train", index) for index in range(4)]:
            assert [task.is_correct(prompt, hedge.format(prompt.answer)) for hedge in hedges] == [0.0] * len(hedges)
            assert task.is_correct(prompt, prompt.answer) == 1.0

    @pytest.mark.parametrize("name", ["palindrome_generation", "rubiks_cube", "sentence_reordering", "tsumego"])
    def test_wrong_answers_share_a_small_floor_and_an_empty_one_earns_nothing(self, name):
        task = ReasoningGym(NoTokens(), Template("{question}"), name)
        prompt = task.sample("train", 0)
        floor = [task.is_correct(prompt, text) for text in ("I do not know", "I cannot solve this problem.", "x")]
        assert max(floor) <= 0.05 and task.is_correct(prompt, "") == task.is_correct(prompt, " \n") == 0.0

    @pytest.mark.parametrize("name", ["game_of_life_halting", "spell_backward", "calendar_arithmetic", "gsm_symbolic"])
    def test_right_answers_alone_are_paid(self, name):
        extremes, paid = scores(name, 4)
        assert extremes["right"] == extremes["white space"] == 1.0
        assert paid == []

    @pytest.mark.parametrize("name", ["composite", "propositional_logic"])
    def test_rejected_by_name(self, name):
        with pytest.raises(ValueError, match=f"task.name={name} cannot be scored soundly: it.* take "):
            ReasoningGym(NoTokens(), Template("{question}"), name)

    def test_arithmetic_is_exact_and_uses_the_given_numbers(self):
        entry = {"metadata": {"numbers": [8, 3, 8, 3], "target": 24}}
        assert agrees("countdown", "8/(3 - 8/3)", entry) and agrees("puzzle24", "-8/(8/3 - 3)", entry)
        for wrong in ("6*4", "8*3", "8*3 + 8 - 8", "8**1*3 - 3 + 8", "8/3*8 + 3", "x - x + 8/(3 - 8/3)"):
            assert not agrees("countdown", wrong, entry)

    def test_cars_move_as_told(self):
        # The red car is two places short of the exit, behind B.
        entry = {"metadata": {"board_config": "...B.." + "...B.." + "AA.B.." + "o" * 18}}
        entry["metadata"]["board_config"] = entry["metadata"]["board_config"].replace(".", "o")
        assert agrees("rush_hour", "B+3 A+4", entry) and agrees("rush_hour", "A+1 B+3 A+3", entry)
        assert not agrees("rush_hour", "A+4 B+3 A+4", entry)  # through B
        assert not agrees("rush_hour", "B+3 A+4 B-3", entry)  # solved before

    def test_boxes_move_as_told(self):
        state = {"0.5_0.5": ["box_red"], "0.5_1.5": ["target_red"]}
        entry = {"metadata": {"initial_state": state}}
        move, drop = (
            {"Agent[0.5, 0.5]": "move(box_red, square[0.5, 1.5])"},
            {"Agent[0.5, 1.5]": "move(box_red, target_red)"},
        )
        assert agrees("boxnet", json.dumps([move, drop]), entry)
        assert not agrees("boxnet", json.dumps([drop, move, drop]), entry)
        assert not agrees("boxnet", json.dumps([move, drop, {"Agent[9, 9]": "junk"}]), entry)

    def test_a_sokoban_answer_ends_when_the_puzzle_is_solved(self):
        entry = {"metadata": {"gamestr": "+ + + + +\n+ * @ X +\n+ + + + +"}}
        assert agrees("sokoban", "R", entry)
        assert not agrees("sokoban", "RL", entry)

    def test_entries_without_an_answer_keep_an_example_or_none(self):
        task = ReasoningGym(NoTokens(), Template("{question}"), "graph_color")
        prompt = task.sample("train", 0)
        assert task.is_correct(prompt, prompt.answer) == 1.0
        assert task.is_correct(prompt, "") == task.is_correct(prompt, "None") == 0.0
        task = ReasoningGym(NoTokens(), Template("{question}"), "rush_hour")
        assert task.sample("train", 0).answer == ""

    def test_entries_whose_answer_is_empty_are_passed_over(self):
        task = ReasoningGym(NoTokens(), Template("{question}"), "ab")
        entries = iter([{"question": f"q{n}", "answer": "" if n < 5 else "A#"} for n in range(100)])
        task._dataset = lambda config, seed: [next(entries)]
        assert task._make_entry("train", 0)["answer"] == "A#"

    def test_every_dataset_of_the_rules_exists(self):
        import reasoning_gym

        named = {*gym_rules.REJECTED, *gym_rules.EXAMPLES, *gym_rules._FORMS, *gym_rules._RULES}
        assert named <= set(reasoning_gym.factory.DATASETS)
        assert set(gym_rules._FORMS) <= set(gym_rules._RULES)

    @pytest.mark.slow
    def test_every_dataset(self):
        import reasoning_gym

        for name in set(reasoning_gym.factory.DATASETS) - set(gym_rules.REJECTED):
            extremes, paid = scores(name, 3)
            assert paid == [], name
            assert {extremes.get(kind, 1.0) for kind in ("right", "white space")} == {1.0}, name
