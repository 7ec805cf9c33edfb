"""Distances between cells: tables that depend on the configuration alone.

Each is made once a process, and is a constant of what is compiled or exported.
"""

import functools
import math

import torch
from torch import Tensor

# Outer edges in kilometres of the rings around a record; what lies beyond is one ring more.
RING_KM = (0.75, 1.25, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0)
# From a cell to the nine in and around it, along x and y.
STEPS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1))


@functools.cache
def distances(radius: int) -> tuple[Tensor, Tensor]:
    """Distances within a square kernel in ascending order, and for each offset [2R + 1, 2R + 1] the number of its
    own."""
    step = torch.arange(-radius, radius + 1, device="cpu")
    squared, ring = torch.unique(step[:, None] ** 2 + step[None, :] ** 2, return_inverse=True)
    return squared.float().sqrt(), ring


@functools.cache
def between_distances(trained_radius: int, radius: int, unit: float) -> tuple[Tensor, Tensor]:
    """For each offset [2R + 1, 2R + 1] of `unit` trained cells: the trained distance above it, and how near it is."""
    distance, _ = distances(trained_radius)
    step = torch.arange(-radius, radius + 1, device="cpu") * unit
    asked = torch.hypot(step[:, None], step[None, :]).clamp(max=float(distance[-1]))
    above = torch.searchsorted(distance, asked).clamp(min=1)
    return above, (asked - distance[above - 1]) / (distance[above] - distance[above - 1])


@functools.cache
def ring_of_square(cell_km: float) -> Tensor:
    """The ring of a squared distance in cells; R for the very cell. All beyond the last entry are as that."""
    edges = torch.tensor([(km / cell_km) ** 2 + 1e-6 for km in RING_KM], device="cpu")
    table = torch.bucketize(torch.arange(int(edges[-1]) + 2, device="cpu").float(), edges)
    table[0] = len(RING_KM) + 1
    return table


@functools.cache
def quarter_disks(cell_km: float) -> tuple[Tensor, Tensor, Tensor]:
    """How many points (i, j) with 1 <= i <= a, 0 <= j <= b lie within each of `RING_KM` of (0, 0), in one table.

    Returns:
        [R] radius of each in cells; [R] where its part of the table begins; the table, in which the number stands at
        begin + a * (radius + 1) + b, for a and b up to the radius.
    """
    tables = []
    for km in RING_KM:
        squared = (km / cell_km) ** 2 + 1e-6
        i = torch.arange(math.isqrt(int(squared)) + 1, device="cpu")
        inside = (i[:, None] ** 2 + i[None, :] ** 2 <= squared) & (i[:, None] >= 1)
        tables.append(inside.long().cumsum(0).cumsum(1))
    sizes = torch.tensor([table.numel() for table in tables], device="cpu")
    radius = torch.tensor([len(table) - 1 for table in tables], device="cpu")
    return radius, sizes.cumsum(0) - sizes, torch.cat([table.flatten() for table in tables])


@functools.cache
def proximity_by_offset(reach: int, unit: float) -> tuple[int, Tensor]:
    """How near the nine cells in and around a cell are to another, by where the cell lies from that one.

    Args:
        reach: along x and y, in trained cells, beyond which nothing is near.
        unit: trained cells a cell.

    Returns:
        R, and [(2R + 1)^2, 9] proximities of the offsets -R..R along y and, within these, along x; 0 at the rim.
    """
    radius = math.floor(reach / unit + 1e-9) + 2
    offset = torch.arange(-radius, radius + 1, device="cpu")
    step = torch.tensor(STEPS, device="cpu")
    dx = ((offset[:, None] + step[:, 0]).abs() * unit)[None]
    dy = ((offset[:, None] + step[:, 1]).abs() * unit)[:, None]
    is_near = (dx <= reach) & (dy <= reach)
    return radius, (torch.exp(-0.5 * torch.hypot(dx, dy)) * is_near).flatten(0, 1)
