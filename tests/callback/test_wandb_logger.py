import time

import pytest

from r1lab.callback.wandb_logger import wandb_logger

pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """No key anywhere."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def test_online_without_a_key_is_one_line_at_once(tmp_path):
    started = time.monotonic()
    with pytest.raises(ValueError, match="wandb login.*logger.wandb.offline=true") as error:
        wandb_logger(save_dir=tmp_path, offline=False, resumed=None, project="p")
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 10


def test_offline_needs_no_key(tmp_path):
    logger = wandb_logger(save_dir=tmp_path / "run", offline=True, resumed=None, project="p", name="n")
    assert logger.save_dir == str(tmp_path / "run") and logger.name == "p"


def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    ids = [wandb_logger(save_dir=tmp_path, offline=True, resumed=r).version for r in (None, "last", None, "last")]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert wandb_logger(save_dir=tmp_path / "new", offline=True, resumed="last").version not in ids
