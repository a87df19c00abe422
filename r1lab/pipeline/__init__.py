"""python -m r1lab.pipeline: a list of stages, each an ordinary train or generate run, as one thing that can be resumed.

stage.py    what a stage is, and whether a list of them hangs together
record.py   what a stage was made from, and why it has to be made anew
run.py      a stage made: trained, sampled and filtered, or written from the task's own answers
score.py    the scores of a trained stage
pipeline.py one seed after the other, stage after stage, and the table at the end
"""
