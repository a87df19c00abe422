"""A rank that is gone, as the others learn of it."""

# What gloo and NCCL say.
_MARKS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exit")


class LostRank(RuntimeError):
    """Another rank of the run has ended, and this one cannot go on without it."""

    def __init__(self, folder: object):
        super().__init__(
            "another rank of this run is gone: what it said itself, or what started the ranks says of it, tells why. "
            f"The same command with ckpt_path=last and hydra.run.dir={folder} goes on from the last checkpoint"
        )


def is_of_a_lost_rank(error: BaseException) -> bool:
    """Whether a collective failed since another rank has ended."""
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)
