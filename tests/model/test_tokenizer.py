"""Prompts begin as the tokenizer has it, and completions are left alone."""

import pytest

from r1lab.data.documents import in_microbatches
from r1lab.model.policy import load_tokenizer
from r1lab.model.tokenizer import (
    encode_prompt,
    encode_prompts,
    encode_text,
    encode_whole,
    eos_of,
    prompt_start,
    with_padding,
)
from r1lab.module.reward_model import scored_ids
from r1lab.task.arithmetic import Arithmetic
from r1lab.task.template import Template
from tests.model.byte_tokenizer import BOS, EOS, START, tokenizer


@pytest.mark.parametrize(
    ("form", "first"),
    [
        (None, []),
        ("$A <eos>", []),
        ("<bos> $A", [BOS]),
        ("<bos> $A <eos>", [BOS]),
        ("<bos> <start> $A <eos>", [BOS, START]),
    ],
)
def test_a_prompt_has_what_the_tokenizer_puts_first_once(form, first):
    writes = tokenizer(form)
    text = encode_text(writes, "a b")
    assert len(text) == 3 and min(text) > START
    assert encode_prompt(writes, "a b") == first + text
    begun = "".join(writes.convert_ids_to_tokens(first)) + "a b"
    assert encode_prompt(writes, begun) == first + text
    assert encode_prompts(writes, ["a b", begun]) == [first + text] * 2 and encode_prompts(writes, []) == []


def test_special_tokens_that_change_are_followed():
    writes = tokenizer("<bos> $A <eos>")
    assert prompt_start(writes) == [BOS]
    writes.backend_tokenizer.post_processor = tokenizer("<start> $A <eos>").backend_tokenizer.post_processor
    assert prompt_start(writes) == [START] and encode_prompt(writes, "a")[0] == START


def test_prompts_of_special_tokens_do_not_hide_what_the_tokenizer_adds():
    writes = tokenizer("<bos> $A <eos>")
    assert encode_prompts(writes, ["<eos>", "a b"])[1] == encode_prompt(writes, "a b")
    # A text that begins with the first of two keeps it.
    both = tokenizer("<bos> <start> $A")
    assert encode_prompt(both, "<bos>a b") == [BOS, START, *encode_text(both, "a b")]


@pytest.mark.parametrize("form", [None, "$A <eos>", "<bos> $A", "<bos> $A <eos>"])
def test_a_text_to_be_judged_has_all_that_the_tokenizer_adds_once(form):
    writes = tokenizer(form)
    assert encode_whole(writes, "a b") == writes.encode("a b")
    if form and form.startswith("<bos>"):
        assert encode_whole(writes, "<bos>a b") == writes.encode("a b")


def test_a_prompt_that_is_the_bos_token_has_one():
    assert encode_prompt(tokenizer("<bos> $A <eos>"), "<bos>") == [BOS]
    assert encode_prompts(tokenizer("<bos> $A"), ["<bos>", "a"])[1][0] == BOS


def test_tasks_documents_and_reward_models_encode_prompts_so():
    writes = with_padding(tokenizer("<bos> $A <eos>"), "model.name=x")
    operands = {"+": (2, 5)}
    task = Arithmetic(writes, Template("Q: {question}"), [1], [2], operands, "{chain}")
    assert task.sample("train", 0).ids == (BOS, *encode_text(writes, task.sample("train", 0).text))

    class Documents:
        def document(self, index):
            return "a", "b"

    (batch,) = in_microbatches(Documents(), [0], writes, 0, False)
    a, b = (encode_text(writes, letter)[0] for letter in "ab")
    assert batch.input_ids.tolist() == [[BOS, a, b, EOS]] and batch.completion_ids.tolist() == [[b, EOS]]
    assert scored_ids(writes, ["a"], ["b"]) == [[BOS, a, b, EOS]]


@pytest.mark.parametrize("name", ["tiny", "tiny_bilingual"])
def test_the_shipped_tokenizers_add_nothing(name):
    writes = load_tokenizer(name)
    assert encode_prompt(writes, "<answer>") == writes.encode("<answer>", add_special_tokens=False)


def test_a_prompt_without_a_token_is_rejected():
    with pytest.raises(ValueError, match="the prompt '' has no token: give it some text"):
        encode_prompt(tokenizer("<bos> $A"), "")


def test_padding_and_end(tmp_path):
    writes = tokenizer(None)
    assert with_padding(writes, "model.name=x").pad_token_id == eos_of(writes) == EOS
    bare = tokenizer(None, eos_token=None)
    with pytest.raises(ValueError, match="no eos_token, and each text to be learnt needs an end: set eos_token in"):
        eos_of(bare)
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"model.name={tmp_path}: its tokenizer has neither a pad_token nor an eos_"):
        load_tokenizer(str(tmp_path))
