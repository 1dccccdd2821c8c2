"""These tests compare Gaussians with scikit-learn's PCA(whiten=True), GaussianMixture(1) and OAS."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor

from lit_ad.errors import UserError
from lit_ad.methods.statistics import Gaussian, Moments, is_degenerate, shrink
from tests.processes import run_processes


def correlated(n: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    scales = torch.logspace(1, -2, dim, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) * scales @ axes + 5


def moments(vectors: Tensor, batch: int = 7) -> Moments:
    seen = Moments(vectors.shape[1])
    for part in vectors.split(batch):
        seen.update(part)
    return seen


def fitted(vectors: Tensor, **kwargs: float) -> Gaussian:
    gaussian = Gaussian(vectors.shape[1], **kwargs)
    gaussian.fit(moments(vectors))
    return gaussian


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 9), st.floats(-1e6, 1e6))
def test_moments_do_not_depend_on_the_batches(n: int, dim: int, batch: int, offset: float) -> None:
    vectors = torch.randn(n, dim, dtype=torch.float64) + offset
    seen = moments(vectors, batch)
    assert seen.count == n
    torch.testing.assert_close(seen.mean, vectors.mean(dim=0))
    reference = np.cov(vectors.numpy(), rowvar=False, bias=True).reshape(dim, dim)
    torch.testing.assert_close(seen.covariance(), torch.from_numpy(reference), rtol=1e-7, atol=1e-8)


def reducing(rank: int, store: Path, vectors: Tensor) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    reference = torch.from_numpy(np.cov(vectors.numpy(), rowvar=False, bias=True))
    for diagonal in (False, True):
        seen = Moments(vectors.shape[1], diagonal)
        seen.update(vectors[:13] if rank else vectors[13:])
        seen.reduce(torch.device("cpu"))
        assert seen.count == len(vectors)
        torch.testing.assert_close(seen.mean, vectors.mean(dim=0))
        torch.testing.assert_close(seen.variance(), reference.diagonal())
        if not diagonal:
            torch.testing.assert_close(seen.covariance(), reference)
    dist.destroy_process_group()


def test_the_moments_of_two_processes_equal_those_of_one_process(tmp_path: Path) -> None:
    run_processes(reducing, tmp_path / "store", correlated(40, 3))


def test_the_moments_of_no_vectors_are_zero() -> None:
    seen = Moments(3)
    seen.update(torch.zeros(0, 3))
    assert seen.count == 0
    assert not seen.covariance().any()


def test_full_gaussian_equals_gaussian_mixture() -> None:
    train, test = correlated(500, 10), correlated(100, 10, seed=1)
    reference = GaussianMixture(1, reg_covar=0.0).fit(train.numpy())
    ours = fitted(train)(test)
    np.testing.assert_allclose(ours.numpy(), reference.score_samples(test.numpy()), rtol=1e-5)
    assert (ours.argsort().numpy() == reference.score_samples(test.numpy()).argsort()).all()


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_whitened_gaussian_equals_pca_and_gaussian_mixture(keep: float) -> None:
    train, test = correlated(400, 48), correlated(100, 48, seed=1)
    pca = PCA(keep, whiten=True, svd_solver="full").fit(train.numpy())
    reference = GaussianMixture(1, reg_covar=0.0).fit(pca.transform(train.numpy()))
    expected = reference.score_samples(pca.transform(test.numpy()))
    gaussian = fitted(train, keep=keep)
    assert int(gaussian.whitening.any(dim=0).sum()) == pca.n_components_
    ours = gaussian(test)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)
    assert (ours.argsort().numpy() == expected.argsort()).all()


def test_the_gaussian_is_exact_for_float32_vectors_far_from_zero() -> None:
    train = (correlated(300, 8) + 1e4).float()
    reference = GaussianMixture(1, reg_covar=0.0).fit(train.double().numpy())
    np.testing.assert_allclose(fitted(train)(train).numpy(), reference.score_samples(train.double().numpy()), rtol=1e-5)


def test_shrinkage_equals_scikit_learns_oas_on_correlations() -> None:
    vectors = correlated(15, 20)
    units = vectors.std(dim=0, correction=0)
    reference = OAS().fit((vectors / units).numpy()).covariance_ * torch.outer(units, units).numpy()
    np.testing.assert_allclose(shrink(moments(vectors).covariance(), 15).numpy(), reference, rtol=1e-8)


@pytest.mark.parametrize("keep", [1.0, 0.9])
def test_fewer_vectors_than_dimensions_give_a_density(keep: float) -> None:
    train, test = correlated(12, 30), correlated(50, 30, seed=1)
    gaussian = fitted(train, keep=keep)
    densities = gaussian(torch.cat([train, test, test * 3]))
    assert densities.isfinite().all()
    assert densities[:12].mean() > densities[12:62].mean() > densities[62:].mean()


@pytest.mark.parametrize("keep", [1.0, 0.9])
def test_degenerate_covariances_give_a_density(keep: float) -> None:
    vectors = correlated(100, 4)
    twice = torch.cat([vectors, vectors[:, :1]], dim=1)  # one dimension repeats another
    constant = torch.cat([vectors, torch.ones(100, 1)], dim=1)
    for train in (twice, constant, torch.ones(100, 4)):
        assert is_degenerate(moments(train).covariance()) or not moments(train).scatter.any()
        gaussian = fitted(train, keep=keep)
        assert gaussian(train).isfinite().all()
        assert gaussian(train).mean() > gaussian(train + 100).mean() + 1


def test_shrinkage_does_not_depend_on_the_units_of_dimensions() -> None:
    train, units = correlated(9, 12), torch.logspace(-2, 1, 12, dtype=torch.float64)
    difference = fitted(train)(train) - fitted(train * units)(train * units)
    torch.testing.assert_close(difference, difference[:1].expand(9))


def test_a_single_vector_and_a_wrong_share_are_refused() -> None:
    with pytest.raises(UserError, match="at least 2 nominal images, not 1"):
        fitted(torch.zeros(1, 3))
    with pytest.raises(UserError, match="must lie in"):
        Gaussian(3, keep=1.5)


def test_a_gaussian_is_the_same_from_a_checkpoint_and_in_any_precision() -> None:
    train = correlated(50, 6)
    gaussian = fitted(train, keep=0.9)
    other = Gaussian(6, keep=0.9)
    assert not other.fitted
    assert other(train).isnan().all()
    other.load_state_dict(gaussian.state_dict())
    assert other.fitted
    assert torch.equal(other(train), gaussian(train))
    half = torch.nn.Sequential(copy.deepcopy(gaussian)).to(torch.bfloat16)
    assert torch.equal(half(train), gaussian(train))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian(train), half(train))
