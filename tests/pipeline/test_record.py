from pathlib import Path

from r1lab.pipeline.record import Record, changes, only_filters, portable, read_record, write_record


def record(**changed):
    told = {"stage": "dev", "status": "done", "why": "", "command": "", "people": False, "product": "p"}
    return Record(**told | {"settings": {"a": 1, "filters.x": 2}, "inputs": {"zero": "z"}} | changed)


def test_changes_are_told_inputs_first():
    assert changes(record(), {"a": 1, "filters.x": 2}, {"zero": "z"}) == []
    told = changes(record(), {"a": 3, "b": "new"}, {"zero": "y"})
    assert told == ["zero is another", "a 1 -> 3", 'b (not set) -> "new"', "filters.x 2 -> (not set)"]


def test_filters_alone_or_not():
    assert only_filters(record(), {"a": 1, "filters.x": 9}, {"zero": "z"})
    assert not only_filters(record(), {"a": 2, "filters.x": 9}, {"zero": "z"})
    assert not only_filters(record(), {"a": 1, "filters.x": 9}, {"zero": "y"})


def test_settings_do_not_tell_where_the_pipeline_lies_nor_who_watches():
    settings = {
        "model.name": "/here/seed_1/zero/policy",
        "callback.x": 1,
        "logger.y": 2,
        "ckpt_path": "last",
        "seed": 1,
    }
    assert portable(settings, Path("/here/seed_1")) == {"model.name": "./zero/policy", "seed": 1}


def test_written_and_read(tmp_path):
    write_record(tmp_path / "dev", record(facts={"kept": 3}))
    assert read_record(tmp_path / "dev") == record(facts={"kept": 3})
    assert read_record(tmp_path) is None
    (tmp_path / "stage.json").write_text('{"half": ')
    assert read_record(tmp_path) is None
