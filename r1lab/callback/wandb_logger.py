"""Weights & Biases: offline without an account; online without a key is one clear line, at once."""

import os
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from r1lab.packages import needed


def wandb_logger(*, save_dir: str | Path, offline: bool, resumed: str | None, **options: Any) -> WandbLogger:
    """Lightning's logger for W&B.

    Args:
        save_dir: where its files go. offline: keep them there; `wandb sync` uploads them later.
        resumed: `last` goes on with the W&B run that this folder began, by the id that is kept there.
        options: of `WandbLogger` and `wandb.init`: project, name, entity, tags.

    Raises:
        ImportError: if wandb, or a module that it imports, is not installed.
        ValueError: if it would go online and has no key.
    """
    with needed("logger=wandb", "wandb", "pip install wandb"):
        import wandb
    online = not offline and os.environ.get("WANDB_MODE", "online") not in ("offline", "dryrun", "disabled")
    if online and not _has_key(wandb):
        raise ValueError("W&B has no API key: run `wandb login`, or stay offline with logger.wandb.offline=true")
    kept = Path(save_dir, "wandb", "run_id")
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not (resumed == "last" and kept.exists()) and rank_zero_only.rank == 0:
        kept.write_text(secrets.token_hex(4))
    return WandbLogger(save_dir=save_dir, offline=offline, id=kept.read_text() if kept.exists() else None, **options)


def _has_key(wandb: Any) -> bool:
    """Whether W&B finds a key without asking for one, on the network or at the keyboard."""
    try:
        return wandb.login(prompt=False, verify=False)
    except TypeError:  # older versions can only ask
        return bool(wandb.api.api_key)
    except wandb.errors.AuthenticationError as error:
        raise ValueError(
            f"W&B refuses its API key ({error}): run `wandb login`, or stay offline with logger.wandb.offline=true"
        ) from error
