import math

import pytest

from r1lab.limits import check_command, check_numbers

CONFIG = {
    "seed": 1,
    "trainer": {"max_steps": 100},
    "rollout": {"batch_size": 256, "group_size": 16, "max_new_tokens": 48},
    "module": {"num_minibatches": 1, "num_iterations": 1, "microbatch_tokens": 0},
    "data": {"validation_prompts": 8, "batch_size": None},
    "model": {"lr": 0.001, "sft_lr": None},
    "optimizer": {"lr": 0.001},
}


def changed(name, value):
    *sections, key = name.split(".")
    return CONFIG | ({sections[0]: CONFIG[sections[0]] | {key: value}} if sections else {key: value})


def test_a_config_that_can_be():
    check_numbers(CONFIG)
    check_numbers(changed("trainer.max_steps", 100.0))
    check_numbers({"rollout": CONFIG["rollout"]})  # of a plan, or of what samples alone


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("seed", -1, "seed must be at least 0, got -1"),
        ("trainer.max_steps", -5, "trainer.max_steps must be at least 0, got -5"),
        ("rollout.batch_size", -16, "rollout.batch_size must be at least 1, got -16"),
        ("module.microbatch_tokens", -8000, "module.microbatch_tokens must be at least 0, got -8000"),
        ("module.microbatch_tokens", "abc", "module.microbatch_tokens must be a number, got 'abc'"),
        ("optimizer.lr", -1, "optimizer.lr must be at least 0, got -1"),
        ("optimizer.lr", math.inf, "^optimizer.lr must be a finite number, got inf: give one such as 1e-5$"),
        ("optimizer.lr", math.nan, "^optimizer.lr must be a finite number, got nan"),
        ("model.lr", math.inf, "^model.lr must be a finite number, got inf"),
        ("module.value_lr", math.inf, "^module.value_lr must be a finite number, got inf"),
        ("model.value_lr", -1.0, "^model.value_lr must be at least 0, got -1.0"),
        ("trainer.max_steps", math.nan, "^trainer.max_steps must be a whole number, got nan: give one such as 100$"),
        ("trainer.max_steps", math.inf, "^trainer.max_steps must be a whole number, got inf"),
        ("trainer.max_steps", 1.5, "^trainer.max_steps must be a whole number, got 1.5"),
        ("data.batch_size", 1.5, "^data.batch_size must be a whole number, got 1.5"),
        ("trainer.precision", 16, "trainer.precision=16 is not one of 32-true"),
        (
            "rollout.group_size",
            7,
            "rollout.batch_size=256 is not divisible by rollout.group_size=7; take a batch of 252",
        ),
        ("module.num_minibatches", 0, "module.num_minibatches must be at least 1, got 0"),
    ],
)
def test_what_cannot(name, value, words):
    with pytest.raises(ValueError, match=words):
        check_numbers(changed(name, value))


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("temperature", "abc", "temperature must be a number, got 'abc'"),
        ("temperature", float("nan"), "temperature must be a number, got nan"),
        ("temperature", -1, "temperature must be at least 0, got -1"),
        ("top_p", 2, "top_p must be at most 1, got 2"),
        ("top_k", 1.5, "top_k must be a whole number, got 1.5"),
        ("num_prompts", True, "num_prompts must be a whole number, got True"),
        ("first", -1, "first must be at least 0, got -1"),
        ("seed", 2**64, "seed must be at most"),
        ("ks", 4, r"ks must be a list, such as \[1,4\], got 4"),
        ("ks", [1, "a"], "ks must be a list"),
        ("ks", [0, 4], "ks must hold numbers from 1, got 0"),
        ("splits", "heldout", r"splits must be a list, such as \[heldout,harder\], got 'heldout'"),
        ("splits", [], "splits is empty"),
    ],
)
def test_settings_that_no_command_can_have(name, value, words):
    check_command({"num_prompts": 8, "seed": -1, "temperature": 0, "top_p": 1.0, "ks": [], "output": "x"})
    with pytest.raises(ValueError, match=words):
        check_command({name: value})
