"""python -m tests.benchmark.bench_step: the passes of a GRPO step over a microbatch, by either choice of `kernel`.

A policy of a known architecture, untrained, in bf16, and completions of 896 random tokens behind prompts of 128. Timed
are the two passes that training makes with `r1lab.module`'s own functions: the reference's logprobs without gradient,
and forward, R1's loss and backward of the policy. Beside them `materialised`, the model's own logits and a float32
log_softmax, and `body`, the same passes without head and loss: what is left to gain.

Milliseconds are medians, peaks are MiB above weights, gradients and inputs. Each run appends a row a measurement to
results/bench_step.csv.
"""

import argparse
import statistics
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from r1lab.loss.grpo import grpo_loss
from r1lab.model.policy import new_policy
from r1lab.module.head import LinearHead
from r1lab.module.logprobs import completion_logprobs, counted_hidden
from r1lab.rollout.collate import Batch, collate
from r1lab.run_folder import commit, device_name
from tests.benchmark.bench_head import LOSS, RESULTS, append, needs_a_gpu, peak_mib, timed

COMMON = {"tie_word_embeddings": True, "pad_token_id": 0, "max_position_embeddings": 2048}
# name: config of transformers, completions in a microbatch
MODELS = {
    "smollm2-135m": (
        COMMON
        | {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        16,
    ),
    "qwen2.5-1.5b": (
        COMMON
        | {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
        8,
    ),
}
PROMPT, COMPLETION = 128, 896


class Step:
    """A policy and a microbatch; `logprobs` and `update` are the passes of training, by the given provider."""

    def __init__(self, config: dict[str, Any], completions: int):
        self.policy = new_policy(config, seed=0).to("cuda", torch.bfloat16)
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randint, config["vocab_size"], generator=generator)
        rows = [[draw((n,)).tolist() for _ in range(completions)] for n in (PROMPT, COMPLETION)]
        self.batch: Batch = collate(*rows, pad_id=0).to("cuda")
        self.advantages = torch.randn(completions, generator=generator).cuda()
        self.size = {"sequences": completions, "tokens": completions * COMPLETION, "max_length": COMPLETION}
        own = self.logprobs("triton")
        self.old, self.ref = (own + 0.1 * torch.randn(own.shape, generator=generator).cuda() for _ in range(2))

    @torch.no_grad()
    def logprobs(self, provider: str) -> Tensor:
        if provider == "body":
            return counted_hidden(self.policy.base_model, self.batch)
        if provider == "materialised":
            return self.materialised()
        return completion_logprobs(self.policy, self.batch, temperature=1.0, head=LinearHead(provider))[0]

    def materialised(self) -> Tensor:
        batch = self.batch
        logits = self.policy(input_ids=batch.input_ids, use_cache=False).logits[:, :-1].float()
        logprobs = logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        return logprobs[:, PROMPT - 1 :]

    def loss(self, provider: str) -> Tensor:
        rest = (self.old, self.ref, self.advantages, self.batch.completion_mask)
        if provider == "materialised":
            return grpo_loss(self.materialised(), *rest, None, **self.size, **LOSS).loss
        hidden = counted_hidden(self.policy.base_model, self.batch)
        if provider == "body":
            return hidden.float().mean()
        head = LinearHead(provider)
        if provider == "triton":
            ids = self.batch.completion_ids[self.batch.completion_mask]
            return head.grpo_loss(self.policy, hidden, ids, *rest, temperature=1.0, **self.size, **LOSS).loss
        options = {"temperature": 1.0, "entropy": "value", "hidden": hidden, "head": head}
        logprobs, entropy = completion_logprobs(self.policy, self.batch, **options)
        return grpo_loss(logprobs, *rest, entropy, **self.size, **LOSS).loss

    def update(self, provider: str) -> None:
        self.loss(provider).backward()

    def measure(self, provider: str) -> dict[str, Any]:
        self.policy.zero_grad(set_to_none=False)
        for parameter in self.policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loss = self.loss(provider)
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad.float() for p in self.policy.parameters()])
        row = {"loss": f"{loss.item():.5f}", "gradient_norm": f"{norm.item():.5f}"}
        for name in ("logprobs", "update"):
            run = partial(getattr(self, name), provider)
            row[f"{name}_mib"] = round(peak_mib(run))
            row[f"{name}_ms"] = round(statistics.median(timed(run, warmup=2)), 2)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="of the source, where it is no checkout")
    args = parser.parse_args()
    needs_a_gpu(parser)
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": args.commit or commit() or "",
        "device": device_name(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "transformers": version("transformers"),
    }
    for name in args.models:
        rows, step = [], Step(*MODELS[name])
        for provider in ("body", "triton", "torch", "materialised"):
            try:
                found = step.measure(provider)
            except torch.OutOfMemoryError:
                print(f"{name} {provider}: out of memory", flush=True)
                continue
            rows.append({**about, "model": name, "tokens": step.size["tokens"], "provider": provider, **found})
            print(name, provider, found, flush=True)
        append(rows, args.output / "bench_step.csv")
        del step
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
