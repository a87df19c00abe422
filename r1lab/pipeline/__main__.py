"""python -m r1lab.pipeline pipeline=r1: the whole of DeepSeek-R1's recipe, resumable; --help says how."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from r1lab.entry import plain, run
from r1lab.pipeline.pipeline import Pipeline


def pipeline(config: DictConfig) -> None:
    """Run the pipeline, or say what would run."""
    if not isinstance(config.dry_run, bool):
        raise ValueError(f"dry_run must be true or false, got {config.dry_run}")
    hydra = HydraConfig.get()
    made = Pipeline(resolved(config), model_overrides(hydra.overrides.task, hydra.runtime.choices["model"]))
    made.check()
    if config.dry_run:
        made.dry_run()
    else:
        made.run()


def resolved(config: DictConfig) -> dict[str, Any]:
    """As plain data, without the model: it is resolved with each stage, which has the seed that a fresh one needs."""
    return plain(OmegaConf.masked_copy(config, [key for key in config if key != "model"]))


def model_overrides(overrides: list[str], choice: str) -> list[str]:
    """Those of the command line that choose the model or change it, for each stage's own command."""
    own = [word for word in overrides if word.lstrip("+~").partition("=")[0].split(".")[0] == "model"]
    return [f"model={choice}", *(word for word in own if not word.startswith("model="))]


def main() -> None:
    run(pipeline, "pipeline")


if __name__ == "__main__":
    main()
