import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from r1lab.model.ledger import BLOCK, Ledger

KIB = 256  # float32 numbers


@pytest.fixture
def ledger():
    with FakeTensorMode(), Ledger() as ledger:
        yield ledger


def test_an_allocation_lives_until_nothing_refers_to_it(ledger):
    a = torch.zeros(4 * KIB)
    b = a.view(2, -1)  # no memory of its own
    assert ledger.now == 4096
    del a
    c = b + 1
    assert ledger.now == ledger.peak == 8192
    del b
    assert ledger.now == 4096 and ledger.peak == 8192
    ledger.restart()
    assert ledger.peak == 4096
    c.mul_(2)
    assert ledger.peak == 4096


def test_small_allocations_take_a_block(ledger):
    kept = [torch.zeros(1) for _ in range(3)]
    assert ledger.now == len(kept) * BLOCK


def test_what_autograd_saves_and_the_exponentials_inside_logsumexp(ledger):
    x = torch.zeros(8, KIB, requires_grad=True)
    y = x.exp()
    z = y.logsumexp(-1)
    assert ledger.now == 2 * 8 * 1024 + BLOCK
    assert ledger.peak == 3 * 8 * 1024 + BLOCK
    del y
    assert ledger.now == 2 * 8 * 1024 + BLOCK  # saved
    z.sum().backward()
    del z
    assert ledger.now == 2 * 8 * 1024  # x and its gradient


def test_the_gradient_of_an_index_is_added_into_its_zeros(ledger):
    x = torch.zeros(KIB, KIB, requires_grad=True)
    total = x[torch.zeros(KIB, dtype=torch.int64)].sum()
    ledger.restart()
    total.backward()
    assert ledger.peak < 2.1 * x.untyped_storage().nbytes()  # x and its gradient


def test_weights_of_the_models_that_are_held_do_not_count():
    with FakeTensorMode():
        model = nn.Linear(KIB, KIB)
        with Ledger(model) as ledger:
            y = model(torch.zeros(4, KIB))
            assert ledger.now == 4 * 1024 + 4 * 1024  # saved input, output
            del y


def test_the_gradient_of_a_value_that_is_put_in_is_a_copy(ledger):
    x, order = torch.zeros(KIB, KIB, requires_grad=True), torch.zeros(KIB, dtype=torch.int64)
    y = x * 1
    y[order] = torch.zeros(KIB, KIB)
    total = y.sum()
    del y
    ledger.restart()
    total.backward()
    # x, the gradient of y, which is expanded, as a copy without what was put over, and that of x.
    assert ledger.peak >= 3 * x.untyped_storage().nbytes()
