"""Two policies compared on one completion, token by token."""

import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lab.analysis.curves import BLUE, ORANGE
from r1lab.loss.kl import k1, k2, k3
from r1lab.loss.ratio import importance_ratio
from r1lab.module.head import AUTO, LinearHead
from r1lab.module.logprobs import completion_logprobs
from r1lab.rollout.collate import collate
from r1lab.types import Completion, Prompt


@torch.no_grad()
def token_table(
    policy: PreTrainedModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    completion: Completion,
    *,
    temperature: float,
    head: LinearHead = AUTO,
) -> pd.DataFrame:
    """One row a token of the completion, which `policy` sampled.

    Columns: token; logprob and base_logprob at `temperature`; ratio (policy to base, `r1lab.loss.ratio`); k1, k2, k3
    (estimates of KL(policy || base) in nats, `r1lab.loss.kl`). `head` applies the models' output heads.
    """
    batch = collate([prompt.ids], [completion.ids], tokenizer.pad_token_id or 0)
    logprobs, base_logprobs = (
        completion_logprobs(model, batch.to(model.device), temperature=temperature, head=head)[0].cpu()
        for model in (policy, base)
    )
    ratio = importance_ratio(logprobs, base_logprobs, batch.completion_mask, level="token")
    columns = {"logprob": logprobs, "base_logprob": base_logprobs, "ratio": ratio}
    columns |= {estimator.__name__: estimator(logprobs, base_logprobs) for estimator in (k1, k2, k3)}
    tokens = [tokenizer.decode([i]) for i in completion.ids]
    return pd.DataFrame({"token": tokens} | {name: values[0].tolist() for name, values in columns.items()})


def tokens_figure(table: pd.DataFrame) -> Figure:
    """Bars over the tokens of a `token_table`: the ratio on a logarithmic axis, and k3 below it."""
    positions = range(len(table))
    figure = Figure(figsize=(max(6.0, 0.33 * len(table)), 4.0), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(positions, table["ratio"] - 1, bottom=1.0, color=BLUE)
    above.set_yscale("log")
    for axis_format in (above.yaxis.set_major_formatter, above.yaxis.set_minor_formatter):
        axis_format("{x:g}")
    above.axhline(1.0, color="black", lw=0.8)
    above.set_ylabel("policy / base")
    below.bar(positions, table["k3"], color=ORANGE)
    below.set_ylabel("k3 (nats)")
    below.set_xticks(positions, table["token"], rotation=90, fontsize=9, parse_math=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25, lw=0.5)
    return figure
