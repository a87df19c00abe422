"""Sweeps: Hydra's sweeper on the current Optuna, with seeds as a part of the design.

space       what is varied, in Hydra's override grammar
study       the Optuna study: its storage, its record, what may not change between two starts
work        the points as a queue in the storage, which any number of processes share; points of dead ones run again
processes   of one machine: how they start and end
reporter    from inside a run: what was measured, and whether the point is to be pruned
results     what a point's run leaves in the study
preflight   what a sweep will cost, and whether its points can run at all
sweeper     the sweeper: asks, launches seed after seed, tells
"""
