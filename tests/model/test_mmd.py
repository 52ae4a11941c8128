"""MK-MMD against the textbook's double sums, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_eimf.model.losses.mmd import BANDWIDTHS, KERNELS, kernel_matrix, mmd, squared_distances


def kernel_value(x, y, kernel, mean):
    """One kernel of one pair, from the paper's words (section 4.5)."""
    if kernel == "linear":
        return sum(a * b for a, b in zip(x, y))
    if kernel == "cosine":
        return sum(a * b for a, b in zip(x, y)) / math.hypot(*x) / math.hypot(*y)
    distance = math.dist(x, y) ** (2 if kernel == "gaussian" else 1)
    return sum(math.exp(-distance / (alpha * mean)) for alpha in (1 / 8, 1 / 4, 1 / 2, 1, 2))


def slow_mmd(first, second, kernel, unbiased):
    both = [*first, *second]
    power = 2 if kernel == "gaussian" else 1
    distances = [math.dist(both[i], both[j]) ** power for i in range(len(both)) for j in range(len(both)) if i != j]
    mean = sum(distances) / len(distances)

    def average(left, right, skip):
        pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if not (skip and i == j)]
        return sum(kernel_value(left[i], right[j], kernel, mean) for i, j in pairs) / len(pairs)

    return average(first, first, unbiased) + average(second, second, unbiased) - 2 * average(first, second, False)


@pytest.fixture
def samples():
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(7, 3, generator=draw, dtype=torch.float64)
    second = torch.randn(5, 3, generator=draw, dtype=torch.float64) * 1.5 + 0.4
    return first, second


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("unbiased", [False, True])
def test_agrees_with_the_double_sum(samples, kernel, unbiased):
    first, second = samples
    expected = slow_mmd(first.tolist(), second.tolist(), kernel, unbiased)
    assert float(mmd(first, second, kernel, unbiased)) == pytest.approx(expected, abs=1e-10)


def test_float32_agrees_with_float64_far_from_the_origin():
    draw = torch.Generator().manual_seed(1)
    first = torch.randn(40, 8, generator=draw, dtype=torch.float64) * 0.1 + 30
    second = torch.randn(40, 8, generator=draw, dtype=torch.float64) * 0.1 + 30.05
    away = torch.tensor([-900.0, 900.0] * 4, dtype=torch.float64)  # around zero on average, and far from it
    distance = squared_distances(first)
    assert torch.allclose(squared_distances((first + away).float()).double(), distance, rtol=0.01, atol=1e-3)
    exact = float(mmd(first, second))
    assert float(mmd(first.float(), second.float())) == pytest.approx(exact, rel=1e-3)


def test_a_width_of_two_makes_the_kernels_normal_densities(samples):
    both = torch.cat(samples).tolist()
    pairs = [math.dist(x, y) ** 2 for x in both for y in both if x is not y]
    mean = sum(pairs) / len(pairs)
    expected = sum(math.exp(-(math.dist(both[0], both[9]) ** 2) / (2 * 2.0**k * mean)) for k in range(-3, 2))
    assert float(kernel_matrix(torch.cat(samples), "gaussian", 2.0)[0, 9]) == pytest.approx(expected, abs=1e-12)
    assert torch.equal(
        kernel_matrix(torch.cat(samples), "gaussian"), kernel_matrix(torch.cat(samples), "gaussian", 1.0)
    )
    assert float(mmd(*samples, width=2.0)) != pytest.approx(float(mmd(*samples)))
    assert float(mmd(*samples, "laplacian", width=2.0)) == float(mmd(*samples, "laplacian"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_is_that_of_the_values(samples, kernel):
    """The bandwidth is a constant to the gradient: compare with differences at a fixed one."""
    first, second = samples
    first = first.clone().requires_grad_(True)
    mmd(first, second, kernel).backward()
    both = torch.cat([first.detach(), second]).tolist()
    power = 2 if kernel == "gaussian" else 1
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    mean = sum(math.dist(both[i], both[j]) ** power for i, j in pairs) / len(pairs)

    def value(shift):
        moved = first.detach().clone()
        moved[2, 1] += shift
        x, y = moved.tolist(), second.tolist()
        k = lambda a, b: sum(kernel_value(p, q, kernel, mean) for p in a for q in b) / len(a) / len(b)  # noqa: E731
        return k(x, x) + k(y, y) - 2 * k(x, y)

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    assert float(first.grad[2, 1]) == pytest.approx(slope, abs=1e-6)


def test_equal_samples_are_at_no_distance_and_moved_ones_are():
    sample = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kernel in KERNELS:
        assert float(mmd(sample, sample.clone(), kernel)) == pytest.approx(0, abs=1e-12)
    spread = torch.cat([sample[:15] * 2, -sample[:15] * 2])  # mean zero, another spread
    centred = torch.cat([sample[:15], -sample[:15]])
    assert float(mmd(centred, spread, "linear")) == pytest.approx(0, abs=1e-12), "not characteristic: sees means alone"
    assert float(mmd(centred, spread, "gaussian")) > 0.05
    assert float(mmd(centred, spread, "laplacian")) > 0.05


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_bandwidths_follow_the_vectors_unit(samples, kernel):
    first, second = samples
    small = float(mmd(first * 1e-9, second * 1e-9, kernel))
    assert small == pytest.approx(float(mmd(first, second, kernel)), rel=1e-6)


def test_no_distance_is_below_zero():
    """What single precision loses of near duplicates has a root all the same."""
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1) * 30
    vectors[40:] += 1e-5
    assert (squared_distances(vectors) >= 0).all()
    assert torch.isfinite(kernel_matrix(vectors, "laplacian")).all()


def test_duplicate_vectors_give_no_nan_gradient():
    first = torch.ones(3, 2, requires_grad=True)
    for kernel in KERNELS:
        (grad,) = torch.autograd.grad(mmd(first, torch.ones(2, 2), kernel), first)
        assert torch.isfinite(grad).all(), kernel


@pytest.mark.parametrize(("size", "unbiased"), [(1, False), (2, True)])
def test_the_smallest_samples_that_have_a_distance(samples, size, unbiased):
    first, second = (sample[:size] for sample in samples)
    expected = slow_mmd(first.tolist(), second.tolist(), "gaussian", unbiased)
    assert abs(expected) > 0.1
    assert float(mmd(first, second, "gaussian", unbiased)) == pytest.approx(expected, abs=1e-10)
    assert float(mmd(first, samples[1], "gaussian", unbiased)) != 0
    assert float(mmd(samples[0], second, "gaussian", unbiased)) != 0


def test_too_small_samples_are_zero_and_still_have_a_gradient():
    one = torch.randn(1, 3, requires_grad=True)
    none = mmd(one, torch.randn(4, 3), unbiased=True)
    assert float(none.detach()) == 0
    none.backward()
    assert one.grad.abs().sum() == 0
    assert float(mmd(torch.zeros(0, 3), torch.zeros(0, 3))) == 0


def test_no_tensor_is_larger_than_pairs_times_two(samples):
    """The published form makes an n x n x d tensor; here nothing grows with both."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    first = torch.randn(20, 50, requires_grad=True)
    with Watch():
        mmd(first, torch.randn(20, 50)).backward()
    assert largest == max(40 * 40, 40 * 50)


def test_distances_and_bandwidths():
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert torch.allclose(squared_distances(vectors), torch.tensor([[0.0, 25.0], [25.0, 0.0]], dtype=torch.float64))
    assert tuple(2.0**power for power in range(-3, 2)) == BANDWIDTHS
    assert torch.allclose(kernel_matrix(vectors, "gaussian").diagonal(), torch.tensor(5.0, dtype=torch.float64))
