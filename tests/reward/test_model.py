import pytest
from transformers import AutoModelForSequenceClassification, LlamaConfig

from r1lab.model.quantize import quantized_weights
from r1lab.model.tiny import tiny_tokenizer
from r1lab.reward.model import LearnedReward, SequenceClassifier, load_classifier
from r1lab.types import Completion, Prompt

PROMPT = Prompt((1,), "User: 3 + 4 Assistant: ", "7", kind="general")
TEXT = "<think> 3 + 4 = 7 </think> <answer> 7 </answer>"


class Counts:
    """Scores a text by its words, and remembers what it saw."""

    def score(self, prompts, texts):
        self.seen = list(zip(prompts, texts, strict=True))
        return [len(text.split()) for text in texts]


def test_the_helpful_one_sees_the_answer_alone_the_safe_one_the_response():
    completions = [Completion((1,), TEXT, False), Completion((1,), "no tags", False), Completion((1,), TEXT, True)]
    helpful = Counts()
    assert LearnedReward(helpful, "answer")([PROMPT] * 3, completions) == [1.0, 0.0, 0.0]
    assert helpful.seen == [(PROMPT.text, "7"), (PROMPT.text, ""), (PROMPT.text, "")]
    safe = Counts()
    assert LearnedReward(safe, "response")([PROMPT] * 3, completions) == [10.0, 2.0, 10.0]
    with pytest.raises(ValueError, match="sees='thoughts'"):
        LearnedReward(safe, "thoughts")


def test_it_applies_to_its_kinds_of_prompts():
    scorer = Counts()
    term = LearnedReward(scorer, "answer", kinds=["general"])
    prompts = [Prompt((1,), "", "7", kind="arithmetic"), PROMPT]
    assert term(prompts, [Completion((1,), TEXT, False)] * 2) == [None, 1.0]
    assert term(prompts[:1], [Completion((1,), TEXT, False)]) == [None]
    assert len(scorer.seen) == 1


@pytest.fixture(scope="module")
def classifier():
    config = LlamaConfig(
        vocab_size=121, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config)


def test_a_classifier_scores_each_text_alike_in_any_batch(classifier):
    scorer = SequenceClassifier(classifier, tiny_tokenizer(), batch_size=2, max_length=64)
    texts = ["7", TEXT, "", "8"]
    together = scorer.score([PROMPT.text] * 4, texts)
    alone = [scorer.score([PROMPT.text], [text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 4
    assert scorer.score([], []) == []


def test_what_is_too_long_loses_its_left_end(classifier):
    scorer = SequenceClassifier(classifier, tiny_tokenizer(), batch_size=2, max_length=2)
    assert scorer.score(["3 + 4 "], ["= 7"]) == pytest.approx(scorer.score([""], ["= 7"]))


def test_from_a_folder(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    scorer = load_classifier(str(tmp_path), "float32", batch_size=2, max_length=64, quantize=None)
    expected = SequenceClassifier(classifier, tiny_tokenizer(), 2, 64).score([PROMPT.text], [TEXT])
    assert scorer.score([PROMPT.text], [TEXT]) == pytest.approx(expected)


def test_from_a_folder_in_few_bits(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    scorer = load_classifier(str(tmp_path), "float32", batch_size=2, max_length=64, quantize="nf4")
    assert len(quantized_weights(scorer.model)) == 7 * classifier.config.num_hidden_layers
    (whole,) = SequenceClassifier(classifier, tiny_tokenizer(), 2, 64).score([PROMPT.text], [TEXT])
    (small,) = scorer.score([PROMPT.text], [TEXT])
    assert whole != small == pytest.approx(whole, abs=0.1)


def test_one_output():
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(ValueError, match="one output, this one has 2"):
        SequenceClassifier(AutoModelForSequenceClassification.from_config(config), None, 1, 1)
