"""The weight of a second loss follows how fast both fall, and is resumed exactly."""

import pytest
import torch

from dyndepth_core.losses.balance import MOST, PERIOD, LossBalance


def run(balance, first, second, progress, periods=1):
    for _ in range(periods * PERIOD):
        ratio = balance.step(torch.tensor(first), torch.tensor(second), progress)
    return float(ratio)


def test_the_weight_is_one_until_both_losses_are_known_and_makes_them_alike_then():
    balance = LossBalance()
    for _ in range(PERIOD - 1):
        assert float(balance.step(torch.tensor(3.0), torch.tensor(0.5), 0.0)) == 1
    assert float(balance.step(torch.tensor(3.0), torch.tensor(0.5), 0.0)) == pytest.approx(6)


@pytest.mark.parametrize(("progress", "grows"), [(0.0, True), (0.5, False)])
def test_early_the_loss_that_falls_fast_gains_weight_and_later_the_one_that_lags(progress, grows):
    balance = LossBalance()
    before = run(balance, 1.0, 1.0, progress)
    after = run(balance, 1.0, 0.9, progress)  # the second falls by a tenth
    assert (after > before) is grows and after != before
    # total / total' = 0.95: (1 + 3 (0.95 / 0.9 - 1)) / (1 + 3 (0.95 - 1)), early
    if grows:
        assert after == pytest.approx((1 + 3 * (0.95 / 0.9 - 1)) / (1 + 3 * (0.95 - 1)))


def test_losses_that_stay_keep_their_weight_and_no_weight_runs_away():
    balance = LossBalance()
    fair = run(balance, 2.0, 1.0, 0.5)
    assert run(balance, 2.0, 1.0, 0.5, periods=3) == fair
    for k in range(60):
        extreme = run(balance, 2.0, 1.0 + k, 0.5)
    assert extreme == pytest.approx(MOST * fair)


def test_a_resumed_balance_goes_on_as_if_nothing_had_happened():
    whole, part = LossBalance(), LossBalance()
    values = torch.rand(3 * PERIOD, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    for k, (a, b) in enumerate(values):
        expected = whole.step(a, b, k / 300)
    for k, (a, b) in enumerate(values[:70]):
        part.step(a, b, k / 300)
    resumed = LossBalance()
    resumed.load_state_dict(part.state_dict())
    for k, (a, b) in enumerate(values[70:]):
        found = resumed.step(a, b, (k + 70) / 300)
    assert torch.equal(found, expected)
