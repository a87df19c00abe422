import json

import pyarrow.parquet as pq
import pytest
import torch

from r1lab.generate import SCHEMA, claim, generate
from r1lab.load import load
from r1lab.module.evaluation import sample
from r1lab.override import literal
from r1lab.rollout.hf import CachedLoop
from r1lab.rollout.sampling import Sampling
from r1lab.task.arithmetic import Arithmetic
from r1lab.types import Completion


@pytest.fixture
def run_generate(command, tiny_run):
    def run(*overrides):
        generate(command("generate", f"checkpoint={tiny_run}", *overrides))

    return run


@pytest.fixture
def write(run_generate, tmp_path):
    """write(*overrides) -> rows of 7 prompts in shards of 3, two samples each."""

    def run(*overrides):
        settings = ["split=heldout", "num_prompts=7", "num_samples=2", "shard_size=3", f"output={tmp_path}/out"]
        run_generate(*settings, *overrides)
        return rows(tmp_path / "out")

    return run


def rows(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def files(folder):
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_a_prompt_in_the_template_of_the_run(run_generate, capsys):
    run_generate('prompt="38 * 3 + 7 - 6"', "num_samples=3")
    first, *completions = capsys.readouterr().out.splitlines()
    assert first == "User: 38 * 3 + 7 - 6 Assistant:"
    assert len(completions) == 3 and len(set(completions)) == 3
    run_generate('prompt="38 * 3 + 7 - 6"', "num_samples=3")
    assert capsys.readouterr().out.splitlines() == [first, *completions]
    run_generate('prompt="38 * 3 + 7 - 6"', "num_samples=2", "temperature=0")
    _, *greedy = capsys.readouterr().out.splitlines()
    assert len(greedy) == 2 and len(set(greedy)) == 1


def test_an_interpolation_in_a_question_is_text(run_generate):
    with pytest.raises(ValueError, match=r"does not know '\$\{x\}' "):
        run_generate(literal("prompt=${x} + 5"))


def test_words_that_the_tokenizer_does_not_know(run_generate):
    with pytest.raises(ValueError, match=r"does not know 'what', 'is', '5\?' ") as raised:
        run_generate('prompt="what is 7 + what is 5?"')
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "given, reason",
    [
        ([], "either prompt=.* or split="),
        (["prompt=7", "split=heldout"], "either prompt=.* or split="),
        (["prompt="], "prompt='' is blank: give a question"),
        (["prompt='  '"], "prompt='  ' is blank: give a question"),
        (["split=heldout", "output="], "split needs output=FOLDER"),
        (["split=heldout"], "split needs output=FOLDER"),
        (["split=heldout", "output=nowhere", "num_samples=0"], "num_samples must be at least 1"),
    ],
)
def test_settings_that_do_not_go_together(run_generate, given, reason):
    with pytest.raises(ValueError, match=reason):
        run_generate(*given)


def test_columns(write, tmp_path, tiny_run):
    got = write()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "meta.json",
        *(f"shard-0000{n}-of-00003.parquet" for n in range(3)),
    ]
    assert pq.read_schema(tmp_path / "out/shard-00000-of-00003.parquet").equals(SCHEMA)
    assert [(row["prompt_index"], row["number"]) for row in got] == [(p, n) for p in range(7) for n in range(2)]
    # The same from the library, all at once.
    loaded = load(str(tiny_run))
    prompts = [loaded.task.sample("heldout", i) for i in range(7)]
    settings = {"num_samples": 2, "sampling": Sampling(1.0, 8), "seed": loaded.config["evaluation"]["seed"]}
    expected = sample(loaded.policy, loaded.engine, prompts, step=-2, **settings)
    for row, completion in zip(got, expected, strict=True):
        prompt = prompts[row["prompt_index"]]
        assert (row["prompt"], row["answer"], row["kind"]) == (prompt.text, prompt.answer, "arithmetic")
        assert row["difficulty"] == prompt.difficulty
        assert row["completion_ids"] == list(completion.ids) and row["length"] == len(completion.ids)
        assert (row["completion"], row["truncated"]) == (completion.text, completion.truncated)
        assert row["sampling_logprobs"] == pytest.approx(completion.sampling_logprobs, abs=1e-4)
    # No draw is shared with evaluations.
    assert [c.ids for c in sample(loaded.policy, loaded.engine, prompts, **settings)] != [c.ids for c in expected]


def test_from_another_number_on(write, run_generate, tmp_path):
    whole = {row["prompt_index"]: row["prompt"] for row in write()}
    run_generate("split=heldout", "first=5", "num_prompts=2", f"output={tmp_path}/later")
    assert [(row["prompt_index"], row["prompt"]) for row in rows(tmp_path / "later")] == [(5, whole[5]), (6, whole[6])]


def say_the_answer(self, model, prompts, **options):
    texts = [t for p in prompts for t in (f"<think> hmm </think> <answer> {p.answer} </answer>", "<answer> no")]
    return [Completion((5, 1), text, False, (-0.5, -0.25)) for text in texts]


def test_accuracy_and_format(write, monkeypatch):
    monkeypatch.setattr(CachedLoop, "generate", say_the_answer)
    assert [(row["accuracy"], row["wellformed"]) for row in write()] == [(1.0, True), (0.0, False)] * 7


def test_interrupted_and_gone_on_with(write, tmp_path, monkeypatch):
    whole = write()
    folder = tmp_path / "out"
    kept = folder / "shard-00000-of-00003.parquet"
    for path in sorted(folder.glob("*.parquet"))[1:]:
        path.unlink()
    before = files(folder)
    calls, original = [], CachedLoop.generate

    def second_fails(self, model, prompts, **options):
        calls.append([p.index for p in prompts])
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return original(self, model, prompts, **options)

    monkeypatch.setattr(CachedLoop, "generate", second_fails)
    with pytest.raises(RuntimeError, match="power cut"):
        write()
    # The first was there, the second is new, the third was never begun, and nothing lies about.
    assert calls == [[3, 4, 5], [6]]
    assert set(files(folder)) == {*before, "shard-00001-of-00003.parquet"}
    assert write() == whole
    assert calls[2:] == [[6]]
    assert files(folder)[kept.name] == before[kept.name]
    assert write() == whole and len(calls) == 3


def test_prompts_that_come_again_are_told(write, capsys, monkeypatch):
    original = Arithmetic.sample
    monkeypatch.setattr(Arithmetic, "sample", lambda self, split, index: original(self, split, index % 4))
    for _ in range(2):  # the second time all shards are there
        write()
        assert "14 completions of 4 different prompts (7 asked for) in 3 files" in capsys.readouterr().out


def test_samples_outlast_a_scorer_that_fails(write, tmp_path, monkeypatch):
    whole = write()
    second = tmp_path / "out/shard-00001-of-00003.parquet"
    second.unlink()

    def fails(self, prompts, completions):
        raise OSError("no scorer")

    with monkeypatch.context() as patch:
        patch.setattr("r1lab.generate.Format.__call__", fails)
        with pytest.raises(OSError, match="no scorer"):
            write()
    assert second.with_suffix(".samples").exists()
    with pytest.raises(ValueError, match="other settings"):
        write("temperature=0.5")
    with monkeypatch.context() as patch:
        patch.setattr(CachedLoop, "generate", fails)  # nothing is sampled again
        assert write() == whole
    assert not second.with_suffix(".samples").exists()


def test_a_language_of_no_known_script_has_no_consistency(run_generate, tmp_path):
    lines = [{"question": f"{i} + 1", "answer": str(i + 1), "language": "zh-TW"} for i in range(60)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_generate(
        "task=dataset", f"task.path={tmp_path}/own.jsonl", "split=train", "num_prompts=2", f"output={tmp_path}/own"
    )
    assert [(row["language"], row["language_consistency"]) for row in rows(tmp_path / "own")] == [("zh-TW", None)] * 2


def test_prompts_that_cannot_be_scored_are_rejected_before_sampling(write, tmp_path, monkeypatch):
    def raises(self, prompt, answer):
        raise ValueError(f"no answer to {prompt.index}")

    monkeypatch.setattr("r1lab.task.arithmetic.Arithmetic.is_correct", raises)
    monkeypatch.setattr(CachedLoop, "generate", None)
    with pytest.raises(ValueError, match="no answer to 0"):
        write()


def test_a_shard_is_named_when_it_is_whole(write, tmp_path, monkeypatch):
    def fail(table, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["meta.json"]


@pytest.mark.parametrize(
    "change", ["temperature=0.5", "num_samples=3", "split=harder", "shard_size=4", "seed=1", "num_prompts=9"]
)
def test_other_settings_are_refused(write, tmp_path, change):
    write()
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match=f"other settings .*{change.split('=')[0]}.* choose another output"):
        write(change)
    assert files(tmp_path / "out") == before


def test_prompts_that_begin_otherwise_are_other_settings(tmp_path):
    old, new = {"seed": 1}, {"seed": 1, "special_tokens": [0]}
    for before, now in (old, new), (new, old):
        folder = tmp_path / str(len(before))
        claim(folder, before)
        (folder / "shard-00000-of-00002.parquet").touch()
        claim(folder, before)
        with pytest.raises(ValueError, match="other settings .*special_tokens was .* choose another output"):
            claim(folder, now)


def test_the_same_weights_from_another_place_are_not(write, tiny_run, tmp_path):
    # Scored once, after its last step: the best checkpoint holds the weights of the last.
    whole = write()
    assert write(f"checkpoint={tiny_run}/checkpoints/best.ckpt") == whole
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["checkpoint"].endswith("last.ckpt") and len(meta["policy_sha256"]) == 64


def test_the_likeliest_tokens_and_their_logprobs(write, tiny_run, tmp_path):
    got = write("logprobs=top_k", "logprobs_k=5", "temperature=0.7")
    loaded = load(str(tiny_run))
    for row in got[:3]:
        prompt = loaded.tokenizer.encode(row["prompt"], add_special_tokens=False)
        with torch.no_grad():
            logits = loaded.policy(input_ids=torch.tensor([[*prompt, *row["completion_ids"]]])).logits[0]
        expected = (logits[len(prompt) - 1 : -1] / 0.7).log_softmax(-1).topk(5)
        torch.testing.assert_close(torch.tensor(row["top_logprobs"]), expected.values, rtol=1e-4, atol=1e-4)
        assert row["top_ids"] == expected.indices.tolist()
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["logprobs"] == {"k": 5, "temperature": 0.7}
    assert len(meta["policy_sha256"]) == 64 and meta["settings_sha256"]
    for other in (["logprobs=top_k", "logprobs_k=4", "temperature=0.7"], ["temperature=0.7"]):
        with pytest.raises(ValueError, match="made with other settings .*logprobs was"):
            write(*other)
    # A killed process leaves whole shards alone: what is gone is made again, the same, and what is there stays.
    second = tmp_path / "out/shard-00001-of-00003.parquet"
    second.unlink()
    (tmp_path / "out/.shard-00002-of-00003.parquet.tmp").write_bytes(b"half")
    before = files(tmp_path / "out")
    assert write("logprobs=top_k", "logprobs_k=5", "temperature=0.7") == got
    assert {name: files(tmp_path / "out")[name] for name in before} == before


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["logprobs=all"], "logprobs=all must be top_k"),
        (["logprobs=top_k"], "logprobs=top_k and logprobs_k=16.* go together"),
        (["logprobs_k=3"], "logprobs=top_k and logprobs_k=16.* go together"),
    ],
)
def test_logprobs_that_do_not_go_together(run_generate, given, reason):
    with pytest.raises(ValueError, match=reason):
        run_generate("split=heldout", "output=nowhere", *given)
