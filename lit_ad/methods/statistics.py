"""Running moments of vectors, Gaussians fitted to these moments, and values gathered from all processes.

Shapes: n vectors of width D. Everything is float64: float32 is not precise enough for hundreds of dimensions.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

from lit_ad.errors import UserError


class Moments:
    """Count, mean and scatter of vectors, updated batch by batch (Chan, Golub and LeVeque, 1983). No vector is kept.

    Args:
        dim: D.
        diagonal: Keep the diagonal of the scatter only, D numbers instead of D x D.
    """

    def __init__(self, dim: int, diagonal: bool = False) -> None:
        self.count = 0
        self.diagonal = diagonal
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = self._scatter(self.mean[None])  # sum of (x - mean)(x - mean)^T

    def update(self, vectors: Tensor) -> None:
        """Add n vectors, (n, D)."""
        vectors = vectors.detach().cpu().double()
        count, mean = len(vectors), vectors.mean(dim=0) if len(vectors) else self.mean
        shift, total = mean - self.mean, max(self.count + count, 1)
        self.scatter += self._scatter(vectors - mean) + self._scatter(shift[None]) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count += count

    def reduce(self, device: torch.device) -> None:
        """Merge the moments of all processes; each process gets the result. The group communicates on `device`."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        sums = torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])]).to(device)
        dist.all_reduce(sums)
        count = int(sums[-1].item())
        mean = (sums[:-1] / max(count, 1)).cpu()
        scatter = (self.scatter + self.count * self._scatter((self.mean - mean)[None])).to(device)
        dist.all_reduce(scatter)
        self.count, self.mean, self.scatter = count, mean, scatter.cpu()

    def _scatter(self, centred: Tensor) -> Tensor:
        """Return the sum of outer products, (n, D) -> (D, D), or its diagonal, (D,)."""
        return centred.square().sum(dim=0) if self.diagonal else centred.T @ centred

    def variance(self) -> Tensor:
        """Return the variance of each dimension, with divisor n: (D,)."""
        return (self.scatter if self.diagonal else self.scatter.diagonal()) / max(self.count, 1)

    def covariance(self) -> Tensor:
        """Return the maximum likelihood estimate, with divisor n: (D, D)."""
        return self.scatter / max(self.count, 1)


class Gaussian(nn.Module):
    """The log-density log N(x) of a Gaussian fitted to nominal vectors. Its state is in buffers, so that a checkpoint
    holds it.

    The covariance is that of the vectors if n > D and it is well conditioned. Otherwise it is shrunk: see `shrink`.

    Args:
        dim: D.
        keep: Fraction of the variance to keep. Below 1, vectors are first whitened by PCA, as scikit-learn's
            PCA(keep, whiten=True) does, and the density is that of the whitened vectors.
    """

    mean: Tensor
    whitening: Tensor
    constant: Tensor

    def __init__(self, dim: int, keep: float = 1.0) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise UserError(f"the fraction of variance to keep must lie in (0, 1], not {keep}")
        self.keep = keep
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("whitening", torch.zeros(dim, dim, dtype=torch.float64))  # columns beyond the rank stay 0
        self.register_buffer(
            "constant", torch.tensor(math.nan, dtype=torch.float64)
        )  # term of the log-density; NaN: not fitted

    @property
    def fitted(self) -> bool:
        return not bool(self.constant.isnan())

    @torch.no_grad()
    def fit(self, moments: Moments) -> None:
        """Fit the Gaussian to these moments.

        Raises:
            UserError: Fewer than two vectors.
        """
        n = moments.count
        if n < 2:
            raise UserError(f"a Gaussian needs at least 2 nominal images, not {n}")
        covariance = moments.covariance()
        if n <= len(covariance) or not covariance.any() or (self.keep == 1 and is_degenerate(covariance)):
            covariance = shrink(covariance, n)
        variances, axes = torch.linalg.eigh(covariance)
        variances, axes = variances.flip(0), axes.flip(1)  # the largest first
        rank = len(variances)
        if self.keep < 1:
            ratios = variances.clamp(min=0).cumsum(0) / variances.clamp(min=0).sum()
            rank = min(int((ratios <= self.keep).sum()) + 1, rank)
        variances = variances[:rank]
        # PCA whitens to variance 1 by the divisor n - 1. By n, as in maximum likelihood, that variance is (n - 1) / n.
        log_volume = rank * math.log((n - 1) / n) if self.keep < 1 else float(variances.log().sum())
        self.mean.copy_(moments.mean)
        self.whitening.zero_()
        self.whitening[:, :rank] = (axes[:, :rank] / variances.sqrt()).to(self.whitening)
        self.constant.fill_(-0.5 * (rank * math.log(2 * math.pi) + log_volume))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the log-density, (n, D) -> (n,) float64; NaN before `fit`."""
        white = (vectors.to(self.mean.dtype) - self.mean) @ self.whitening
        return self.constant - 0.5 * white.square().sum(dim=1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the buffers to the model's device, but keep them float64 (float32 on MPS, which has no float64)."""
        device = fn(torch.empty(0, device=self.mean.device)).device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        for name, buffer in self._buffers.items():
            assert buffer is not None
            self._buffers[name] = buffer.to(device=device, dtype=dtype)
        return self


def is_degenerate(covariance: Tensor) -> bool:
    """Return whether some direction has almost no variance after each dimension is scaled to variance 1: (D, D)."""
    deviations = covariance.diagonal().sqrt()
    if bool((deviations == 0).any()):
        return True
    eigenvalues = torch.linalg.eigvalsh(covariance / torch.outer(deviations, deviations))
    return bool(eigenvalues[0] < 1e-10 * eigenvalues[-1])


def shrink(covariance: Tensor, n: int) -> Tensor:
    """Pull the correlations towards 0, so that every direction has variance: (D, D) -> (D, D).

    Oracle approximating shrinkage (Chen et al., 2010, https://arxiv.org/abs/0907.4698) as scikit-learn's OAS computes
    it, but on the correlation matrix, so that the units of the dimensions do not matter. Standard deviations
    are at least 1e-6 of the largest, so that a constant dimension does not dominate the density.

    Args:
        covariance: Covariance of n vectors, (D, D).
        n: Number of these vectors.
    """
    deviations = covariance.diagonal().sqrt()
    largest = deviations.max()
    deviations = deviations.clamp(min=float(1e-6 * largest) if largest > 0 else 1.0)
    scale = torch.outer(deviations, deviations)
    correlation = covariance / scale
    square, trace = correlation.square().mean(), correlation.diagonal().mean()
    excess = (n + 1) * (square - trace.square() / len(correlation))
    amount = 1.0 if excess <= 0 else min(float((square + trace.square()) / excess), 1.0)
    target = torch.eye(len(correlation), dtype=correlation.dtype)
    return ((1 - amount) * correlation + amount * target) * scale


def gather_values(values: Tensor, device: torch.device) -> Tensor:
    """Concatenate the values of all processes, (n,) -> (N,); n may differ. The group communicates on `device`."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(values)], device=device))
    longest = int(max(counts).item())
    shares = [values.new_zeros(longest, device=device) for _ in counts]
    dist.all_gather(shares, pad(values.to(device), (0, longest - len(values))))
    return torch.cat([share[: int(count)] for share, count in zip(shares, counts, strict=True)])


def refuse_unscaled(name: str, scale: Tensor) -> None:
    """Raise UserError if the method `name` has no scale for its maps yet: `scale`, from held-out images, has NaN."""
    if bool(scale.isnan().any()):
        raise UserError(
            f"{name} needs the scale of its maps, which a fit computes from held-out images before each validation, "
            "and this model has had none: train it, or give --ckpt_path"
        )
