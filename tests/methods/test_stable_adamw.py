"""StableAdamW by hand, and against torch's AdamW where no step is cut."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lit_ad.methods.stable_adamw import StableAdamW


def run(optimizer: torch.optim.Optimizer, tensors: list[nn.Parameter], gradients: list[list[np.ndarray]]) -> None:
    for step in gradients:
        for tensor, gradient in zip(tensors, step, strict=True):
            tensor.grad = torch.tensor(gradient, dtype=tensor.dtype)
        optimizer.step()


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((3, 4), (5,))]


def gradients(scales: list[float]) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(0)
    return [[scale * generator.normal(size=shape) for shape in ((3, 4), (5,))] for scale in scales]


def test_steps_by_hand() -> None:
    lr, beta1, beta2, eps, decay = 0.01, 0.9, 0.999, 1e-3, 0.1
    given = gradients([1.0, 1e-3, 50.0, 0.1, 10.0])  # the third is sudden; after it, the second moment falls
    tensors = parameters()
    expected = [tensor.detach().numpy().copy() for tensor in tensors]
    mean, square = [np.zeros_like(x) for x in expected], [np.zeros_like(x) for x in expected]
    largest = [np.zeros_like(x) for x in expected]
    cut = []
    for t, step in enumerate(given, start=1):
        for i, gradient in enumerate(step):
            mean[i] = beta1 * mean[i] + (1 - beta1) * gradient
            square[i] = beta2 * square[i] + (1 - beta2) * gradient**2
            largest[i] = np.maximum(largest[i], square[i])
            denominator = np.sqrt(largest[i] / (1 - beta2**t)) + eps
            rms = np.sqrt(np.mean((gradient / denominator) ** 2))
            cut.append(rms > 1)
            expected[i] -= lr * decay * expected[i]
            expected[i] -= lr / max(1, rms) * mean[i] / (1 - beta1**t) / denominator
    assert any(cut) and not all(cut)
    run(StableAdamW(tensors, lr, (beta1, beta2), eps, decay), tensors, given)
    for tensor, by_hand in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), by_hand, rtol=1e-12)


def test_it_is_adamw_where_no_step_is_cut() -> None:
    given = gradients([1.0, 0.5, 0.2, 0.1])
    ours, theirs = parameters(), parameters()
    run(StableAdamW(ours, 0.01, eps=1e-8, weight_decay=0.1), ours, given)
    run(torch.optim.AdamW(theirs, 0.01, eps=1e-8, weight_decay=0.1, amsgrad=True), theirs, given)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=0)


def test_a_sudden_gradient_makes_no_sudden_step() -> None:
    ours, theirs = parameters(), parameters()
    given = gradients([1e-3] * 200 + [1.0])
    for tensors, optimizer in (
        (ours, StableAdamW(ours, 0.01)),
        (theirs, torch.optim.AdamW(theirs, 0.01, amsgrad=True)),
    ):
        run(optimizer, tensors, given[:-1])
        before = [tensor.detach().clone() for tensor in tensors]
        run(optimizer, tensors, given[-1:])
        moved = [float((tensor.detach() - old).abs().mean()) for tensor, old in zip(tensors, before, strict=True)]
        if isinstance(optimizer, StableAdamW):
            small = moved
    assert max(a / b for a, b in zip(small, moved, strict=True)) < 0.1


def test_it_goes_on_from_its_state() -> None:
    given = gradients([1.0, 2.0, 3.0, 4.0])
    whole, halves = parameters(), parameters()
    run(StableAdamW(whole), whole, given)
    first = StableAdamW(halves)
    run(first, halves, given[:2])
    second = StableAdamW(halves, lr=1.0)  # the state has the rate too
    second.load_state_dict(first.state_dict())
    run(second, halves, given[2:])
    for one, other in zip(whole, halves, strict=True):
        assert torch.equal(one, other)


def test_a_closure_and_no_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = StableAdamW([used, unused], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(2)
    assert (used < 1).all() and (unused == 1).all()
