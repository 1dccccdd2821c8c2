"""The one state behind every pixel metric: two histograms by named group of images, fed image by image.

`pixels` counts nominal and anomalous pixels; `regions` counts anomalous pixels by the size of their region. A region
weighs 1 / size, so sizes are all that AUPRO needs: it sums count / size over the sizes, from integers, in one order.

Memory: per table at most BUDGET rows (pixels: 2 int64 each, and with votes one for each cleared bit; regions: 2) and
PENDING keys waiting to be counted: about 60 MB, and as much again while counting. `exact=True` has no limit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from lit_ad.distributed import gather_tensors
from lit_ad.metrics.histogram import (
    Histogram,
    Ints,
    absorb,
    coarsen,
    distinct,
    empty,
    majority,
    merge,
    rows,
    tied,
    total,
)
from lit_ad.metrics.keys import KEY_BITS, ordered_keys
from lit_ad.metrics.regions import region_sizes

BUDGET = {"pixels": 1 << 18, "regions": 1 << 19}
PENDING = 1 << 22
GROUP_SHIFT = 32  # the code of a stratum is group << 32 | 0 for nominal pixels, else 1 or the region's size
PARTS = ("strata", "cells", "counts", "bits")


@dataclass(frozen=True)
class Counts:
    """Pixels per cell, all (R,), by ascending score; see curves.py."""

    nominal: Ints
    anomalous: Ints
    nominal_tied: Ints
    anomalous_tied: Ints


@dataclass(frozen=True)
class Overlap:
    """Nominal pixels (R,) per cell, by ascending score, and those of regions: count (r,) by cell and region size."""

    nominal: Ints
    cell: Ints  # index into nominal
    size: Ints
    count: Ints
    exact: bool

    def regions(self) -> tuple[Ints, Ints]:
        """Sizes that occur, ascending, and how many regions have each."""
        sizes = distinct(self.size)
        pixels = np.bincount(np.searchsorted(sizes, self.size), self.count, minlength=len(sizes)).astype(np.int64)
        return sizes, pixels // sizes


class NotFinite(ValueError):
    """Scores that are NaN or infinite; the message names the image."""


class PixelState(Metric):
    """Base of the pixel metrics: what is kept, how it is fed and how it is merged over processes."""

    is_differentiable = False
    full_state_update = False
    tables: tuple[str, ...] = ("pixels", "regions")
    votes = True  # whether pixels have votes, and anomalous ones are counted at all
    names: Tensor
    pixels_cells: Tensor
    regions_cells: Tensor
    pixels_bits: Tensor
    regions_bits: Tensor

    def __init__(self, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_tensors, **kwargs})
        self.exact = exact
        self.add_state("names", torch.zeros(0, dtype=torch.uint8), dist_reduce_fx=None)  # sorted, a newline after each
        for table in self.tables:
            start = self._empty(table)
            self.add_state(f"{table}_strata", torch.from_numpy(start.strata), dist_reduce_fx=None)
            self.add_state(f"{table}_cells", torch.from_numpy(start.cells), dist_reduce_fx=None)
            self.add_state(f"{table}_counts", torch.from_numpy(start.counts), dist_reduce_fx=None)
            self.add_state(f"{table}_bits", torch.tensor(start.bits), dist_reduce_fx=None)
            self.add_state(f"{table}_pending_keys", [], dist_reduce_fx=None)  # int32 (n,): pixels not yet counted
            self.add_state(f"{table}_pending_codes", [], dist_reduce_fx=None)  # int64 () or (n,): their strata

    def _add(
        self, scores: Tensor, target: Tensor, group: str, name: str, inside: NDArray[np.bool_] | None = None
    ) -> None:
        """Count one image, 2 x (...), or its pixels inside; 2 x (H, W) where regions count."""
        values, mask = checked(scores, target, name)
        keys = ordered_keys(values)
        code = self._group(group) << GROUP_SHIFT
        ground = ~mask
        if inside is not None:
            mask, ground = mask & inside, ground & inside
        nominal, anomalous = keys[ground], keys[mask]
        self._append("pixels", nominal, np.array(code))
        if self.votes:
            self._append("pixels", anomalous, np.array(code + 1))
        if "regions" in self.tables:
            self._append("regions", anomalous, code + region_sizes(mask))

    def _append(self, table: str, keys: NDArray[np.uint32], codes: Ints) -> None:
        if not len(keys):
            return
        pending: list[Tensor] = getattr(self, f"{table}_pending_keys")
        pending.append(torch.from_numpy(keys.view(np.int32)).to(self.device))
        getattr(self, f"{table}_pending_codes").append(torch.from_numpy(codes).to(self.device))
        if sum(len(part) for part in pending) >= PENDING:
            self._count(table)

    def _count(self, table: str) -> None:
        """Move what is pending into the table."""
        keys: list[Tensor] = getattr(self, f"{table}_pending_keys")
        codes: list[Tensor] = getattr(self, f"{table}_pending_codes")
        parts: dict[int, list[NDArray[np.uint32]]] = {}
        for part, code in zip(keys, codes, strict=True):
            values = part.cpu().numpy().view(np.uint32)
            if code.ndim:
                order = np.argsort(numbers := code.cpu().numpy(), kind="stable")
                first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
                for number, piece in zip(numbers[order][first], np.split(values[order], first[1:]), strict=True):
                    parts.setdefault(int(number), []).append(piece)
            else:
                parts.setdefault(int(code), []).append(values)
        scores = {code: np.concatenate(pieces) for code, pieces in parts.items()}
        keys.clear()
        codes.clear()
        del parts
        self._store(table, absorb(self._table(table), scores, self._budget(table)))

    def _budget(self, table: str) -> int | None:
        return None if self.exact else BUDGET[table]

    def _empty(self, table: str) -> Histogram:
        return empty(votes=self.votes and table == "pixels")

    def _table(self, table: str) -> Histogram:
        strata, cells, counts, bits = (getattr(self, f"{table}_{part}").cpu().numpy() for part in PARTS)
        return Histogram(strata, cells, counts, int(bits), self._empty(table).votes)

    def _store(self, table: str, histogram: Histogram) -> None:
        for part in PARTS:
            value = torch.from_numpy(np.asarray(getattr(histogram, part), np.int64))
            setattr(self, f"{table}_{part}", value.to(self.device))

    def _groups(self) -> list[str]:
        return decoded(self.names.cpu().numpy())

    def _group(self, group: str) -> int:
        """Index of a group; a new one takes its place in the sorted list, and the others make room."""
        if "\0" in group:
            raise ValueError(f"A group's name cannot hold a zero character: {group!r}")
        known = self._groups()
        if group not in known:
            self._rename(known, known := sorted({*known, group}))
        return known.index(group)

    def _rename(self, old: list[str], new: list[str]) -> None:
        """Take `new` as list of groups; it holds all of the old ones."""
        index = np.array([new.index(name) for name in old], np.int64)
        for table in self.tables:
            self._count(table)
            histogram = self._table(table)
            strata = histogram.strata
            if len(strata):
                strata = (index[strata >> GROUP_SHIFT] << GROUP_SHIFT) + (strata & ((1 << GROUP_SHIFT) - 1))
            setattr(self, f"{table}_strata", torch.from_numpy(strata).to(self.device))
        self.names = encoded(new).to(self.device)

    def _merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Become the sum of other states, each as `_copy_state_dict` gives it."""
        sides = []
        for state in states:
            for attribute in self._defaults:
                value = state[attribute]
                setattr(self, attribute, list(value) if isinstance(value, list) else value)  # theirs stays as it is
            for table in self.tables:
                self._count(table)
            sides.append((self._groups(), {attribute: getattr(self, attribute) for attribute in self._defaults}))
        names = sorted({name for known, _ in sides for name in known})
        merged = {table: self._empty(table) for table in self.tables}
        for known, state in sides:
            for attribute, value in state.items():
                setattr(self, attribute, value)
            self._rename(known, names)
            for table in self.tables:
                merged[table] = merge(merged[table], self._table(table), self._budget(table))
        for table in self.tables:
            self._store(table, merged[table])

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Called by torchmetrics' `forward` and `merge_state`."""
        self._merge([self._copy_state_dict(), incoming_state])
        self._computed = None

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_tensors, process_group: Any | None = None) -> None:
        """Called by torchmetrics' `sync`: gather every process's tables, which differ in length, and add them up."""
        for table in self.tables:
            self._count(table)
        group = process_group or self.process_group
        tensors = {name: value for name in self._defaults if isinstance(value := getattr(self, name), Tensor)}
        gathered = {name: dist_sync_fn(value, group=group) for name, value in tensors.items()}
        processes = range(len(gathered["names"]))
        lists: dict[str, Any] = {name: [] for name in self._defaults if name not in tensors}
        self._merge([{name: parts[rank] for name, parts in gathered.items()} | lists for rank in processes])

    def _rows(self, table: str, groups: Iterable[str] | None, bits: int = KEY_BITS) -> tuple[Ints, Ints, Ints]:
        """Rows of the groups (None: all), without group: codes (r,), cells (r,), counts (C, r); in `bits` at most."""
        self._count(table)
        known = self._groups()
        wanted = [known.index(group) for group in (known if groups is None else sorted(set(groups))) if group in known]
        histogram = coarsen(self._table(table), bits)
        of_groups = histogram.strata[np.isin(histogram.strata >> GROUP_SHIFT, wanted)]
        codes, cells, counts = rows(histogram, of_groups)
        return codes & ((1 << GROUP_SHIFT) - 1), cells, counts

    def _pixels(self, groups: Iterable[str] | None = None) -> Counts:
        codes, cells, counts = self._rows("pixels", groups)
        onto = distinct(cells)
        nominal, anomalous = (total(cells[codes == label], counts[:, codes == label], onto) for label in (0, 1))
        value = majority(nominal + anomalous, len(nominal) - 1)
        return Counts(nominal[0], anomalous[0], tied(nominal, value), tied(anomalous, value))

    def _overlap(self, groups: Iterable[str] | None = None) -> Overlap:
        for table in self.tables:
            self._count(table)
        bits = min(int(self.pixels_bits), int(self.regions_bits))
        labels, background, pixels = self._rows("pixels", groups, bits)
        sizes, cells, counts = self._rows("regions", groups, bits)
        onto = distinct(np.concatenate([background, cells]))
        nominal = total(background[labels == 0], pixels[:1, labels == 0], onto)[0]
        return Overlap(nominal, np.searchsorted(onto, cells), sizes, counts[0], bits == KEY_BITS)


def encoded(names: Iterable[str]) -> Tensor:
    """Names as bytes (n,), a zero after each, which no folder's name can have, to travel between processes."""
    text = "".join(f"{name}\0" for name in names)
    return torch.tensor(list(text.encode("utf-8", "surrogateescape")), dtype=torch.uint8)


def decoded(names: NDArray[np.uint8]) -> list[str]:
    """The names that `encoded` made bytes of."""
    return names.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]


def checked(scores: Tensor, target: Tensor, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores as float32 and target as bool, in one shape; what else they are is an error that names the image."""
    if scores.shape != target.shape:
        raise ValueError(f"{name}: scores have shape {tuple(scores.shape)}, the target {tuple(target.shape)}")
    if not scores.is_floating_point():
        raise ValueError(f"{name}: scores must be floating point, not {scores.dtype}")
    values = as_float32(scores)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise NotFinite(f"{name}: {bad} of {values.size} scores are NaN or infinite (as float32)")
    labels = target.detach().cpu().contiguous().numpy() if target.dtype != torch.bfloat16 else as_float32(target)
    mask: NDArray[np.bool_] = labels == 1
    if not np.all(mask | (labels == 0)):
        raise ValueError(f"{name}: the target must hold 0 (nominal) and 1 (anomalous) only, not {odd(labels)}")
    return values, mask


def as_float32(scores: Tensor) -> NDArray[np.float32]:
    """Scores as a contiguous float32 array on the CPU: half and bfloat16 exactly, float64 rounded (order kept)."""
    array: NDArray[np.float32] = scores.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def odd(labels: NDArray[Any]) -> str:
    """The first values that are no labels, for the message."""
    wrong = np.unique(labels[(labels != 0) & (labels != 1)])
    return ", ".join(str(value) for value in wrong[:3]) + (", ..." if len(wrong) > 3 else "")
