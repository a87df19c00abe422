import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

from r1lab.model.quantize import quantized_weights
from r1lab.model.tiny import tiny_tokenizer
from r1lab.reward.model import LearnedReward, SequenceClassifier, check_padding, load_classifier
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


def byte_tokenizer(pad: str | None, *, wrapped: bool = False, eos: str | None = "<eos>"):
    """One token a byte; wrapped: between <s> and <eos>."""
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<pad>", "<s>", *sorted(ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    if wrapped:
        ends = [(token, vocabulary[token]) for token in ("<s>", "<eos>")]
        backend.post_processor = TemplateProcessing(single="<s> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=pad)


def tiny_classifier(config_class, **options):
    torch.manual_seed(0)
    config = config_class(vocab_size=259, num_labels=1, **options)
    return AutoModelForSequenceClassification.from_config(config).eval()


LLAMA = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, bos_token_id=None)
GPT2 = dict(n_embd=16, n_layer=1, n_head=2)
BART = dict(
    d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=128, bos_token_id=2, decoder_start_token_id=0,
)  # fmt: skip
TEXTS = [
    "a long text " * 6,
    "short",
    "another <pad> one",
    "with <eos> inside",
    "at its end <pad>",
    "<pad>",
    "at its end <eos>",
]


def alone_in_transformers(model, tokenizer, text):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokenizer.encode(text)])).logits.item()


@pytest.mark.parametrize("of_config", [0, 1, 2, None])
@pytest.mark.parametrize("of_tokenizer", ["<pad>", "<eos>", None])
@pytest.mark.parametrize(("config_class", "size"), [(LlamaConfig, LLAMA), (GPT2Config, GPT2)])
def test_a_text_has_the_score_of_transformers_alone_whatever_pads(config_class, size, of_tokenizer, of_config):
    model = tiny_classifier(config_class, **size, pad_token_id=of_config, eos_token_id=0)
    tokenizer = byte_tokenizer(of_tokenizer)
    tokenizer.padding_side = "left"
    expected = [alone_in_transformers(model, tokenizer, text) for text in TEXTS]
    assert len(set(expected)) > 4
    scorer = SequenceClassifier(model, tokenizer, batch_size=16, max_length=128)
    assert scorer.score([""] * len(TEXTS), TEXTS) == pytest.approx(expected, abs=1e-5)
    assert model.config.pad_token_id == of_config
    check_padding(scorer.score_rows, model, tokenizer)


@pytest.mark.parametrize(
    ("config_class", "size"),
    [(BertConfig, LLAMA), (RobertaConfig, LLAMA), (DebertaV2Config, LLAMA), (BartConfig, BART)],
)
def test_encoders_keep_their_special_tokens(config_class, size):
    model = tiny_classifier(config_class, **{**size, "bos_token_id": 2}, pad_token_id=1, eos_token_id=0)
    tokenizer = byte_tokenizer("<pad>", wrapped=True)
    texts = ["a long text", "short", ""]
    expected = [alone_in_transformers(model, tokenizer, text) for text in texts]
    scorer = SequenceClassifier(model, tokenizer, batch_size=3, max_length=64)
    assert scorer.score([""] * 3, texts) == pytest.approx(expected, abs=1e-5)
    # What is too long loses the left end of its text, not the token at which an encoder is scored.
    short = SequenceClassifier(model, tokenizer, batch_size=3, max_length=7)
    expected = [alone_in_transformers(model, tokenizer, text) for text in (" text", "_text")]
    assert short.score([""] * 2, ["a long text", "_text"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("of_config", [0, 1, 2])
@pytest.mark.parametrize(
    ("config_class", "size"),
    [(BertConfig, LLAMA), (RobertaConfig, LLAMA), (BartConfig, BART)],
)
def test_encoders_read_a_text_to_its_end_whatever_pads(config_class, size, of_config):
    # <eos>, which ends each text, and <pad> are the config's padding in turn. BART is scored at the last <eos>.
    model = tiny_classifier(config_class, **{**size, "bos_token_id": 2}, pad_token_id=of_config, eos_token_id=0)
    for weights in model.parameters():  # so that texts differ by more than rounding
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, 0, 0.3)
    for wrapped in (True, False):
        tokenizer = byte_tokenizer("<pad>", wrapped=wrapped)
        texts = TEXTS if wrapped or config_class is not BartConfig else [text for text in TEXTS if "<eos>" in text]
        expected = [alone_in_transformers(model, tokenizer, text) for text in texts]
        scorer = SequenceClassifier(model, tokenizer, batch_size=16, max_length=128)
        assert scorer.score([""] * len(texts), texts) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("config_class", "of_config", "wrapped", "message"),
    [
        (RobertaConfig, None, True, "set pad_token_id in its config.json, to 1 as in its tokenizer"),
        (BartConfig, 1, False, "give a tokenizer that ends each text with the model's EOS token, id 0"),
    ],
)
def test_models_that_cannot_score_a_text_are_rejected(tmp_path, config_class, of_config, wrapped, message):
    size = BART if config_class is BartConfig else LLAMA
    model = tiny_classifier(config_class, **{**size, "bos_token_id": 2}, pad_token_id=of_config, eos_token_id=0)
    model.save_pretrained(tmp_path)
    byte_tokenizer("<pad>", wrapped=wrapped).save_pretrained(tmp_path)
    name = type(model).__name__
    for batch_size in (1, 2):
        with pytest.raises(ValueError, match=f"^scorer.name={tmp_path}: {name} cannot score a text.*: {message}$"):
            load_classifier(str(tmp_path), "float32", batch_size, max_length=64, quantize=None)


def test_a_padding_token_beyond_the_embedding_pads_nothing():
    model = tiny_classifier(LlamaConfig, **LLAMA, pad_token_id=None, eos_token_id=0)
    tokenizer = byte_tokenizer(None)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 259
    scorer = SequenceClassifier(model, tokenizer, batch_size=2, max_length=64)
    expected = [alone_in_transformers(model, tokenizer, text) for text in ("a longer text", "b")]
    assert scorer.score([""] * 2, ["a longer text", "b"]) == pytest.approx(expected, abs=1e-5)


def test_rows_that_leave_no_id_to_pad_with_are_scored_one_by_one():
    model = tiny_classifier(LlamaConfig, **LLAMA, pad_token_id=None, eos_token_id=0)
    scorer = SequenceClassifier(model, byte_tokenizer(None), batch_size=2, max_length=512)
    rows = [list(range(259)), [5, 6]]
    assert scorer.score_rows(rows) == pytest.approx([scorer.score_rows([row])[0] for row in rows], abs=1e-5)


def test_an_empty_text_needs_a_token():
    model = tiny_classifier(LlamaConfig, **LLAMA, pad_token_id=None, eos_token_id=0)
    scorer = SequenceClassifier(model, byte_tokenizer(None), batch_size=2, max_length=64)
    together = scorer.score(["", ""], ["", "a text"])
    assert together == pytest.approx([scorer.score([""], [text])[0] for text in ("", "a text")], abs=1e-5)
    scorer = SequenceClassifier(model, byte_tokenizer(None, eos=None), batch_size=2, max_length=64)
    with pytest.raises(ValueError, match="cannot score an empty text.* no BOS and no EOS"):
        scorer.score([""], [""])


def test_models_whose_scores_depend_on_padding_are_rejected(tmp_path):
    # XLNet's summary is of the last position, whether or not it is padding.
    model = tiny_classifier(XLNetConfig, d_model=16, n_layer=1, n_head=2, d_inner=24, pad_token_id=1)
    model.save_pretrained(tmp_path)
    byte_tokenizer("<pad>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="XLNetForSequenceClassification scores .* apart.* set scorer.batch_size=1"):
        load_classifier(str(tmp_path), "float32", batch_size=2, max_length=64, quantize=None)
    scorer = load_classifier(str(tmp_path), "float32", batch_size=1, max_length=64, quantize=None)
    assert scorer.score([""] * 2, ["a text", "b"])[1:] == pytest.approx(scorer.score([""], ["b"]))
