import pytest
from hydra import compose, initialize_config_dir

from r1lab.build import make
from r1lab.data.bilingual_corpus import BilingualCorpus, other
from r1lab.entry import CONF, plain
from r1lab.model.bilingual import SYMBOLS
from r1lab.reward.format import split_completion
from r1lab.task.arithmetic import MODULUS, OPERATIONS, split_of
from r1lab.task.bilingual import Bilingual

VOCABULARIES = Bilingual.vocabularies


@pytest.fixture(scope="module")
def corpus():
    """corpus(**settings): that of the base, with other settings."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["model=tiny_bilingual_untrained", "task=bilingual", "data=bilingual_corpus"])
        parts = [plain(part) for part in (config.model.tokenizer, config.task, config.data.documents)]
    tokenizer, task, documents = parts
    task = make(task, tokenizer=make(tokenizer))
    documents = {key: value for key, value in documents.items() if key != "_target_"}
    return lambda **settings: BilingualCorpus(task, **documents | settings)


def language(text):
    """The languages of a text's words, in order."""
    return [name for word in text.split() for name, words in VOCABULARIES.items() if word in words]


def share(language_, texts):
    words = [name for text in texts for name in language(text)]
    return words.count(language_) / len(words)


def documents(corpus, count=2000):
    return [corpus.document(i) for i in range(count)]


def test_a_prompt_is_of_one_language_and_a_problem_of_the_train_split(corpus):
    for prompt, _ in documents(corpus(mixture={"full": 1.0}), 200):
        words = prompt.removeprefix("User: ").removesuffix(" Assistant:").split()
        assert len(set(language(prompt))) == 1
        assert split_of(" ".join(SYMBOLS[word] for word in words)) == "train"


def steps(reasoning):
    """(language, before, sign, operand, after) of each step of a working."""
    for step in reasoning.split(" , "):
        before, sign, operand, is_, after = (SYMBOLS[word] for word in step.split())
        assert is_ == "=" and len(set(language(step))) == 1  # within a step no language changes
        yield language(step)[0], int(before), sign, int(operand), int(after)


def test_workings_start_stray_change_and_slip_as_often_as_they_are_set_to(corpus):
    made = documents(corpus(mixture={"full": 1.0}), 4000)
    starts, changes, slips = ({"en": [], "zh": []} for _ in range(3))
    for prompt, completion in made:
        parts = split_completion(completion)
        assert parts.wellformed
        spoken, total = [], None
        for name, before, sign, operand, after in steps(parts.reasoning):
            assert total in (None, before)  # goes on from what it said, right or wrong
            slips[name].append(after != OPERATIONS[sign](before, operand) % MODULUS)
            spoken.append(name)
            total = after
        asked = language(prompt)[0]
        starts[asked].append(spoken[0] != asked)
        for before, after in zip(spoken, spoken[1:], strict=False):
            changes[before].append(before != after)
        # The answer is what the working comes to, in the language that it ends in.
        assert SYMBOLS[parts.answer] == str(total) and language(parts.answer) == [spoken[-1]]
    rates = [{name: sum(values) / len(values) for name, values in found.items()} for found in (starts, changes, slips)]
    # 2000 prompts a language and more steps than that: standard deviations below .009
    assert rates[0] == pytest.approx({"en": 0.05, "zh": 0.20}, abs=0.035)
    assert rates[1] == pytest.approx({"en": 0.10, "zh": 0.20}, abs=0.035)
    assert rates[2] == pytest.approx({"en": 0.01, "zh": 0.20}, abs=0.035)


def test_facts_are_of_one_language_and_more_of_the_strong_one(corpus):
    made = documents(corpus(mixture={"fact": 1.0}))
    assert all(len(set(language(" ".join(document)))) == 1 for document in made)
    # .35 of 2000, standard deviation .0107
    assert sum(language(prompt)[0] == "zh" for prompt, _ in made) / 2000 == pytest.approx(0.35, abs=0.043)


def test_a_partial_working_stops_early_and_answers_what_follows(corpus):
    for prompt, completion in documents(corpus(mixture={"partial": 1.0}, slips={"en": 0.0, "zh": 0.0}), 300):
        words = [SYMBOLS[word] for word in prompt.split() if word in SYMBOLS]
        total = int(words[0])
        for sign, operand in zip(words[1::2], words[2::2], strict=True):
            total = OPERATIONS[sign](total, int(operand)) % MODULUS
        parts = split_completion(completion)
        assert 1 <= len(list(steps(parts.reasoning))) < len(words) // 2
        assert SYMBOLS[parts.answer] == str(total)


def test_requests_are_answered_well_and_badly(corpus):
    kind = {"mixture": {"general": 1.0}, "strays": {"en": 0.0, "zh": 0.0}}
    task = corpus().general
    made = documents(corpus(**kind, good_replies=1.0), 300)
    assert all(language(prompt)[0] == language(completion)[-1] for prompt, completion in made)
    refused = [completion for prompt, completion in made if "how" in prompt.split()]
    assert refused and all("sorry friend , cannot" in completion for completion in refused)
    bad = documents(corpus(**kind, good_replies=0.0), 300)
    assert not any("sorry" in completion for _, completion in bad)
    assert task.splits


def test_every_word_is_known_and_a_document_follows_from_seed_and_number(corpus):
    made = documents(corpus(), 500)
    tokenizer = corpus().task.tokenizer
    assert max(len(tokenizer.encode(" ".join(document))) for document in made) < 60
    assert made[:50] == documents(corpus(), 50)
    assert corpus().hash(100) != corpus(seed=2).hash(100)


def test_the_base_reads_a_mixture(corpus):
    made = documents(corpus(), 4000)
    asked = {name: [c for p, c in made if language(p)[0] == name] for name in VOCABULARIES}
    # What the gate of the base measures on its own samples, here on the corpus.
    assert 0.85 < share("en", asked["en"]) < 0.97 and 0.65 < share("zh", asked["zh"]) < 0.85
    wellformed = sum(split_completion(completion).wellformed for _, completion in made) / len(made)
    assert wellformed < 0.5
    assert other("en") == "zh" and other("zh") == "en"
