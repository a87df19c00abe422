"""python -m r1lab.train experiment=NAME: compose a config, build, score, fit, score, sum up.

The run's folder (`hydra.run.dir`, by default runs/<name>/<time>) gets config.yaml, metrics.csv, samples.jsonl,
curves.png, summary.json and checkpoints/. Returns the value of `objective`, which a sweep maximises.
"""

import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, Timer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console
from torch.distributed.checkpoint import CheckpointException
from transformers.utils.logging import disable_progress_bar

from r1lab.analysis.curves import plot_curves
from r1lab.analysis.expert_load import plot_expert_load
from r1lab.analysis.run import read_metrics
from r1lab.analysis.scores import score_table
from r1lab.build import (
    build_policy_parts,
    build_reward,
    check_scorable,
    evaluation_sampling,
    make,
    make_documents,
    policy_maker,
    quantized_settings,
    refuse_unscorable,
    rollout_sampling,
)
from r1lab.callback import stop
from r1lab.entry import Stopped, flat, plain, refuse_two_checkers, refuse_wrong_types, run
from r1lab.limits import check_numbers
from r1lab.load import policy_hash
from r1lab.loss.kl import kl_warning
from r1lab.model.adapter import adapter_settings
from r1lab.model.capacity import check_sequences
from r1lab.model.quantize import quantized_weights, refuse_sharded
from r1lab.module.checkpoint import AtomicCheckpointIO, damaged, is_checkpoint
from r1lab.module.distill import Distill
from r1lab.module.drift import kl_to_base
from r1lab.module.evaluation import evaluate_splits
from r1lab.module.head import LinearHead
from r1lab.module.reward_model import RewardModel
from r1lab.module.teacher import load_teacher
from r1lab.reward.accuracy import Accuracy
from r1lab.run_folder import (
    FINISHED,
    claim,
    commit,
    config_hash,
    device_name,
    read_summary,
    versions,
    write_summary,
    write_whole,
)
from r1lab.strategy.folder import restore_old
from r1lab.strategy.fsdp import FSDP
from r1lab.strategy.lost_rank import LostRank, is_of_a_lost_rank
from r1lab.strategy.precision import precision_plugin
from r1lab.task.different import first_prompts
from r1lab.task.protocol import Task
from r1lab.types import Prompt

_LONGEST = 64  # questions of a data set, by characters, among which is the longest prompt
_LARGE = 50_000_000  # parameters from which on a step of the default size takes minutes on a CPU

log = logging.getLogger("r1lab.train")


Objective = float | None | list[float | None]


def train(config: DictConfig) -> Objective:
    """One run. Returns the value of `objective` at its end (of each, where it is a list), None where not measured."""
    refuse_two_checkers(list(HydraConfig.get().overrides.task))
    if HydraConfig.get().mode == RunMode.RUN:
        refuse_wrong_types(config, HydraConfig.get().job.config_name)
    return train_in(Path(HydraConfig.get().runtime.output_dir), plain(config))


def check(config: dict[str, Any]) -> None:
    """Raise what a run of this config would before it loads or samples anything: a sweep tries its points so."""
    check_numbers(config)
    build_module(config, build_policy_parts(config))


def train_in(folder: Path, config: dict[str, Any]) -> Objective:
    """The run of a resolved config in its folder."""
    quieten()
    # Ranks that a run starts for itself share its folder.
    lock = nullcontext() if rank_zero_only.rank else claim(folder, goes_on=config["ckpt_path"] is not None)
    with lock:
        return train_claimed(folder, config)


def train_claimed(folder: Path, config: dict[str, Any]) -> Objective:
    check_numbers(config)
    resumed = checkpoint_to_resume(folder, config["ckpt_path"])
    if resumed and config["ckpt_path"] == "last":
        refuse_other_settings(folder, config)
        log.info(f"going on with {folder}, which has done {read_summary(folder).get('steps') or 'some'} steps")
    L.seed_everything(config["seed"], workers=True, verbose=False)
    parts = build_policy_parts(config)
    module = build_module(config, parts)
    validated = validation_prompts(config, parts["task"])
    check_validation(parts["task"], validated)
    in_turn = config["strategy"].get("in_turn", False)
    if in_turn and config["evaluate"]:
        raise ValueError("strategy.in_turn=true makes no whole policy to score beside the others': add evaluate=false")
    if not in_turn:
        # Built before the trainer builds it, so that it can be scored before the first step.
        module.configure_model()
        note_slowness(config["model"]["name"], module.policy)
        check_lengths(config, parts["task"], module.policy, validated)
    data = parts["data"] = build_data(config, parts, module)
    timer = Timer(config["budget"]["seconds"] and {"seconds": config["budget"]["seconds"]})
    trainer = build_trainer(config, folder, [timer])
    refuse_ranks(module, data, trainer.num_devices * trainer.num_nodes)  # before these are started

    if trainer.is_global_zero:
        write_whole(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    earlier = read_summary(folder) if resumed else {}
    summary = {key: value for key, value in earlier.items() if key != "error"}

    def note(entry: dict[str, Any]) -> None:
        # A disk that is full must not hide why the run ended.
        with suppress(OSError) if entry["status"] == "failed" else nullcontext():
            if trainer.is_global_zero:
                write_summary(folder, entry)

    summary |= {
        "status": "running",
        "objective": None,
        "experiment": config["name"],
        "seed": config["seed"],
        "config_hash": config_hash(config),
        "parent": config["model"]["name"],
        "commit": commit(),
        "versions": versions(),
        "device": device_name(),
        "train_seconds": None,
        "evaluate_seconds": summary.get("evaluate_seconds", {}),
        "steps": 0,
    }
    note(summary)
    try:
        # Other ranks of this machine are started by the fit, and need not score again.
        if config["evaluate"] and "before" not in summary and trainer.is_global_zero:
            with clock(summary, "before"):
                summary["before"] = score_base(config, parts, module, trainer)
            note(summary)
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except stop.Interrupted as halt:
        note(summary | {"status": "interrupted", "steps": halt.step or 0})
        how = f"step {halt.step} is saved in {folder}; the same command with ckpt_path=last goes on"
        raise Stopped(f"stopped; {how if halt.checkpoint else 'nothing was saved yet'}") from None
    except SystemExit:  # how Lightning answers Ctrl-C where no checkpoint is kept; it leaves SIGINT ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note(summary | {"status": "interrupted", "steps": module.step})
        raise Stopped("stopped; nothing was saved") from None
    except KeyboardInterrupt:
        note(summary | {"status": "interrupted"})
        raise
    except BaseException as error:
        # What could not even be loaded is as it was.
        loaded = not resumed or module.step
        failed = {"status": "failed", "error": f"{type(error).__name__}: {error}", "steps": module.step}
        note(summary | failed if loaded or not earlier else earlier)
        if is_of_a_lost_rank(error):
            raise LostRank(folder) from error
        if isinstance(error, CheckpointException):
            raise damaged(Path(resumed), error) from error
        raise
    if config["evaluate"]:
        module.whole()  # which all ranks make together of a policy in shards
    summary |= {"steps": module.step, "train_seconds": round(timer.time_elapsed("train"), 2)}
    summary |= memory(folder) | {"flops": flops(folder)}
    pruned = any(getattr(callback, "pruned", False) for callback in trainer.callbacks)
    if config["evaluate"] and not pruned and trainer.is_global_zero:
        try:
            with clock(summary, "after"):
                summary["after"] = score(config, parts, module, trainer)
                summary["after"][config["evaluation"]["splits"][0]] |= drift(config, parts, module)
        except KeyboardInterrupt:
            note(summary | {"status": "interrupted"})
            raise Stopped(
                f"stopped after the last step, which is saved in {folder}; ckpt_path=last scores it"
            ) from None
    several = isinstance(config["objective"], list)
    objectives = config["objective"] if several else [config["objective"]]
    values = [last_value(trainer, folder, summary, name) for name in objectives]
    summary["objective"] = values if several else values[0]
    missing = [name for name, value in zip(objectives, values, strict=True) if value is None]
    known = ", ".join(measured(trainer, summary))
    for name in missing if known and trainer.is_global_zero else []:  # a run that measured nothing has no wrong name
        log.warning(f"objective={name} was never measured; there are {known}")
    summary["status"] = "pruned" if pruned else FINISHED
    note(summary)
    if trainer.is_global_zero and config["show"] and module.step:
        plot_curves(folder)
        plot_expert_load(folder)
        report(folder, summary)
    return summary["objective"]


def last_value(trainer: L.Trainer, folder: Path, summary: dict[str, Any], name: str) -> float | None:
    """The newest value of a metric, or a score after the last step (`heldout/pass_at_1`); None: never measured."""
    split, _, score_name = name.partition("/")
    if split in summary.get("after", {}):
        return summary["after"][split].get(score_name)
    value = trainer.callback_metrics.get(name)
    if value is None:
        # A run that was killed behind its last step measures nothing when it goes on.
        written = read_metrics(folder / "metrics.csv").get(name, pd.Series(dtype=float)).dropna()
        value = None if written.empty else np.float32(written.iloc[-1])
    return None if value is None else float(value)


def measured(trainer: L.Trainer, summary: dict[str, Any]) -> list[str]:
    """What `objective` may name in this run."""
    validated = sorted(key for key in trainer.callback_metrics if key.startswith("validation/"))
    return validated + [f"{split}/{name}" for split, scores in summary.get("after", {}).items() for name in scores]


def memory(folder: Path) -> dict[str, Any]:
    """What the run's steps held at most: trained_parameters, and memory_mib with the MiB of each part."""
    most = read_metrics(folder / "metrics.csv").filter(like="memory/").max()
    mib = {name.removeprefix("memory/")[: -len("_mib")]: value for name, value in most.items() if name.endswith("_mib")}
    return {"trained_parameters": int(most.get("memory/trained_parameters", 0)), "memory_mib": mib}


def flops(folder: Path) -> dict[str, float]:
    """What the run's steps computed, by kind, and the total; see `r1lab.callback.flops`."""
    spent = read_metrics(folder / "metrics.csv").filter(like="flops/").max()
    return {name.removeprefix("flops/"): float(value) for name, value in spent.items()}


def checkpoint_to_resume(folder: Path, ckpt_path: str | None) -> str | None:
    """The file to go on from: with `last`, the newest of the run's own folder."""
    if ckpt_path != "last":
        if ckpt_path is not None and not is_checkpoint(Path(ckpt_path)):
            raise FileNotFoundError(f"ckpt_path={ckpt_path}: there is no such checkpoint")
        return ckpt_path
    last = folder / "checkpoints" / "last.ckpt"
    if not rank_zero_only.rank:
        restore_old(last)
        restore_old(last.with_name("best.ckpt"))
    if not is_checkpoint(last):
        if read_summary(folder).get("status") == "running":
            return None  # killed before its first checkpoint: it begins again
        raise FileNotFoundError(f"ckpt_path=last: there is no {last}; leave ckpt_path out to start anew")
    return str(last)


def refuse_other_settings(folder: Path, config: dict[str, Any]) -> None:
    """A run goes on as what it was: how long, how watched, what for and by which kernels may change, nothing else."""
    before = yaml.safe_load((folder / "config.yaml").read_text())
    changeable = (
        "ckpt_path",
        "budget",
        "trainer",
        "callback",
        "logger",
        "objective",
        "monitor",
        "evaluate",
        "evaluation",
        "kernel",
        "show",
        "strategy",
    )
    # These compute the same, however they do it.
    implementations = ("attention", "activation_checkpointing", "fused_norms")

    def is_kept(key: str) -> bool:
        return key.split(".")[0] not in changeable and key.split(".")[-1] not in implementations

    now = dict(flat(config))
    kept = [(key, was) for key, was in flat(before) if is_kept(key)]
    if now.get("optimizer.scheduler.name", "").startswith("constant"):
        # It follows trainer.max_steps, and a constant rate does not ask for it.
        kept = [(key, was) for key, was in kept if key != "optimizer.scheduler.num_training_steps"]
    changed = [f"{key} was {was!r}, not {now.get(key)!r}" for key, was in kept if now.get(key) != was]
    known = dict(flat(before))
    changed += [f"{key} was not there" for key in now if key not in known and is_kept(key)]
    if changed:
        raise ValueError(
            f"ckpt_path=last: the run in {folder} has other settings ({', '.join(changed[:4])}); "
            "go on with its own, or leave ckpt_path out to start anew"
        )


def build_module(config: dict[str, Any], parts: dict[str, Any]) -> L.LightningModule:
    """The LightningModule: what all have in common, and what GRPO and PPO need beside it."""
    optimizer = instantiate(config["optimizer"], _convert_="all")
    common = {
        "policy": policy_maker(config),
        "tokenizer": parts["tokenizer"],
        "engine": parts["engine"],
        "is_correct": parts["task"].is_correct,
        "head": LinearHead(**config["kernel"]),
        "optimizer": optimizer["optimizer"],
        "scheduler": optimizer["scheduler"],
        "gradient_clip": optimizer["gradient_clip"],
        "max_bad_steps": optimizer["max_bad_steps"],
        "validation_sampling": evaluation_sampling(config),
        "evaluation_seed": config["evaluation"]["seed"],
        "bias_rate": config["routing"]["bias_rate"],
        "balance_weight": config["routing"]["balance_weight"],
    }
    module_config = dict(config["module"])
    if "teacher" in module_config:
        teacher = module_config["teacher"]
        module_config["teacher"] = partial(load_teacher, **teacher) if teacher["name"] else None
    if module_config["_target_"].endswith("Distill"):
        common |= {"sampling": rollout_sampling(config), "seed": config["seed"]}
    if module_config["_target_"].endswith(("GRPO", "PPO", "OPD")):
        loss = dict(config["loss"])
        updates = config["module"]["num_minibatches"] * config["module"]["num_iterations"]
        note_kl(loss, updates, config["advantage"].get("scale"))
        note_clip(loss, updates)
        note_sampling(config["rollout"])
        own = ("entropy_coef", "beta", "kl", "kl_placement", "kl_target", "kl_horizon")
        common |= {key: loss.pop(key) for key in own} | config["reference"] | {
            "loss": instantiate(loss),
            "reward": build_reward(
                config["reward"], parts["task"], parts["tokenizer"], config["trainer"]["max_steps"]
            ),
            "advantage": instantiate(config["advantage"]),
            "sampling": rollout_sampling(config),
            "batch_size": config["rollout"]["batch_size"],
            "group_size": config["rollout"]["group_size"],
            "max_resamples": config["rollout"]["max_resamples"],
            "replay": config["routing"]["replay"],
            "seed": config["seed"],
        }  # fmt: skip
        refuse_unscorable(common["reward"].terms, parts["task"])
    module = make(module_config, **common)
    module.run_config = config
    return module


def note_kl(loss: dict[str, Any], updates: int, scale: str | None) -> None:
    """Say where the KL penalty's gradient is not the reverse KL's: a line for the published choice, else a warning."""
    pair = loss["kl"], loss["kl_placement"]
    reason = kl_warning(*pair, off_policy=updates > 1, ratio_level=loss["ratio_level"])
    if loss["beta"] > 0 and reason:
        published = pair == ("k3", "loss")  # DeepSeekMath's and DeepSeek-R1's own
        log.log(logging.INFO if published else logging.WARNING, f"note: {reason}{' (as published)' * published}")
    if loss["beta"] > 0 and loss["kl_placement"] == "reward" and scale in ("std", "batch_std"):
        log.warning(
            f"loss.kl_placement=reward with advantage.scale={scale}: the std scales the penalty too, and a group whose "
            "rewards are all alike has the penalty's advantages alone, at full size; advantage.scale=none avoids it"
        )


def note_clip(loss: dict[str, Any], updates: int) -> None:
    """Say where a clip range that was chosen does nothing."""
    usual = (0.2, 0.2, None, "token")
    chosen = tuple(loss[key] for key in ("epsilon_low", "epsilon_high", "ratio_cap", "ratio_level"))
    if updates == 1 and chosen != usual:
        log.info(
            f"loss.epsilon_low={chosen[0]:g}, epsilon_high={chosen[1]:g}: with one update a rollout every ratio is 1 "
            "and nothing is clipped; module.num_minibatches or module.num_iterations above 1 changes that"
        )


def note_sampling(rollout: dict[str, Any]) -> None:
    """Say where completions come from another distribution than the one whose logprobs are trained."""
    if rollout["top_k"] or rollout["top_p"] < 1:
        log.warning(
            f"rollout.top_k={rollout['top_k']}, top_p={rollout['top_p']:g}: completions are drawn from a part of the "
            "distribution, while logprobs, ratio and KL are of all of it, so the gradient is biased"
        )


def check_lengths(config: dict[str, Any], task: Task, policy: torch.nn.Module, validated: Sequence[Prompt]) -> None:
    """Raise ValueError where a prompt would end the run in a later rollout or validation: too long for the model.

    The prompts of tasks without data sets are alike in length, so that the first rollout tells.
    """
    if config["data"]["_target_"].endswith("PromptData") and hasattr(task, "longest"):
        longest = task.longest("train", _LONGEST)
        check_sequences(policy, [prompt.ids for prompt in longest], config["rollout"]["max_new_tokens"])
    check_sequences(policy, [prompt.ids for prompt in validated], config["evaluation"]["max_new_tokens"])


def check_validation(task: Task, validated: Sequence[Prompt]) -> None:
    """Raise ValueError where the task's checker cannot score a prompt of validation."""
    checks = {"reward.accuracy, the checker of answers,": Accuracy(task.is_correct).check_prompts}
    check_scorable(checks, validated, "validation")


def validation_prompts(config: dict[str, Any], task: Task) -> list[Prompt]:
    """The prompts that each validation samples from; none where the run validates otherwise, or never."""
    count = config["data"].get("validation_prompts", 0)
    never = config["trainer"].get("limit_val_batches") == 0 or "validation" not in task.splits
    if never or not count or "preferences" in config["data"]:
        return []
    return first_prompts(task, "validation", count, log_repeats=False)


def note_slowness(name: str, policy: torch.nn.Module) -> None:
    size = sum(p.numel() for p in policy.parameters() if p.is_floating_point())
    size += sum(quantized.shape.numel() for quantized in quantized_weights(policy).values())
    if size > _LARGE and not torch.cuda.is_available():
        log.warning(
            f"{name} has {size / 1e6:.0f} million parameters and there is no GPU: a full step takes many minutes; "
            "debug=cpu makes it a few steps of 32 short completions"
        )


def build_data(config: dict[str, Any], parts: dict[str, Any], module: L.LightningModule) -> L.LightningDataModule:
    data = dict(config["data"])
    documents, preferences = data.pop("documents", None), data.pop("preferences", None)
    if preferences is not None:
        preferences = make(preferences, task=parts["task"])
        return make(data, preferences=preferences, task=parts["task"], seed=config["seed"])
    if documents is not None:
        documents = make_documents(documents, parts["task"])
        given = {"task": parts["task"], "tokenizer": parts["tokenizer"], "padding_free": module.padding_free}
        return make(data, documents=documents, **given)
    given = {"task": parts["task"], "seed": config["seed"]}
    if isinstance(module, Distill):
        return make(data, **given, tokenizer=parts["tokenizer"], top_k=module.stored_top_k)
    return make(data, **given, updates_per_rollout=module.updates_per_rollout)


def build_trainer(config: dict[str, Any], folder: Path, callbacks: list[L.Callback]) -> L.Trainer:
    refuse_missing_devices(config["trainer"])
    refuse_other_ranks(config["trainer"])
    places = {name: config["trainer"].get(name, 1) for name in ("devices", "num_nodes")}
    strategy = make(config["strategy"], **places)
    if isinstance(strategy, FSDP):
        strategy.refuse_cpu(config["trainer"]["accelerator"])
    if hasattr(strategy, "shard"):
        refuse_sharded(quantized_settings(config), type(strategy).__name__.lower())
    trainer = dict(config["trainer"])
    plugin = precision_plugin(trainer["precision"], strategy)
    if plugin is not None:
        del trainer["precision"]
    loggers = list(instantiate(config["logger"]).values())
    callbacks = [*instantiate(config["callback"]).values(), *callbacks]
    # Lightning adds its own where there are none.
    asked = {
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
    }
    given = {name: value for name, value in asked.items() if name not in config["trainer"]}
    return make(
        trainer,
        strategy=strategy,
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=str(folder),
        plugins=[AtomicCheckpointIO(), *([plugin] if plugin else [])],
        **given,
    )


def refuse_ranks(module: L.LightningModule, data: L.LightningDataModule, ranks: int) -> None:
    """Raise ValueError for a number of ranks that a step's work does not divide among."""
    module.refuse_ranks(ranks)
    batch = getattr(data, "batch_size", None) or 0
    if batch % ranks:
        enough = -(-batch // ranks) * ranks
        raise ValueError(f"data.batch_size={batch} does not divide among {ranks} ranks: data.batch_size={enough} does")


def refuse_other_ranks(trainer: Mapping[str, Any]) -> None:
    """Raise ValueError where torchrun has started another number of ranks than the settings say."""
    devices, nodes = trainer["devices"], trainer.get("num_nodes", 1)
    started = os.environ.get("WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    if started and isinstance(devices, int) and devices * nodes != int(started):
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        raise ValueError(
            f"torchrun started {started} ranks, and trainer.devices={devices} on trainer.num_nodes={nodes} are "
            f"{devices * nodes}: set trainer.devices={local} trainer.num_nodes={int(started) // local}"
        )


def refuse_missing_devices(trainer: dict[str, Any]) -> None:
    """Raise ValueError where a GPU is asked for that is not there, or no device at all."""
    here, asked = torch.cuda.device_count(), trainer["devices"]
    if asked == 0:
        raise ValueError("trainer.devices=0: give a number of ranks from 1 on, or auto for all devices of this machine")
    on_gpu = trainer["accelerator"] in ("gpu", "cuda") or (trainer["accelerator"] == "auto" and here)
    if on_gpu and not here:
        raise ValueError("trainer.accelerator=gpu, and this machine has no GPU that torch sees: take cpu, or auto")
    if on_gpu and isinstance(asked, int) and asked > here:
        raise ValueError(f"trainer.devices={asked}, and this machine has {here}: ask for at most so many")


def score(
    config: dict[str, Any], parts: dict[str, Any], module: L.LightningModule, trainer: L.Trainer
) -> dict[str, dict[str, float]]:
    """Each split of `evaluation` on prompts that are the same for every run."""
    evaluation = config["evaluation"]
    # Lightning has it there during the fit alone.
    policy = module.whole().to(trainer.strategy.root_device)
    if isinstance(module, RewardModel):
        module.to(trainer.strategy.root_device)
        preferences, count = parts["data"].preferences, range(evaluation["num_prompts"])
        return {name: module.evaluate([preferences.pair(name, i) for i in count]) for name in evaluation["splits"]}
    return evaluate_splits(
        policy,
        parts["tokenizer"],
        parts["engine"],
        parts["task"],
        splits=evaluation["splits"],
        num_prompts=evaluation["num_prompts"],
        num_samples=evaluation["num_samples"],
        sampling=evaluation_sampling(config),
        seed=evaluation["seed"],
        ks=evaluation["ks"],
    )


def drift(config: dict[str, Any], parts: dict[str, Any], module: L.LightningModule) -> dict[str, float]:
    """The policy's KL to what it was before the first step, on prompts of the first split that is scored."""
    evaluation = config["evaluation"]
    if not evaluation["kl_prompts"]:
        return {}
    adapted = adapter_settings(module.policy) is not None
    base = None if adapted else policy_maker(config)().to(module.whole().device).eval()
    prompts = first_prompts(parts["task"], evaluation["splits"][0], evaluation["kl_prompts"])
    options = {"sampling": evaluation_sampling(config), "seed": evaluation["seed"], "head": module.head}
    found = kl_to_base(module.whole(), base, parts["tokenizer"], parts["engine"], prompts, **options)
    return {"kl_to_base": found}


def score_base(config: dict[str, Any], parts: dict[str, Any], *run: Any) -> dict[str, dict[str, float]]:
    """`score` before the first step; read from `evaluation.cache` where the same base was scored in the same way."""
    if config["evaluation"]["cache"] is None or isinstance(run[0], RewardModel):
        return score(config, parts, *run)
    module = run[0]
    asked = {
        "policy": policy_hash(module.policy),
        **{key: config[key] for key in ("task", "evaluation")},
        "each_question": "once",  # older scores counted those that came again
        "engine": config["rollout"]["engine"],
        "versions": versions(),
    }
    path = Path(config["evaluation"]["cache"], f"{config_hash(asked)}.json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(score(config, parts, *run), indent=2) + "\n")
    return json.loads(path.read_text())


@contextmanager
def clock(summary: dict[str, Any], name: str) -> Iterator[None]:
    """Note in the summary how many seconds the block took."""
    started = time.perf_counter()
    yield
    summary["evaluate_seconds"][name] = round(time.perf_counter() - started, 2)


def report(folder: Path, summary: dict[str, Any]) -> None:
    """The table at the end of a run."""
    console = Console()
    if "after" in summary:
        console.print(score_table(summary["after"], summary["before"]))
    console.print(f"{summary['steps']} steps in {summary['train_seconds']:.0f} s; everything is in {folder}")


def quieten() -> None:
    """Silence what the libraries say at every start, and what is as it should be here."""
    disable_progress_bar()
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*in eval mode at the start of training.*",  # no dropout: the policy that learns is the one that sampled
        ".*isinstance.treespec, LeafSpec.*",
        ".*does not have many workers.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # the ranks' rows are gathered before they are logged
    ):
        warnings.filterwarnings("ignore", message)


def main() -> None:
    run(train, "train")


if __name__ == "__main__":
    main()
