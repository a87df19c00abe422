import pytest

from r1lab.model.tiny import FILLER, tiny_tokenizer


def test_one_token_a_word():
    tokenizer = tiny_tokenizer()
    # 2 special, 6 tags, 5 signs, 8 fillers, 100 numbers
    assert len(tokenizer) == 121
    for word in ("<think>", "</think>", "<answer>", "</answer>", "User:", "Assistant:", "*", ",", "0", "99", *FILLER):
        assert len(tokenizer.encode(word)) == 1
    assert len(tokenizer.encode("User: 7 + 5 * 4 Assistant:")) == 7


def test_nothing_is_added_and_the_end_is_left_out_of_texts():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("7 + 5")
    assert tokenizer.encode("7 + 5", add_special_tokens=False) == ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True) == "7 + 5"


def test_an_unknown_word_is_an_error():
    with pytest.raises(Exception, match="UNK"):
        tiny_tokenizer().encode("7 plus 5")
