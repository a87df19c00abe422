"""r1lab: reproduce DeepSeek-R1 and find out which parts of its recipe matter.

The map, in the order of the flow. Data walks one way; each stage hands the next a small typed record (`types.py`), and
`module/` is the only place where stages meet.

    conf -> train.py, which builds everything below (build.py)
            task -> rollout -> reward -> advantage -> loss -> update (module) -> log (callback)
            Prompt  Completion [P,G]     [P,G]        scalar  Lightning

Verbs, each `python -m r1lab.<verb>`:
    train       compose a config, build, score, fit, score, sum up
    evaluate    score a checkpoint: pass@1, pass@k, greedy, lengths, with intervals
    generate    let a checkpoint answer a prompt, or a whole split into Parquet, with its likeliest tokens if asked
    export      the policy of a checkpoint as a Hugging Face folder
    memory      what a run holds on each rank of any number of GPUs, and whether it fits, without allocating it
    pipeline    R1's recipe from the base to the table of its stages, each a train or a generate run, resumable
    analysis.ablation   sum up a sweep: table, figure, CSV and verdict, from its Optuna study alone
    analysis.reward_hacking   the reward model's score beside the gold score over steps of RL: figure, CSV

Packages; the same word names the package, its folder in conf, its folder in tests and the prefix of its metrics:
    types       Prompt, Completion; the legend of the shape letters
    task        where prompts and their checkable answers come from, also several by weight; the prompt templates
    rollout     prompts -> groups of completions: the engine protocol, its engines, keyed randomness; collate
    reward      completion -> number: accuracy and its checkers, format, language_consistency, code, length, repetition,
                model; the weighted sum and its schedules; the pool and the sandbox that hostile completions meet
    advantage   rewards -> advantages: of a completion in its group, of a token by GAE
    loss        logprobs -> scalar, pure functions, the definitions: ratio, clip, kl, aggregate, grpo, ppo, sft,
                distill and sparse_distill, preference (hidden states -> logprobs: logprob, sharded_logprob)
    kernel      Triton drop-ins for them, which know their checks and results alone: linear_logprob, k3,
                linear_grpo_loss, linear_distill_loss
    model       the policy from a folder (folder), the hub or a fresh config, whole or as adapters on a frozen base;
                the frozen reference; the value model and the reward model; frozen ones in 8 or 4 bits, and AdamW in 8;
                attention; of a mixture of experts the load and what evens it out (moe), its routers watched (routing),
                multi-token prediction (mtp); what models hold in memory and compute, measured or planned on fake
                tensors (fake, ledger, passes, weights, plan); the shipped tiny bases, and the words of the bilingual
                one; whose tokens are whose
    strategy    how a run is spread over processes: single, DDP, FSDP, FSDP2; models in shards, their folders; a rank
                that is lost
    data        LightningDataModules: prompts for RL and their curriculum, documents for supervised training, pairs for
                reward models, a teacher's samples; the tiny bases' corpora; filters of samples, and documents from what
                they leave
    module      LightningModules, thin: base, grpo with its dynamic sampling, ppo, opd, sft, distill and its teacher,
                reward_model; the head, by loss or by kernel; evaluation, mimicry of a teacher; checkpoints; a
                step of each on fake tensors (dry_run)
    callback    what watches a run: progress, FLOP and their budget, the share of communication, metrics.csv,
                expert_load.csv, samples.jsonl, checkpoints, the base's gate, pruning
    metric      pass_at_k, majority_vote, calibration, bootstrap intervals; over seeds: t intervals, paired tests, Holm,
                power
    sweeper     Hydra's sweeper on Optuna: seeds, pruning, a queue that processes share
    pipeline    stages, the records of what they were made from, how each is made and scored
    analysis    what notebooks import: load a run, its curves, samples and tokens; ship a run; load a sweep (sweep.py),
                its effects, tables, figure and verdict; the table and figure of a pipeline (stages.py)

Entry files: entry.py (Hydra and errors of one line), override.py (texts and paths of a command line), limits.py
(numbers that no run can have), build.py (config -> objects); of memory what a plan reads (plan_inputs.py), the plans
(planner.py) and what is said of them (advice.py). Beside them run_folder.py (where a run lives), dtype.py (dtypes by
name), packages.py (which package is missing) and plain_pickle.py (what loads without running code).
Only entry files know Hydra and OmegaConf: everything else takes plain arguments. An algorithm's parameters have no
default in code where the YAML sets them.

Words that mean one thing here: `completion_mask` True = the token counts in the loss; `logprobs` with gradient,
`old_logprobs` before the update, `ref_logprobs` of the frozen reference, `sampling_logprobs` of the engine; a `batch`
is one rollout, a `minibatch` one optimizer step, a `microbatch` one forward pass.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1lab.module.checkpoint import load_checkpoint

__version__ = "0.1.0"
__all__ = ["load_checkpoint"]


def __getattr__(name: str) -> Any:
    # Imported on demand: `import r1lab` alone loads neither torch nor transformers.
    if name == "load_checkpoint":
        from r1lab.module.checkpoint import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
