"""expert_load.png: which experts of a mixture had how much of the load over the steps, a heat map a layer."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r1lab.analysis.picture import write_picture

_COLUMNS = 4  # panels side by side
_MOST = 3.0  # times the mean; what is beyond has its colour


def read_expert_load(run_folder: str | Path) -> pd.DataFrame | None:
    """expert_load.csv of a run: step, layer, and each expert's load relative to the layer's mean; None without one."""
    path = Path(run_folder, "expert_load.csv")
    return pd.read_csv(path) if path.is_file() else None


def plot_expert_load(run_folder: str | Path) -> Path | None:
    """Draw it into the run's folder; None where the run had no routers."""
    load = read_expert_load(run_folder)
    if load is None or load.empty:
        return None
    path = Path(run_folder, "expert_load.png")
    write_picture(expert_load_figure(load), path)
    return path


def expert_load_figure(load: pd.DataFrame) -> Figure:
    """One panel a layer: steps to the right, experts upwards, white where the load is the mean."""
    layers = sorted(load["layer"].unique())
    columns = min(_COLUMNS, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(1.5 + 3.2 * columns, 0.8 + 2.2 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm = TwoSlopeNorm(1.0, 0.0, _MOST)
    for axes, layer in zip(grid.flat, layers, strict=False):
        own = load[load["layer"] == layer]
        values = own.filter(like="expert_").to_numpy().T
        steps = own["step"].to_numpy()
        # Each cell has its step in the middle.
        middles = (steps[1:] + steps[:-1]) / 2
        edges = (
            np.array([2 * steps[0] - middles[0], *middles, 2 * steps[-1] - middles[-1]])
            if len(steps) > 1
            else (steps[0] + np.array([-0.5, 0.5]))
        )
        image = axes.pcolormesh(edges, np.arange(len(values) + 1) - 0.5, values, norm=norm, cmap="RdBu_r")
        axes.set_title(f"layer {layer}: MaxVio {values[:, -1].max() - 1:.2f} at the end", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axes in list(grid.flat)[len(layers) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("expert", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("training step", fontsize=8)
    figure.colorbar(image, ax=grid, label="load / mean", extend="max")
    return figure
