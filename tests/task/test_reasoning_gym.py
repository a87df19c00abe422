import pickle
import random
import re
import sys

import numpy as np
import pytest

from r1lab.reward.countdown import Countdown
from r1lab.task.protocol import SPLITS
from r1lab.task.reasoning_gym import ReasoningGym, difficulty, split_of
from r1lab.task.template import Template

TEMPLATE = Template("User: {question} Assistant:")


class Characters:
    def encode(self, text, add_special_tokens=True):
        return [ord(c) for c in text]


def make(name="chain_sum", config=None, harder_config=None):
    return ReasoningGym(Characters(), TEMPLATE, name, config or {}, harder_config)


def test_absent_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match="r1lab.reasoning-gym"):
        make()


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("reasoning_gym")

    def test_prompt(self):
        task = make(config={"min_terms": 2, "max_terms": 2, "max_digits": 1})
        prompt = task.sample("train", 5)
        question = prompt.columns["question"]
        assert prompt.text == f"User: {question} Assistant:"
        assert prompt.ids == tuple(ord(c) for c in prompt.text)
        assert (prompt.kind, prompt.index, task.name) == ("chain_sum", 5, "chain_sum")
        # "... problem: 4 + 3 =" is worked out here by Python itself.
        assert str(eval(question.split(":")[1].strip(" ="))) == prompt.answer

    def test_scored_by_the_dataset(self):
        task = make()
        prompt = task.sample("heldout", 0)
        assert task.is_correct(prompt, prompt.answer) == 1.0
        # chain_sum's own scorer takes "007.0" for 7; plain equality of strings would not.
        assert task.is_correct(prompt, f"{prompt.answer}.0") == 1.0
        assert task.is_correct(prompt, "not a number") < 0.1

    def test_scores_prompts_that_another_process_sampled(self):
        prompt = make().sample("train", 3)
        assert make().is_correct(prompt, prompt.answer) == 1.0

    def test_a_pickled_one_scores(self):
        task = make(config={"min_terms": 2}, harder_config={"min_terms": 4})
        scorer = pickle.loads(pickle.dumps(task.is_correct))
        for split in ("train", "harder"):
            prompt = task.sample(split, 3)
            assert scorer(prompt, prompt.answer) == 1.0
            assert scorer(prompt, "seven") < 0.1

    def test_columns_of_the_metadata(self):
        columns = {"countdown": ["numbers", "target"], "chain_sum": []}
        task = ReasoningGym(Characters(), TEMPLATE, "countdown", columns=columns)
        prompt = task.sample("train", 0)
        assert Countdown()(prompt, prompt.answer) == task.is_correct(prompt, prompt.answer) == 1.0
        assert set(make().sample("train", 0).columns) == {"question", "split"}

    def test_a_scorer_that_raises_means_wrong(self):
        task = make("prime_factorization")
        prompt = task.sample("train", 0)
        with pytest.raises(ValueError):
            task._scorers["train"].score_answer("foo bar", task._entry("train", 0))
        assert task.is_correct(prompt, "foo bar") == 0.0
        assert task.is_correct(prompt, prompt.answer) == 1.0

    @pytest.mark.parametrize(
        "name", ["binary_matrix", "n_queens", "spiral_matrix", "string_insertion", "countdown", "puzzle24",
                 "polynomial_multiplication", "simple_integration", "intermediate_integration"]
    )  # fmt: skip
    def test_an_answer_is_never_run(self, name, tmp_path):
        task = make(name)
        prompt = task.sample("train", 0)
        file = tmp_path / "written"
        assert task.is_correct(prompt, f"open({str(file)!r}, 'w').close()") < 0.1
        assert task.is_correct(prompt, f"exec({f'open({str(file)!r}, chr(119))'!r})") < 0.1
        assert not file.exists()
        assert task.is_correct(prompt, "9**9**9**9") < 0.1
        assert task.is_correct(prompt, prompt.answer) == 1.0

    def test_a_number_too_long_to_write_out_is_wrong_at_once(self):
        task = make("coin_flip")
        assert task.is_correct(task.sample("train", 0), "1e999,999,999") == 0.0

    def test_a_list_is_still_read(self):
        # binary_matrix gives 0.1 for the right matrix written as a Python list.
        task = make("binary_matrix")
        prompt = task.sample("train", 0)
        rows = [[int(n) for n in row.split()] for row in prompt.answer.splitlines()]
        assert task.is_correct(prompt, str(rows)) == 0.1

    def test_a_formula_is_still_read(self):
        task = make("countdown")
        prompt = task.sample("train", 0)
        assert task.is_correct(prompt, f" ({prompt.answer}) ") == 1.0

    @pytest.mark.parametrize("name", ["chain_sum", "pool_matrix", "gsm_symbolic"])
    def test_item_follows_from_split_and_index_alone(self, name):
        forward, backward = make(name), make(name)
        wanted = [(split, index) for split in SPLITS[:3] for index in (0, 1, 10**6)]
        random.seed(1)
        first = [forward.sample(*key) for key in wanted]
        random.seed(2)
        assert [backward.sample(*key) for key in reversed(wanted)] == first[::-1]
        assert len({prompt.text for prompt in first}) > 5

    def test_global_generators_are_left_alone(self):
        # pool_matrix seeds NumPy's global generator, codeio draws from Python's.
        python, numpy = random.getstate(), np.random.get_state()[1].tolist()
        make("pool_matrix").sample("train", 0)
        # codeio's items depend on Python's global generator, which is seeded for it.
        assert make("codeio").sample("train", 0) == make("codeio").sample("train", 0)
        assert random.getstate() == python
        assert np.random.get_state()[1].tolist() == numpy

    def test_splits_share_no_question_however_few_there_are(self):
        # 100 sums of two digits: every question comes up many times in 4 * 100 samples.
        config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
        task = make(config=config, harder_config={"max_terms": 3})
        questions = {s: {task.sample(s, i).columns["question"] for i in range(100)} for s in SPLITS}
        for split, own in questions.items():
            assert len(own) > 10
            assert all(split_of(question) == split for question in own)
        assert len(set().union(*questions.values())) == sum(map(len, questions.values()))

    def test_shares_of_the_splits(self):
        counts = [sum(split_of(str(n)) == split for n in range(5000)) for split in SPLITS]
        # .4, .2, .2, .2 of 5000; the standard deviation of a count is at most 35.
        assert counts == pytest.approx([2000, 1000, 1000, 1000], abs=140)

    def test_harder(self):
        task = make(config={"max_terms": 3}, harder_config={"min_terms": 9, "max_terms": 9})
        prompt = task.sample("harder", 0)
        assert prompt.columns["question"].count("+") + prompt.columns["question"].count("-") == 8
        assert prompt.difficulty > task.sample("train", 0).difficulty
        assert task.is_correct(prompt, prompt.answer) == 1.0

    def test_difficulty_is_what_the_entry_says_of_itself(self):
        prompts = [make(config={"min_terms": 2, "max_terms": 4, "max_digits": 2}).sample("train", i) for i in range(40)]
        for prompt in prompts:
            numbers = re.findall(r"[0-9]+", prompt.columns["question"])
            assert prompt.difficulty - len(numbers) in (1, 2)
        assert len({prompt.difficulty for prompt in prompts}) > 2
        # The numbers that countdown gives, not its target; a dataset that tells nothing has harder ones alone.
        assert make("countdown").sample("train", 0).difficulty in (4, 5, 6)
        assert difficulty({"difficulty": 1.0}, 0) == difficulty({}, 0) == 0 and difficulty({}, 1) == 1

    def test_harder_needs_its_setting(self):
        task = make()
        with pytest.raises(ValueError, match="task.harder_config.*max_terms"):
            task.sample("harder", 0)
        with pytest.raises(ValueError, match="task.harder_config changes nothing"):
            make(config={"max_terms": 3}, harder_config={"max_terms": 3})

    def test_errors_name_the_nearest(self):
        with pytest.raises(ValueError, match="no dataset 'chain_sums' .*chain_sum"):
            make("chain_sums")
        with pytest.raises(ValueError, match="no parameter task.config.max_term; nearest: max_terms"):
            make(config={"max_term": 3})
        with pytest.raises(ValueError, match="task.harder_config.seed"):
            make(harder_config={"seed": 3})
        with pytest.raises(ValueError, match="refuses {'min_terms': 9}: max_terms must be"):
            make(config={"min_terms": 9})
        with pytest.raises(ValueError, match="unknown split 'test'"):
            make().sample("test", 0)

    def test_too_few_questions(self):
        # One question in all: it belongs to one split, and the others have none.
        config = {"min_terms": 1, "max_terms": 1, "min_digits": 1, "max_digits": 1}
        task = make("chain_sum", config)
        task._dataset = lambda config, seed: [{"question": "always the same", "answer": "1"}]
        other = next(s for s in SPLITS[:3] if s != split_of("always the same"))
        with pytest.raises(ValueError, match="too few different questions"):
            task.sample(other, 0)

    def test_listed_tasks_have_harder_problems(self):
        listed = {"chain_sum": {"min_terms": 7, "max_terms": 9}}
        for name, splits in (("chain_sum", SPLITS), ("leg_counting", SPLITS[:3])):
            assert ReasoningGym(Characters(), TEMPLATE, name, harder_configs=listed).splits == splits
