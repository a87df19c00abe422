import json
import shutil
from itertools import islice
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from r1lab.data.filters import FILTERS
from r1lab.data.teacher_samples import TeacherData, TeacherSamples, _check_stored
from r1lab.load import load
from r1lab.model.tiny import FILLER, word_tokenizer
from r1lab.model.tokenizer import vocabulary_hash
from tests.model.byte_tokenizer import BOS, tokenizer

DEFAULTS = {"filters": {}, "per_prompt": 4, "top_k": 0, "temperature": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def loaded(tiny_run):
    return load(str(tiny_run))


@pytest.fixture(scope="module")
def stored(teacher_samples):
    """Rows by (prompt, ids)."""
    tables = [pq.read_table(path).to_pylist() for path in sorted(teacher_samples.glob("*.parquet"))]
    return {(row["prompt"], tuple(row["completion_ids"])): row for rows in tables for row in rows}


def samples(folder, loaded, **settings):
    return TeacherSamples(folder, loaded.tokenizer, **DEFAULTS | settings)


def test_each_once_an_epoch_in_an_order_of_its_own(teacher_samples, loaded, stored):
    found = samples(teacher_samples, loaded)
    assert len(found) == len(stored) == 12
    epochs = [[found.sample(epoch * 12 + i) for i in range(12)] for epoch in range(2)]
    for epoch in epochs:
        assert {(loaded.tokenizer.decode(row.prompt_ids), row.ids) for row in epoch} == set(stored)
    assert epochs[0] != epochs[1]
    # Any sample follows from its number alone.
    again = samples(teacher_samples, loaded)
    assert again.sample(17) == epochs[1][5] and again.sample(3) == epochs[0][3]
    assert [samples(teacher_samples, loaded, seed=2).sample(i) for i in range(12)] != epochs[0]


def test_two_shards_at_a_time_are_held(teacher_samples, loaded, monkeypatch):
    found, read = samples(teacher_samples, loaded), []
    original = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, **options: read.append(path) or original(path, **options))
    for i in range(24):
        found.sample(i)
    # Three shards, one after the other: at most each once an epoch.
    assert 3 <= len(read) <= 6


def test_stored_logprobs_are_at_the_places_of_the_completion(teacher_samples, loaded, stored):
    row = samples(teacher_samples, loaded, top_k=3).sample(0)
    kept = stored[loaded.tokenizer.decode(row.prompt_ids), row.ids]
    assert (row.top_ids, row.top_logprobs) == (kept["top_ids"], kept["top_logprobs"])
    assert len(row.top_ids) == len(row.ids) and {len(place) for place in row.top_ids} == {4}


def test_a_teacher_of_another_tokenizer_is_read_as_text_and_never_by_its_logprobs(teacher_samples, stored):
    other = word_tokenizer([*(str(n) for n in range(99, -1, -1)), *FILLER, "+", "-", "*", "=", ",", "<pad>", "<eos>"])
    texts = {(row["prompt"], row["completion"]) for row in stored.values()}
    found = TeacherSamples(teacher_samples, other, **DEFAULTS)
    rows = [found.sample(i) for i in range(len(found))]
    assert {(other.decode(row.prompt_ids), other.decode(row.ids, skip_special_tokens=False)) for row in rows} <= {
        (prompt, text) for prompt, text in texts
    } | {(prompt, f"{text} <eos>".strip()) for prompt, text in texts}
    with pytest.raises(ValueError, match="the teacher of data.folder=.* has another tokenizer .* module.mode=sft"):
        TeacherSamples(teacher_samples, other, **DEFAULTS | {"top_k": 3})


def test_stored_logprobs_must_be_of_prompts_that_begin_alike():
    logprobs = {"k": 3, "temperature": 1.0}
    writes = tokenizer("<bos> $A")
    meta = {"logprobs": logprobs, "tokenizer_sha256": vocabulary_hash(writes)}
    _check_stored(meta | {"special_tokens": [BOS]}, "data.folder=x", writes, 3, 1.0)
    _check_stored(meta, "data.folder=x", tokenizer(None), 3, 1.0)
    for own, student in (meta, writes), (meta | {"special_tokens": [BOS]}, tokenizer(None)):
        with pytest.raises(ValueError, match="the teacher of data.folder=x adds other special tokens to a prompt"):
            _check_stored(own, "data.folder=x", student, 3, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": {"length": {"least": 999, "most": 1000}}}, "the filters leave nothing of data.folder"),
        ({"top_k": 5}, "module.k=5, but data.folder=.* holds 4 logprobs a place"),
        ({"top_k": 2, "temperature": 0.5}, "module.teacher_temperature=0.5, but the logprobs .* are those at 1.0"),
    ],
)
def test_what_is_refused(settings, message, teacher_samples, loaded):
    with pytest.raises(ValueError, match=message):
        samples(teacher_samples, loaded, **settings)


def test_a_folder_without(teacher_samples, loaded, tmp_path):
    with pytest.raises(ValueError, match="holds no shards; python -m r1lab.generate"):
        samples(tmp_path, loaded)
    folder = shutil.copytree(teacher_samples, tmp_path / "old")
    meta = json.loads((folder / "meta.json").read_text())
    del meta["logprobs"]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="holds no logprobs: add logprobs=top_k logprobs_k=2"):
        samples(folder, loaded, top_k=2)


def test_a_folder_that_is_not_whole(teacher_samples, loaded, tmp_path):
    folder = shutil.copytree(teacher_samples, tmp_path / "part")
    sorted(folder.glob("shard-*.parquet"))[1].unlink()
    with pytest.raises(ValueError, match="holds 2 of 3 shards: python -m r1lab.generate was interrupted"):
        samples(folder, loaded)
    folder = shutil.copytree(teacher_samples, tmp_path / "bare")
    (folder / "meta.json").unlink()
    with pytest.raises(ValueError, match="has no meta.json beside its shards"):
        samples(folder, loaded)


def test_a_damaged_shard_is_named(teacher_samples, loaded, tmp_path):
    folder = shutil.copytree(teacher_samples, tmp_path / "cut")
    shard = sorted(folder.glob("shard-*.parquet"))[1]
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"shard-00001-of-00003.parquet is damaged .*: delete it, and give"):
        samples(folder, loaded)


def test_every_filter_reads_what_is_stored(teacher_samples, loaded):
    given = {"no_repetition": {"ngram": 2, "at_most": 1.0}, "paragraphs": {"most": 9999}, "no_code": {}}
    given |= {"length": {"least": 0, "most": 9999}, "one_language": {"at_least": 0.0, "wordless": True}}
    assert len(samples(teacher_samples, loaded, filters=given)) == 12
    for name in ("correct", "wellformed"):
        with pytest.raises(ValueError, match="the filters leave nothing"):
            samples(teacher_samples, loaded, filters={name: {}})
    assert {*given, "correct", "wellformed"} == set(FILTERS)


def data(folder, loaded, **settings):
    numbers = {"batch_size": 8, "student_fraction": 0.5, "validation_prompts": 2}
    return TeacherData(loaded.task, loaded.tokenizer, folder=folder, **DEFAULTS | numbers | settings)


def test_ranks_share_a_batch_and_a_resume_goes_on(teacher_samples, loaded):
    def batches(rank, ranks, first=0):
        made = data(teacher_samples, loaded, student_fraction=0.25)
        made.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
        made.first_step = first
        return list(islice(iter(made.train_dataloader().dataset), 3 - first))

    whole = batches(0, 1)
    assert [(len(prompts), len(written)) for prompts, written in whole] == [(2, 6)] * 3
    shares = [batches(rank, 2) for rank in range(2)]
    for (prompts, written), *parts in zip(whole, *shares, strict=True):
        assert prompts == [part[0][0] for part in parts]
        assert written == [row for pair in zip(*(part[1] for part in parts), strict=True) for row in pair]
    assert batches(0, 1, first=2) == whole[2:]


def test_who_samples_must_be_there(teacher_samples, loaded):
    assert data(None, loaded, student_fraction=1.0).samples is None
    with pytest.raises(ValueError, match="set data.folder to a folder of python -m r1lab.generate"):
        data(None, loaded)
    with pytest.raises(ValueError, match="data.batch_size=8 is too small for module.student_fraction=0.01"):
        data(teacher_samples, loaded, student_fraction=0.01)
