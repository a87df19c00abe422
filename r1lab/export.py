"""python -m r1lab.export CKPT OUT: the policy of a checkpoint as a Hugging Face folder.

CKPT is a .ckpt file, a folder that several ranks wrote, or a run folder (its last). OUT gets what
AutoModelForCausalLM and AutoTokenizer load, with the same logits, and r1lab.json: what it was exported from.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from r1lab.model.moe import cast
from r1lab.module.checkpoint import CheckpointError, checkpoint_file, load_state, read_checkpoint, unpack_checkpoint
from r1lab.run_folder import commit, versions

DTYPES = ("float32", "bfloat16", "float16")


def export(checkpoint: str, out: str | Path, dtype: str | None = None) -> Path:
    """Write the policy of a checkpoint to the folder `out`, which must be empty or not be there; returns it.

    Args:
        dtype: of the weights; None: the checkpoint's.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        OSError: if `out` is not empty, or cannot be written. ValueError: for an unknown dtype.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    file = checkpoint_file(checkpoint)
    if file is None:
        raise CheckpointError(f"{checkpoint} is a Hugging Face model already")
    out = Path(out)
    refuse_out(out)
    content = read_checkpoint(file)
    policy, tokenizer, config = unpack_checkpoint(content)
    if dtype is not None:
        policy = cast(policy, getattr(torch, dtype))
    policy.save_pretrained(out)
    tokenizer.save_pretrained(out)
    origin = {
        "checkpoint": str(file),
        "experiment": config["name"],
        "seed": config["seed"],
        "step": load_state(content).get("step"),
        "commit": commit(),
        "versions": versions(),
    }
    (out / "r1lab.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return out


def refuse_out(out: Path) -> None:
    """Raise OSError where no new folder `out` can be written; makes nothing."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: give a folder that is empty, or is not there")
    if out.is_symlink() and not out.exists():
        raise FileNotFoundError(
            f"{out} is a link to {out.readlink()}, which is not there: make that, or give another place"
        )
    above = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{out} cannot be made, since {above} is a file: give another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{out} cannot be written, since {above} may not be: give another place")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m r1lab.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a .ckpt file, a folder of shards, or a run folder")
    parser.add_argument("out", metavar="OUT", help="the folder to write, empty or not there")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; by default the checkpoint's")
    options = parser.parse_args(arguments)
    disable_progress_bar()
    try:
        out = export(options.checkpoint, options.out, options.dtype)
    except (CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(
        f"{out}: AutoModelForCausalLM.from_pretrained({str(out)!r}) loads it; to train on, model.name={out} beside the "
        "model=... that it was trained with"
    )


if __name__ == "__main__":
    main()
