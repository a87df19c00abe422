"""What is said of plans beside their numbers: what is planned, what to know of it, what would help and by how much."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from r1lab.analysis import number
from r1lab.analysis.memory_table import GIB
from r1lab.build import quantized_settings
from r1lab.model.plan import QUANTISED, Plan
from r1lab.model.weights import counted, weights_of
from r1lab.planner import RL, Planner, Variant

MOST_GPUS = 2**14


def title(planner: Planner) -> str:
    total, active = counted(planner.policy)
    sparse = f", {active:,} of them for a token" if active < total else ""
    name = planner.config["model"]["name"] or planner.policy.config.model_type
    length = f"{planner.prompt_tokens}{' (assumed)' if planner.assumed else ''} + {planner.new_tokens}"
    adapter = planner.config["adapter"]
    base = f" on a base in {adapter['quantize']}" if adapter["quantize"] else ""
    adapted = "" if adapter["rank"] is None else f", adapters of rank {adapter['rank']}{base}"
    rows = "documents" if planner.documents else f"rows of {length} tokens"
    return (
        f"{name}: {total:,} parameters{sparse}, {str(planner.dtype).removeprefix('torch.')}\n"
        f"module {planner.module}, {planner.optimizer}, precision {planner.config['precision']}{adapted}; {rows}"
    )


def notes(planner: Planner, plans: Mapping[int, Plan]) -> list[str]:
    """What is worth knowing of the plans, by number of GPUs, beside their numbers."""
    gpus = list(plans)
    largest = [planner.microbatch(ranks) for ranks in gpus]
    found = [f"rows and tokens of a microbatch: {_by(gpus, [f'{each.rows} x {each.width}' for each in largest])}"]
    if any("not there at once" in plan.phases["update"] for plan in plans.values()):
        found.append("not there at once: gradients of a step's only microbatch are made while its activations go")
    if planner.samples:
        rows = [planner.prompts(ranks) * planner.group_size for ranks in gpus]
        cache = f"a token of the cache is {planner.token_bytes(gpus[0]):,} bytes"
        found.append(f"{cache}; rows that are sampled at a time: {_by(gpus, rows)}")
    if planner.module in RL:
        scorers = [name for name, term in planner.config["reward"].items() if term and "scorer" in term]
        if scorers:
            them = " and ".join(f"reward.{name}.scorer" for name in scorers)
            found.append(f"{them}: models that are not planned, and come on top of this")
        most = planner.config["rollout"]["batch_size"] // planner.group_size
        idle = [n for n in gpus if n > most]
        if idle:
            found.append(
                f"rollout.batch_size / rollout.group_size = {most} prompts do not go round {min(idle)} GPUs or "
                f"more: they are planned with one each, as with rollout.batch_size={min(idle) * planner.group_size}"
            )
    return found + expert_notes(planner, gpus)


def _by(gpus: Sequence[int], values: Sequence[object]) -> str:
    """A value, or one for each number of GPUs where they are not the same."""
    if len(set(values)) == 1:
        return str(values[0])
    return ", ".join(f"{value} ({number.counted(ranks, 'GPU')})" for ranks, value in zip(gpus, values, strict=True))


def expert_notes(planner: Planner, gpus: list[int]) -> list[str]:
    """Where a layer's experts, which are one tensor, have fewer of them than there are ranks to share it."""
    experts = min((w.shape[0] for w in weights_of(planner.policy) if w.parameter and len(w.shape) == 3), default=0)
    by_rows = [n for n in gpus if planner.sharding(n).sharded and not planner.sharding(n).flat]
    if not experts or max(by_rows, default=0) <= experts:
        return []
    return [f"fsdp2 shards a layer's {experts} experts whole: over {experts} GPUs a rank holds no less of them"]


def variants(planner: Planner, ranks: int) -> dict[str, Variant]:
    """Changes by name. Of models in shards bitsandbytes quantises nothing, and of whole ones nothing is moved."""
    torch_head = planner.config["kernel"]["name"] == "torch"
    chunk = (planner.config["kernel"]["chunk_bytes"] or (1 << 28 if torch_head else 1 << 30)) // 4
    found = {
        "model.activation_checkpointing=true": Variant(checkpointing=True),
        "half the module.microbatch_tokens": Variant(halved=True),
        f"kernel.chunk_bytes={chunk}": Variant(chunk_bytes=chunk),
    }
    if planner.samples:
        found["half as many rows at a time, by rollout.engine.batch_size"] = Variant(sampled=0.5)
    if planner.sharding(ranks).sharded:
        on_host = {"strategy.reference_on_cpu=true": Variant(reference="cpu")} if planner.holds_reference else {}
        if planner.samples and planner.sharding(ranks).gather == "whole":
            found["strategy.sampler=layers"] = Variant(layers=True)
        offload = "strategy.cpu_offload=true: policy, gradients and optimizer on the host"
        offloaded = {} if planner.sharding(ranks).flat else {offload: Variant(offload=True)}
        return found | on_host | offloaded
    found["optimizer=adamw_8bit"] = Variant(optimizer="AdamW8bit")
    if planner.holds_reference:
        found |= {f"reference.quantize={how}": Variant(reference=how) for how in QUANTISED}
    return found


def advice(planner: Planner, ranks: int) -> list[tuple[str, int]]:
    """Changes, and the bytes that each saves by itself; the largest first."""
    own = planner.plan(ranks)
    found = {
        text: own.needed - planner.plan(ranks, variant).needed for text, variant in variants(planner, ranks).items()
    }
    if planner.sharding(ranks).sharded and ranks > 1:
        found[f"gpus={2 * ranks}"] = own.needed - planner.plan(2 * ranks).needed
    worth = [(text, saved) for text, saved in found.items() if saved > own.needed // 100]
    return sorted(worth, key=lambda pair: -pair[1])


def enough(planner: Planner, ranks: int) -> list[str]:
    """How many GPUs would do, as it is and with all changes at once."""
    chunk = next(v.chunk_bytes for v in variants(planner, ranks).values() if v.chunk_bytes)
    every = Variant(halved=True, sampled=0.5, chunk_bytes=chunk, checkpointing=True, layers=True)
    if not planner.sharding(ranks).sharded:
        every = replace(every, optimizer="AdamW8bit", reference="nf4" if planner.holds_reference else None)
    peak = planner.plan(ranks, every)
    lines = [f"with all of these but what is moved to the host, of {ranks}: {peak.needed / GIB:,.2f} GiB"]
    if not planner.sharding(ranks).sharded:
        without = quantized_settings(planner.config)
        but = f", which takes it without {' and '.join(without)}" if without else ""
        lines.append(f"more GPUs share its weights with strategy=fsdp2{but}, not with single or ddp")
        every = replace(every, optimizer=None, reference=None)
    if planner.strategy_of(2) == "ddp":
        return lines
    for how, variant in (("as it is", None), ("with all of these", every)):
        number = _enough(planner, variant)
        what = f"{number} GPUs are enough" if number else f"no number of GPUs up to {MOST_GPUS} is enough"
        lines.append(f"{how}, {what}")
    gathered = peak.phases["update"].get("gathered weights", 0)
    if not number and gathered > peak.needed // 3:
        lines.append(
            f"{gathered / GIB:,.2f} GiB are weights that are gathered, a layer and the next whole: to share a "
            "layer takes expert or tensor parallelism, which these strategies are not"
        )
    return lines


def _enough(planner: Planner, variant: Variant | None) -> int | None:
    sizes = (2**power for power in range(1, MOST_GPUS.bit_length()))
    room = planner.settings["gpu_memory_gib"] * GIB
    return next((ranks for ranks in sizes if planner.plan(ranks, variant).needed <= room), None)
