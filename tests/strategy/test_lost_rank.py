import pytest

from r1lab.entry import describe
from r1lab.strategy.lost_rank import LostRank, is_of_a_lost_rank


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:27333."), True),
        (RuntimeError("ncclRemoteError: a network error or a remote process exiting prematurely."), True),
        (RuntimeError("CUDA out of memory"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_a_lost_rank_is_told_from_other_errors(error, expected):
    assert is_of_a_lost_rank(error) == expected


def test_it_says_how_to_go_on():
    told = describe(LostRank("runs/mine"), "train")
    assert "another rank of this run is gone" in told and "ckpt_path=last and hydra.run.dir=runs/mine" in told
