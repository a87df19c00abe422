import pandas as pd

from r1lab.pipeline.record import read_record

STAGES = ["zero", "cold_start", "dev1", "dev2", "rejection", "general", "dev3", "r1"]


def test_from_the_base_to_the_table(whole):
    seed = whole / "seed_1"
    records = {name: read_record(seed / name) for name in STAGES}
    assert all(record.status == "done" for record in records.values())
    # Each consumed what the one before it made.
    products = {name: record.product for name, record in records.items()}
    assert records["dev1"].inputs == {"base": records["zero"].inputs["base"], "cold_start": products["cold_start"]}
    assert records["dev2"].inputs == {"dev1": products["dev1"]}
    assert records["dev3"].inputs.keys() == {"base", "rejection", "general"}
    assert records["r1"].inputs == {"dev3": products["dev3"]}
    assert len(set(products.values())) == len(STAGES)
    assert [name for name in STAGES if records[name].people] == ["general", "dev3", "r1"]
    frame = pd.read_csv(whole / "table.csv")
    assert list(dict.fromkeys(frame["stage"])) == ["Zero", "Dev1", "Dev2", "Dev3", "R1"]
    assert {"pass_at_1", "greedy", "format", "language_consistency", "reasoning_length", "general_score"} <= set(
        frame["metric"]
    )
    assert (whole / "table.md").read_text().startswith("| stage | pass@1 |") and (whole / "stages.png").exists()
