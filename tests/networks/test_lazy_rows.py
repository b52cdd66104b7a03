import copy
import io

import pytest
import torch

from common.errors import UserError
from common.networks.lazy_rows import LazyRowAdamW

LR = 0.05


def table(rows=4, size=3, seed=0):
    return torch.nn.Parameter(torch.randn((rows, size), generator=torch.Generator().manual_seed(seed)))


def gradients(steps=12, rows=4, size=3):
    """Gradients that leave out rows: row 0 always, the others by chance."""
    generator = torch.Generator().manual_seed(1)
    grads = torch.randn((steps, rows, size), generator=generator)
    used = torch.rand((steps, rows, 1), generator=generator) < 0.5
    used[:, 0] = False
    return grads * used


def lazy(parameter, **settings):
    return LazyRowAdamW([{"params": [parameter], "lazy_rows": True}], lr=LR, **settings)


def run(optimizer, parameter, grads):
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()


def test_every_row_moves_as_under_an_adam_of_its_own():
    parameter, grads = table(), gradients()
    rows = [torch.nn.Parameter(row.clone()) for row in parameter.detach()]
    apart = [torch.optim.AdamW([row], lr=LR, weight_decay=0.0) for row in rows]
    optimizer = lazy(parameter)
    for grad in grads:
        run(optimizer, parameter, [grad])
        for row, own, part in zip(rows, apart, grad, strict=True):
            if part.abs().sum() > 0:
                row.grad = part.clone()
                own.step()
    torch.testing.assert_close(parameter.detach(), torch.stack([row.detach() for row in rows]))


def test_unused_rows_stay_exactly_where_they_were():
    parameter, grads = table(), gradients()
    before = parameter.detach().clone()
    grads[3:, 2] = 0
    optimizer = lazy(parameter)
    run(optimizer, parameter, grads[:3])
    middle = parameter.detach().clone()
    run(optimizer, parameter, grads[3:])
    assert torch.equal(parameter[0], before[0]) and torch.equal(parameter[2], middle[2])
    assert optimizer.state[parameter]["step"].tolist() == (grads.abs().sum(2) > 0).sum(0).tolist()


def test_a_dense_optimizer_moves_them():
    parameter, grads = table(), gradients()
    before = parameter.detach().clone()
    run(torch.optim.AdamW([parameter], lr=LR), parameter, grads)
    assert not torch.equal(parameter[0], before[0])


def test_other_groups_are_torchs_adamw():
    ours, theirs, rows = table(seed=1), table(seed=1), table()
    optimizer = LazyRowAdamW([{"params": [ours]}, {"params": [rows], "lazy_rows": True}], lr=LR, weight_decay=0.1)
    plain = torch.optim.AdamW([theirs], lr=LR, weight_decay=0.1)
    for grad in gradients():
        rows.grad = grad.clone()
        run(optimizer, ours, [grad])
        run(plain, theirs, [grad])
    assert torch.equal(ours, theirs)
    assert len(optimizer.param_groups) == 2


def test_a_table_without_a_gradient_rests():
    parameter = table()
    optimizer = lazy(parameter)
    optimizer.step()
    assert not optimizer.state[parameter] and torch.equal(parameter, table())


def test_a_closure_is_evaluated_once_and_its_loss_returned():
    parameter = table()
    optimizer = lazy(parameter)

    def closure():
        optimizer.zero_grad()
        loss = parameter[1].square().sum()
        loss.backward()
        return loss.item()

    expected = parameter[1].square().sum().item()
    assert optimizer.step(closure) == pytest.approx(expected)
    assert torch.equal(parameter[2], table()[2]) and not torch.equal(parameter[1], table()[1])


def test_a_saved_state_goes_on_bit_for_bit():
    grads = gradients(20)
    whole, first = table(), table()
    run(lazy(whole), whole, grads)
    optimizer = lazy(first)
    run(optimizer, first, grads[:9])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = lazy(second)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(resumed, second, grads[9:])
    assert torch.equal(second, whole)
    assert resumed.param_groups[0]["lazy_rows"]


def test_a_learning_rate_of_a_schedule_is_obeyed():
    parameter = table()
    optimizer = lazy(parameter)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0)
    run(optimizer, parameter, gradients())
    schedule.step()
    assert torch.equal(parameter, table())


def test_a_state_of_another_table_is_an_error_that_tells_the_way_out():
    parameter, other = table(), table(rows=6)
    optimizer = lazy(parameter)
    run(optimizer, parameter, gradients())
    with pytest.raises(UserError, match=r"state is of a table \(4, 3\), this one is \(6, 3\)\. To go on with other data, start anew"):
        lazy(other).load_state_dict(copy.deepcopy(optimizer.state_dict()))
