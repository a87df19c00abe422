"""Documents from Parquet files of (prompt, completion): shuffled anew each epoch, sources mixed by weight."""

import random
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from r1lab.task.columns import text_of


class FilteredDocuments:
    """Endless documents of several sources; document `index` follows from (seed, index) alone.

    In every row of `sum(weights)` documents each source has as many as its weight, in an order drawn anew; and each
    source is gone through in epochs, each document once an epoch, in an order drawn anew. DeepSeek-R1 mixes 600k
    reasoning and 200k other samples (2501.12948v2, B.3.3): weights of 3 and 1.

    Args:
        sources: name -> {path: of a Parquet file with columns `prompt` and `completion`, weight: whole number}.

    Raises:
        ValueError: no sources, an empty one, or a weight below 1.
    """

    def __init__(self, sources: Mapping[str, Mapping[str, Any]], *, seed: int):
        if not sources:
            raise ValueError("data.documents.sources names no source")
        self.seed = seed
        self.documents = {name: read_documents(source["path"]) for name, source in sources.items()}
        self.weights = {name: source["weight"] for name, source in sources.items()}
        for name, documents in self.documents.items():
            if not documents:
                raise ValueError(f"{sources[name]['path']} holds no documents: its filters let nothing through")
            if not isinstance(self.weights[name], int) or self.weights[name] < 1:
                raise ValueError(
                    f"data.documents.sources.{name}.weight must be a whole number from 1, got {self.weights[name]}"
                )

    def document(self, index: int) -> tuple[str, str]:
        round_, place = divmod(index, sum(self.weights.values()))
        names = [name for name, weight in self.weights.items() for _ in range(weight)]
        random.Random(f"{self.seed}/round/{round_}").shuffle(names)
        name = names[place]
        number = round_ * self.weights[name] + names[:place].count(name)
        documents = self.documents[name]
        epoch, place = divmod(number, len(documents))
        return documents[_order(f"{self.seed}/{name}/{epoch}", len(documents))[place]]

    def __len__(self) -> int:
        """Documents until each source was gone through at least once."""
        rounds = max(-(-len(self.documents[name]) // weight) for name, weight in self.weights.items())
        return rounds * sum(self.weights.values())


@lru_cache(maxsize=16)
def _order(key: str, length: int) -> list[int]:
    order = list(range(length))
    random.Random(key).shuffle(order)
    return order


def read_documents(path: str | Path) -> list[tuple[str, str]]:
    """(prompt, completion) texts of a Parquet file, in its order.

    Raises:
        ValueError: a missing column, a value that is no text (see `r1lab.task.columns.text_of`), an empty prompt.
    """
    names = ("prompt", "completion")
    if missing := set(names) - set(columns := pq.read_schema(path).names):
        raise ValueError(f"{path} has no column {' and no '.join(sorted(missing))}; it has {', '.join(columns)}")
    table = pq.read_table(path, columns=list(names))
    prompts, completions = (
        [text_of(value, f"row {row} of {path}, column {name},") for row, value in enumerate(table[name].to_pylist(), 1)]
        for name in names
    )
    if "" in prompts:
        raise ValueError(f"row {prompts.index('') + 1} of {path}, column prompt, is empty: give it some text")
    return list(zip(prompts, completions, strict=True))
