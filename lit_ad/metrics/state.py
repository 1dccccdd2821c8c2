"""The state of every pixel metric: two histograms by group of images, which are filled image by image.

The table `pixels` counts nominal and anomalous pixels. The table `regions` counts anomalous pixels by the size of their
region. AUPRO gives each pixel of a region the weight 1 / size, so it needs only these sizes: it sums count / size, from
integers, always in the same order.

Words of `histogram`: a *key* is a score as a sortable uint32; a *cell* is the set of keys with the same top `bits`
bits; a *stratum* is a class of pixels that is counted apart (in each group: nominal, anomalous, or regions of one
size); *votes* are counts of single bits that show whether (almost) all scores of a cell are equal.

Memory: a table has at most BUDGET rows (pixels: 2 int64 each, and with votes one more for each cleared bit; regions: 2)
and PENDING keys that wait to be counted: about 60 MB, and as much again while they are counted. `exact=True` has no
limit.
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
from lit_ad.metrics.checks import check_scores
from lit_ad.metrics.histogram import (
    Histogram,
    Ints,
    absorb,
    coarsen,
    count_tied,
    find_majority_bits,
    make_histogram,
    merge,
    select_rows,
    sort_distinct,
    sum_by_cell,
)
from lit_ad.metrics.keys import KEY_BITS, encode_scores
from lit_ad.metrics.regions import measure_region_sizes

BUDGET = {"pixels": 1 << 18, "regions": 1 << 19}  # rows of each table
PENDING = 1 << 22  # keys
# The code of a stratum is group << 32 | kind. In `pixels`, kind is 0 (nominal) or 1 (anomalous); in `regions`, it is
# the region's size.
GROUP_SHIFT = 32
PARTS = ("strata", "cells", "counts", "bits")


@dataclass(frozen=True)
class Counts:
    """The numbers of pixels in each of R cells, by ascending score: all (R,). See curves.py."""

    nominal: Ints
    anomalous: Ints
    nominal_tied: Ints
    anomalous_tied: Ints


@dataclass(frozen=True)
class Overlap:
    """The numbers of nominal pixels in each cell, and of the regions' pixels by cell and region size."""

    nominal: Ints  # (R,): by ascending score
    cell: Ints  # (r,): index into nominal
    size: Ints  # (r,): the size of the regions
    count: Ints  # (r,): how many pixels of regions of this size lie in the cell
    exact: bool  # whether every cell holds one value

    def regions(self) -> tuple[Ints, Ints]:
        """Return the sizes that occur, ascending, and how many regions have each."""
        sizes = sort_distinct(self.size)
        pixels = np.bincount(np.searchsorted(sizes, self.size), self.count, minlength=len(sizes)).astype(np.int64)
        return sizes, pixels // sizes


class PixelState(Metric):
    """Base of the pixel metrics: it holds the tables, adds images to them, and merges them over processes.

    `exact=True` keeps every distinct score; otherwise scores are counted in cells (see `histogram`).
    """

    is_differentiable = False
    full_state_update = False
    tables: tuple[str, ...] = ("pixels", "regions")
    votes = True  # whether the table `pixels` counts anomalous pixels, too, and keeps votes (see `histogram`)
    names: Tensor
    pixels_cells: Tensor
    regions_cells: Tensor
    pixels_bits: Tensor
    regions_bits: Tensor

    def __init__(self, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_tensors, **kwargs})
        self.exact = exact
        self.add_state("names", torch.zeros(0, dtype=torch.uint8), dist_reduce_fx=None)  # of groups: `encode_names`
        for table in self.tables:
            start = self._make_empty(table)
            self.add_state(f"{table}_strata", torch.from_numpy(start.strata), dist_reduce_fx=None)
            self.add_state(f"{table}_cells", torch.from_numpy(start.cells), dist_reduce_fx=None)
            self.add_state(f"{table}_counts", torch.from_numpy(start.counts), dist_reduce_fx=None)
            self.add_state(f"{table}_bits", torch.tensor(start.bits), dist_reduce_fx=None)
            self.add_state(f"{table}_pending_keys", [], dist_reduce_fx=None)  # int32 (n,): keys not yet counted
            self.add_state(f"{table}_pending_codes", [], dist_reduce_fx=None)  # int64 () or (n,): their strata

    def _add(
        self, scores: Tensor, target: Tensor, group: str, name: str, inside: NDArray[np.bool_] | None = None
    ) -> None:
        """Count one image, 2 x (...); for regions 2 x (H, W). `inside`: the pixels that count; None: all."""
        values, mask = check_scores(scores, target, name)
        keys = encode_scores(values)
        code = self._find_group(group) << GROUP_SHIFT
        background = ~mask
        if inside is not None:
            mask, background = mask & inside, background & inside
        nominal, anomalous = keys[background], keys[mask]
        self._append("pixels", nominal, np.array(code))
        if self.votes:
            self._append("pixels", anomalous, np.array(code + 1))
        if "regions" in self.tables:
            self._append("regions", anomalous, code + measure_region_sizes(mask))

    def _append(self, table: str, keys: NDArray[np.uint32], codes: Ints) -> None:
        """Add keys (n,), with the codes () or (n,) of their strata, to the pending keys. Count these when they are
        many."""
        if not len(keys):
            return
        pending: list[Tensor] = getattr(self, f"{table}_pending_keys")
        pending.append(torch.from_numpy(keys.view(np.int32)).to(self.device))
        getattr(self, f"{table}_pending_codes").append(torch.from_numpy(codes).to(self.device))
        if sum(len(part) for part in pending) >= PENDING:
            self._count(table)

    def _count(self, table: str) -> None:
        """Count the pending keys in the table."""
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
        self._store(table, absorb(self._read_table(table), scores, self._budget(table)))

    def _budget(self, table: str) -> int | None:
        return None if self.exact else BUDGET[table]

    def _make_empty(self, table: str) -> Histogram:
        return make_histogram(votes=self.votes and table == "pixels")

    def _read_table(self, table: str) -> Histogram:
        strata, cells, counts, bits = (getattr(self, f"{table}_{part}").cpu().numpy() for part in PARTS)
        return Histogram(strata, cells, counts, int(bits), self._make_empty(table).votes)

    def _store(self, table: str, histogram: Histogram) -> None:
        for part in PARTS:
            value = torch.from_numpy(np.asarray(getattr(histogram, part), np.int64))
            setattr(self, f"{table}_{part}", value.to(self.device))

    def _list_groups(self) -> list[str]:
        return decode_names(self.names.cpu().numpy())

    def _find_group(self, group: str) -> int:
        """Return the index of a group in the sorted list of groups. Insert a new group."""
        if "\0" in group:
            raise ValueError(f"A group's name cannot hold a zero character: {group!r}")
        known = self._list_groups()
        if group not in known:
            self._replace_groups(known, known := sorted({*known, group}))
        return known.index(group)

    def _replace_groups(self, old: list[str], new: list[str]) -> None:
        """Replace the list of groups by `new`, which includes all of `old`."""
        index = np.array([new.index(name) for name in old], np.int64)
        for table in self.tables:
            self._count(table)
            histogram = self._read_table(table)
            strata = histogram.strata
            if len(strata):
                strata = (index[strata >> GROUP_SHIFT] << GROUP_SHIFT) + (strata & ((1 << GROUP_SHIFT) - 1))
            setattr(self, f"{table}_strata", torch.from_numpy(strata).to(self.device))
        self.names = encode_names(new).to(self.device)

    def _merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Set this state to the sum of others, each from `_copy_state_dict`."""
        sides = []
        for state in states:
            for attribute in self._defaults:
                value = state[attribute]
                setattr(
                    self, attribute, list(value) if isinstance(value, list) else value
                )  # copy: the given state must not change
            for table in self.tables:
                self._count(table)
            sides.append((self._list_groups(), {attribute: getattr(self, attribute) for attribute in self._defaults}))
        names = sorted({name for known, _ in sides for name in known})
        merged = {table: self._make_empty(table) for table in self.tables}
        for known, state in sides:
            for attribute, value in state.items():
                setattr(self, attribute, value)
            self._replace_groups(known, names)
            for table in self.tables:
                merged[table] = merge(merged[table], self._read_table(table), self._budget(table))
        for table in self.tables:
            self._store(table, merged[table])

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Merge another state into this one. torchmetrics' `forward` and `merge_state` call this."""
        self._merge([self._copy_state_dict(), incoming_state])
        self._computed = None

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_tensors, process_group: Any | None = None) -> None:
        """Gather the tables of all processes, which differ in length, and add them up. torchmetrics' `sync` calls
        this."""
        for table in self.tables:
            self._count(table)
        group = process_group or self.process_group
        tensors = {name: value for name in self._defaults if isinstance(value := getattr(self, name), Tensor)}
        gathered = {name: dist_sync_fn(value, group=group) for name, value in tensors.items()}
        processes = range(len(gathered["names"]))
        lists: dict[str, Any] = {name: [] for name in self._defaults if name not in tensors}
        self._merge([{name: parts[rank] for name, parts in gathered.items()} | lists for rank in processes])

    def _select_rows(self, table: str, groups: Iterable[str] | None, bits: int = KEY_BITS) -> tuple[Ints, Ints, Ints]:
        """Return the rows of some groups (None: all), in cells of at most `bits` bits: kinds (r,) (see GROUP_SHIFT),
        cells (r,), counts (C, r). C is 1, and with votes one more for each cleared bit."""
        self._count(table)
        known = self._list_groups()
        indices = [known.index(group) for group in (known if groups is None else sorted(set(groups))) if group in known]
        histogram = coarsen(self._read_table(table), bits)
        strata = histogram.strata[np.isin(histogram.strata >> GROUP_SHIFT, indices)]
        codes, cells, counts = select_rows(histogram, strata)
        return codes & ((1 << GROUP_SHIFT) - 1), cells, counts

    def _count_pixels(self, groups: Iterable[str] | None = None) -> Counts:
        """Return the counts of the pixels of some groups (None: all)."""
        codes, cells, counts = self._select_rows("pixels", groups)
        onto = sort_distinct(cells)
        nominal, anomalous = (sum_by_cell(cells[codes == label], counts[:, codes == label], onto) for label in (0, 1))
        value = find_majority_bits(nominal + anomalous, len(nominal) - 1)
        return Counts(nominal[0], anomalous[0], count_tied(nominal, value), count_tied(anomalous, value))

    def _count_overlap(self, groups: Iterable[str] | None = None) -> Overlap:
        """Return the counts of the nominal pixels and of the regions' pixels of some groups (None: all)."""
        for table in self.tables:
            self._count(table)
        bits = min(int(self.pixels_bits), int(self.regions_bits))
        labels, background, pixels = self._select_rows("pixels", groups, bits)
        sizes, cells, counts = self._select_rows("regions", groups, bits)
        onto = sort_distinct(np.concatenate([background, cells]))
        nominal = sum_by_cell(background[labels == 0], pixels[:1, labels == 0], onto)[0]
        return Overlap(nominal, np.searchsorted(onto, cells), sizes, counts[0], bits == KEY_BITS)


def encode_names(names: Iterable[str]) -> Tensor:
    """Return names as bytes (n,), which processes can exchange. A zero follows each name: no folder's name has one."""
    text = "".join(f"{name}\0" for name in names)
    return torch.tensor(list(text.encode("utf-8", "surrogateescape")), dtype=torch.uint8)


def decode_names(names: NDArray[np.uint8]) -> list[str]:
    """Return the names in the bytes from `encode_names`."""
    return names.tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
