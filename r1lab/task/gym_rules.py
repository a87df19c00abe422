"""Which answers to reasoning-gym's data sets are right.

The text of the entry's own answer is right, white space aside. Another answer is right where the data set's scorer
pays for it and a rule of this module agrees. Some scorers of reasoning-gym 0.1.25 skip what they cannot read
(`spell_backward`: a right word with a tail), compare too loosely (`number_sorting`: each number up to 1 off) or not at
all (`game_of_life_halting`: any text). A data set without a rule has no other right answers, so that a data set of a
later release is paid too little rather than too much.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

Rule = Callable[[str, Mapping[str, Any]], bool]

# Data sets that cannot be scored soundly.
REJECTED = {
    "composite": "it mixes other data sets, past the rules for them; take task=mixed, or one of them by its name",
    "propositional_logic": "its scorer pays for a premise that is repeated, and its premises often contradict each "
    "other, so that everything follows; take another data set",
}
# Where an entry without an answer of its own keeps one that is right.
EXAMPLES = {"graph_color": "possible_answer", "rubiks_cube": "example_correct_answer"}

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
# Scorers leave commas out, wherever they stand.
_GROUPED = r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?"
# What an answer must be made of before a scorer sees it: scorers skip the rest, or run for hours on it.
_FORMS = {
    **dict.fromkeys(
        ("chain_sum", "decimal_arithmetic", "decimal_chain_sum", "products", "rectangle_count"),
        rf"{_NUMBER}|{_GROUPED}",
    ),
    "advanced_geometry": rf"{_NUMBER}\s*°?|\(?\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)?",
    "complex_arithmetic": r"(?i:[-+0-9.ije() ]+)",
    "cryptarithm": r"[A-Z]\s*=\s*[0-9](?:\s*,\s*[A-Z]\s*=\s*[0-9])*",
    "fraction_simplification": r"(\$*)\s*(?:[0-9]+\s*/\s*[0-9]+|\\d?frac\s*\{\s*[0-9]+\s*\}\s*\{\s*[0-9]+\s*\})\s*\1",
    "kakurasu": r"[01\s,\[\]]+",
    "polynomial_equations": rf"{_NUMBER}(?:\s*,\s*{_NUMBER})*",
    "pool_matrix": rf"{_NUMBER}(?:\s+{_NUMBER})*",
    "quantum_lock": r"(?i:[ABC](?:(?:\s|,|→|->)*[ABC])*)",
    "rubiks_cube": r"[A-Za-z]w?'?[0-9]?(?:\s+[A-Za-z]w?'?[0-9]?)*",
    "rush_hour": r"[A-Z][-+][0-9](?:\s+[A-Z][-+][0-9])*",
    "sokoban": r"[LDRU\s]+",
    "tower_of_hanoi": r"(?:Move disk [0-9]+ from Peg [0-9]+ to Peg [0-9]+(?:\s+|$))+",
}


def same_text(answer: str, right: str) -> bool:
    """Whether two texts have the same words in the same lines, empty lines aside."""
    return _lines(answer) == _lines(right)


def holds(answer: str, right: str) -> bool:
    """Whether all letters of the right answer stand in an answer one after another."""
    return bool(right.strip()) and _letters(right) in _letters(answer)


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def has_form(name: str, answer: str) -> bool:
    """Whether a data set's scorer may be given an answer: whether it reads all of it."""
    return name not in _FORMS or re.fullmatch(_FORMS[name], answer) is not None


def agrees(name: str, answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether an answer that a data set's scorer pays for is right.

    Raises whatever its rule raises on an answer that it cannot read.
    """
    rule = _RULES.get(name)
    return rule is not None and rule(answer, entry)


def _scorer_alone(answer: str, entry: Mapping[str, Any]) -> bool:
    """For scorers that read the whole answer, or all of its form, and compare it soundly."""
    return True


def _same_letters(answer: str, entry: Mapping[str, Any]) -> bool:
    """Case and white space aside."""
    return _letters(answer) == _letters(entry["answer"])


def _letters(text: str) -> str:
    return "".join(text.split()).lower()


def _same_number(answer: str, entry: Mapping[str, Any]) -> bool:
    return _fraction(answer) == _fraction(entry["answer"])


def _fraction(text: str) -> Fraction:
    if "," in text and not re.fullmatch(_GROUPED, text.strip()):
        raise ValueError(f"{text!r} has commas that do not separate thousands")
    return Fraction(text.replace(",", ""))


def _twelve_digits(answer: str, entry: Mapping[str, Any]) -> bool:
    """To a unit of the 12th significant digit, as the question asks; the scorer takes fewer decimals."""
    right = _fraction(entry["answer"])
    return abs(_fraction(answer) - right) <= abs(right) / 10**11


def _same_json(answer: str, entry: Mapping[str, Any]) -> bool:
    return json.loads(answer) == json.loads(entry["answer"])


def _day_or_number(answer: str, entry: Mapping[str, Any]) -> bool:
    """The scorer's error is relative to the right number, and below 0 where that is -1."""
    return _same_letters(answer, entry) or int(answer) == int(entry["answer"])


def _near_probability(answer: str, entry: Mapping[str, Any]) -> bool:
    """The scorer's tolerance of 1e-4, but at most 1 % of what is right; a matching first digit is not enough."""
    right = _fraction(entry["answer"])
    return abs(_fraction(answer) - right) <= min(Fraction(1, 10_000), right / 100)


def _rounded_matrix(answer: str, entry: Mapping[str, Any]) -> bool:
    """To two decimals, as the question asks."""
    rows, right = ([[float(x) for x in line] for line in _lines(text)] for text in (answer, entry["answer"]))
    pairs = [pair for line in zip(rows, right, strict=True) for pair in zip(*line, strict=True)]
    return all(abs(x - y) <= 0.005 + 1e-9 for x, y in pairs)


def _same_numbers(answer: str, entry: Mapping[str, Any]) -> bool:
    """Two lists, in Python's or JSON's form, with numbers or their texts as items."""
    lists = [json.loads(text.replace("'", '"')) for text in (answer, entry["answer"])]
    values, right = ([Fraction(str(item)) for item in items] for items in lists)
    return values == right


def _same_words(answer: str, entry: Mapping[str, Any]) -> bool:
    return [word.strip() for word in answer.split(",")] == [word.strip() for word in entry["answer"].split(",")]


def _same_partitions(answer: str, entry: Mapping[str, Any]) -> bool:
    return sorted(json.loads(answer)) == sorted(json.loads(entry["answer"]))


def _same_duration(answer: str, entry: Mapping[str, Any]) -> bool:
    """The same numbers between the same signs: `2:43:12.45` for `02:43:12.450`; the scorer skips what follows them."""
    (signs, numbers), (right_signs, right) = (
        (re.sub(r"[0-9.]+", "", text), [Fraction(number) for number in re.findall(r"[0-9.]+", text)])
        for text in (answer, entry["answer"])
    )
    return numbers == right and signs.split() == right_signs.split()


def _each_letter_once(answer: str, entry: Mapping[str, Any]) -> bool:
    return answer.count("=") == len(entry["metadata"]["letter_to_digit"])


def _same_statements(answer: str, entry: Mapping[str, Any]) -> bool:
    """Each name and role once, and nothing beside them. The scorer has compared the pairs."""
    counts = [Counter(re.findall(r"[^\s.,()]+", text.lower())) for text in (answer, entry["answer"])]
    for count in counts:
        for filler in ("is", "a", "an", "and"):
            del count[filler]
    return counts[0] == counts[1]


def _arithmetic(answer: str, entry: Mapping[str, Any]) -> bool:
    """The given numbers, each once, with + - * / and brackets, and the exact value of the target."""
    from sympy import parse_expr

    plain = re.fullmatch(r"[-+*/() 0-9]+", answer) and not re.search(r"\*\s*\*|/\s*/", answer)
    numbers, target = entry["metadata"]["numbers"], entry["metadata"].get("target", 24)
    used = sorted(map(int, re.findall(r"[0-9]+", answer)))
    return bool(plain) and used == sorted(numbers) and parse_expr(answer) == target


def _antiderivative(answer: str, entry: Mapping[str, Any]) -> bool:
    """The scorer takes every unknown letter for a constant; these are those in use."""
    letters = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", answer)
    return set(letters) <= {entry["metadata"]["variable"], *"CcKkE"}


def _each_vertex_once(answer: str, entry: Mapping[str, Any]) -> bool:
    colors, puzzle = json.loads(answer), entry["metadata"]["puzzle"]
    return set(colors) == set(map(str, puzzle["vertices"])) and all(type(color) is int for color in colors.values())


def _pours(answer: str, entry: Mapping[str, Any]) -> bool:
    moves = json.loads(answer)
    return isinstance(moves, list) and all(
        re.fullmatch(r"(?:fill|empty) [A-Z]|pour [A-Z]->[A-Z]", move) for move in moves
    )


def _boxes_move(answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether each action moves a box. The scorer skips actions that are impossible."""
    from reasoning_gym.games.boxnet import action_from_response

    state = entry["metadata"]["initial_state"]
    for agent, action in (pair for step in json.loads(answer) for pair in step.items()):
        before, state = state, action_from_response(state, [{agent: action}])
        if state == before:
            return False
    return True


def _cars_move(answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether each car moves as far as its move says, the red one to the exit last.

    The scorer moves a car as far as it can.
    """
    from reasoning_gym.games.rush_hour import Board

    board = Board(entry["metadata"]["board_config"])
    for move in answer.split():
        car, steps = board._pieces[ord(move[0]) - ord("A")], int(move[1:])
        start, solved = car.position, board.solved
        board.move(move[0], steps)
        if solved or car.position != start + steps * car.stride:
            return False
    return True


def _ends_when_solved(answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether no move follows the one that solves the puzzle."""
    import numpy as np
    from reasoning_gym.games.contrib.sokoban.src.game import Game
    from reasoning_gym.games.contrib.sokoban.src.utils import is_solved

    rows = [list(line) for line in entry["metadata"]["gamestr"].replace(" ", "").split()]
    game = Game(height=len(rows), width=len(rows[0]))
    game.load_puzzle_matrix(np.array(rows))
    for move in "".join(answer.split()):
        if is_solved(game.get_curr_state()):
            return False
        game.player.update(key=move)
    return True


_RULES: dict[str, Rule] = {
    "decimal_arithmetic": _twelve_digits,
    **dict.fromkeys(
        (
            *("advanced_geometry", "bitwise_arithmetic", "chain_sum", "complex_arithmetic"),
            *("decimal_chain_sum", "fraction_simplification", "group_anagrams", "kakurasu", "knight_swap", "n_queens"),
            *("palindrome_generation", "polynomial_equations", "polynomial_multiplication", "power_function"),
            *("prime_factorization", "products", "quantum_lock", "rectangle_count", "rubiks_cube", "shortest_path"),
            *("tower_of_hanoi", "word_ladder"),
        ),
        _scorer_alone,
    ),
    **dict.fromkeys(
        (
            *("color_cube_rotation", "dice", "family_relationships", "figlet_font", "game_of_life_halting"),
            *("letter_jumble", "needle_haystack", "sentence_reordering", "spell_backward", "tsumego", "zebra_puzzles"),
        ),
        _same_letters,
    ),
    **dict.fromkeys(("gsm_symbolic", "number_format"), _same_number),
    **dict.fromkeys(("codeio", "game_of_life"), _same_json),
    **dict.fromkeys(("countdown", "puzzle24"), _arithmetic),
    **dict.fromkeys(("intermediate_integration", "simple_integration"), _antiderivative),
    "boxnet": _boxes_move,
    "calendar_arithmetic": _day_or_number,
    "coin_flip": _near_probability,
    "cryptarithm": _each_letter_once,
    "graph_color": _each_vertex_once,
    "jugs": _pours,
    "knights_knaves": _same_statements,
    "number_sorting": _same_numbers,
    "palindrome_partitioning": _same_partitions,
    "pool_matrix": _rounded_matrix,
    "rush_hour": _cars_move,
    "sokoban": _ends_when_solved,
    "time_intervals": _same_duration,
    "word_sorting": _same_words,
}
