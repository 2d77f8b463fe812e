"""Half sets that share nothing: which images belong together, and halves drawn by that.

An FSC of half maps measures the signal only if the noise of the halves is independent. It is not where both halves hold
the same image, the same particle picked twice, tilts of one particle, or neighbors on one helix (which overlap). Such
images belong together: halves are drawn from whole groups of them, and given halves that split a group are named.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from sciml_cryoem.files.faults import Faults
from sciml_cryoem.files.table import Table

CLOSE = 0.15
"""Picks on one micrograph that lie closer than this share of the box are taken for one particle. Boxes are 1.5 to 2
diameters wide, so it is about a quarter of the diameter: particles side by side are a diameter apart."""
_SMALLEST_HALF = 0.3
"""Share of the images that each half must have where halves are drawn from whole groups."""
_FEWEST_GROUPS = 8
"""Values of rlnGroupName (micrographs, or particles of tilts) from which halves can be drawn."""
_NEIGHBORS = 8
"""Of a pick that are looked at; clusters of more are found through each other."""


@dataclass(frozen=True)
class Places:
    """Where the particles lie.

    Attributes:
        image: number of the stack and of the section, a row each.
        on_micrograph: x and y, Angstrom; None where the table does not say.
        extent: of the box, Angstrom.
    """

    image: Int[np.ndarray, "n 2"]
    on_micrograph: Float[np.ndarray, "n 2"] | None
    extent: float


@dataclass(frozen=True)
class Together:
    """Which images belong together.

    Attributes:
        groups: number of the group of every image, from 0: those from whose whole the halves are drawn.
        strict: the same, of images that certainly share something.
        reasons: why, in words; empty when every image is alone.
    """

    groups: Int[np.ndarray, " n"]
    strict: Int[np.ndarray, " n"]
    reasons: tuple[str, ...]

    def split_by(self, halves: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Images whose strict group has members in both halves."""
        count = int(self.strict.max()) + 1
        in_first, in_second = (np.bincount(self.strict, halves == half, count) > 0 for half in (1, 2))
        return (in_first & in_second)[self.strict]


def belonging_together(table: Table, places: Places, faults: Faults) -> Together:
    """Find the images that belong together, and report those that should not be there twice.

    Args:
        table: of the particles; rlnMicrographName, rlnHelicalTubeID, rlnGroupName, rlnTomoName and rlnTomoParticleName
            are looked at.
        places: of the particles.
        faults: to which repeated images and picks are added.
    """
    same = np.unique(places.image, axis=0, return_inverse=True)[1].reshape(-1)
    links, reasons = [same], []
    if _report_repeats(table, same, faults):
        reasons.append("repeated images")
    for names, reason in (
        (("rlnMicrographName", "rlnHelicalTubeID"), "neighbors on a helix"),
        (("rlnTomoName", "rlnTomoParticleName"), "tilts of a particle"),
    ):
        if names[1] in table:
            links.append(_labels(table, *names))
            reasons.append(reason)
    if tilts := _are_tilts(table):
        links.append(_labels(table, "rlnGroupName"))
        reasons.append("tilts of a particle")
    pairs = _close_pairs(table, places)
    close = np.zeros(len(table), bool)
    close[pairs[same[pairs[:, 0]] != same[pairs[:, 1]]]] = True
    if close.any() and "rlnHelicalTubeID" not in table:
        reasons.append("picks of one particle")
        share = f"{CLOSE * places.extent:.0f} Angstrom ({CLOSE:.0%} of the box)"
        fault = f"{close.sum():,} of {len(table):,} picks lie within {share} of another one on their micrograph."
        _add(table, close, fault, "They seem to be one particle picked twice: remove the duplicates.", faults)
    strict = _connected(links, pairs)
    groups = strict
    if "rlnGroupName" in table and not tilts and len(set(table.columns["rlnGroupName"])) >= _FEWEST_GROUPS:
        joined = _connected([strict, _labels(table, "rlnGroupName")], np.empty((0, 2), np.int64))
        groups = joined if can_be_halved(joined) else strict
    return Together(groups, strict, tuple(dict.fromkeys(reasons)))


def _report_repeats(table: Table, same: np.ndarray, faults: Faults) -> bool:
    """Report images that several rows name, and say whether there are any."""
    times = np.bincount(same)
    repeated = times[same] > 1
    angles = [label for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi") if label in table]
    turned = _labels(table, *angles) if angles else np.zeros(len(table), np.int64)
    different = len(np.unique(np.stack([same, turned], 1), axis=0)) == len(table)
    if repeated.any() and times.min() == times.max() and different:
        fault = f"every image is named by {times.max()} rows with other angles, as after symmetry expansion."
        faults.warning(table.path, f"data_{table.name}", fault, "They share their noise, and stay in one half.")
    elif repeated.any():
        fault = f"{repeated.sum():,} of {len(table):,} rows name an image that another row names too."
        _add(table, repeated, fault, "Remove the repeated rows.", faults)
    return bool(repeated.any())


def _add(table: Table, bad: np.ndarray, fault: str, remedy: str, faults: Faults) -> None:
    add = faults.severe if bad.mean() > 0.05 and bad.sum() > 4 else faults.warning
    add(table.path, table.place(int(np.argmax(bad))), fault, remedy)


def _labels(table: Table, *names: str) -> Int[np.ndarray, " n"]:
    """Numbers of the combinations of some columns, those that are there."""
    rows = list(zip(*(table.columns[name] for name in names if name in table), strict=True))
    number = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    return np.array([number[row] for row in rows], dtype=np.int64)


def _are_tilts(table: Table) -> bool:
    """Whether rlnGroupName names particles of a tilt series: images of one group from different micrographs.

    The groups of single-particle tables are micrographs, or small ones put together: most of their images share one.
    """
    if "rlnGroupName" not in table or "rlnMicrographName" not in table:
        return False
    group, both = _labels(table, "rlnGroupName"), _labels(table, "rlnGroupName", "rlnMicrographName")
    return len(table) >= 3 * (int(group.max()) + 1) and int(both.max()) + 1 >= 0.9 * len(table)


def _close_pairs(table: Table, places: Places) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of rows on one micrograph whose particles lie closer than `CLOSE` of the box."""
    nothing = np.empty((0, 2), np.int64)
    if places.on_micrograph is None or "rlnMicrographName" not in table:
        return nothing
    unique, first, place = np.unique(
        np.column_stack([places.on_micrograph, _labels(table, "rlnMicrographName") * (100.0 * places.extent)]),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    equal = np.stack([first[place.reshape(-1)], np.arange(len(table))], 1)
    # Micrographs lie far apart in a third coordinate, so one search serves all.
    found: tuple[Any, Any] = KDTree(unique).query(
        unique, k=min(_NEIGHBORS, len(unique)), distance_upper_bound=CLOSE * places.extent
    )
    distance, neighbor = (np.reshape(part, (len(unique), -1)) for part in found)
    here, near = np.arange(len(unique))[:, None] + 0 * neighbor, np.isfinite(distance)
    pairs = np.stack([first[here[near]], first[neighbor[near]]], 1)
    pairs = np.concatenate([pairs, equal])
    return pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)


def _connected(links: list[np.ndarray], pairs: np.ndarray) -> Int[np.ndarray, " n"]:
    """Groups of rows that are linked by a common label, or as a pair, directly or through others."""
    count = len(links[0])
    edges = [pairs]
    for label in links:
        _, first = np.unique(label, return_index=True)
        edges.append(np.stack([first[np.unique(label, return_inverse=True)[1].reshape(-1)], np.arange(count)], 1))
    a, b = np.concatenate(edges).T
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def draw_half_sets(groups: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """Half set, 1 or 2, of every image, drawn from the seed: whole groups, and halves as equal as these allow.

    Where the groups cannot be halved (`can_be_halved`), images are drawn one by one.
    """
    draw = np.random.Generator(np.random.Philox(key=seed))
    count = len(groups)
    if len(np.unique(groups)) == count or not can_be_halved(groups):
        halves = np.ones(count, dtype=np.int64)
        halves[draw.permutation(count)[: count // 2]] = 2
        return halves
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = draw.permutation(len(size))
    return _fill(size, order[np.argsort(-size[order], kind="stable")])[group.reshape(-1)]


def _fill(size: np.ndarray, order: np.ndarray) -> Int[np.ndarray, " groups"]:
    """Half set of every group: one after the other into the smaller half, the largest first."""
    half, filled = np.ones(len(size), dtype=np.int64), [0, 0]
    for number in order.tolist():
        chosen = int(filled[1] < filled[0])
        half[number] = chosen + 1
        filled[chosen] += int(size[number])
    return half


def can_be_halved(groups: Int[np.ndarray, " n"]) -> bool:
    """Whether whole groups give two halves of a size that can be compared."""
    size = np.bincount(groups)
    return bool(size.max() <= (1.0 - _SMALLEST_HALF) * len(groups))


def check_half_sets(table: Table, halves: Int[np.ndarray, " n"] | None, together: Together, faults: Faults) -> None:
    """Report halves that share something.

    Args:
        table: of the particles.
        halves: as the file has them, 1 or 2; None where they are drawn.
        together: which images belong together.
        faults: to which is added.
    """
    reasons = " and ".join(together.reasons)
    if halves is None:
        if together.reasons and not can_be_halved(together.strict):
            fault = f"{np.bincount(together.strict).max():,} of {len(table):,} images belong together ({reasons})."
            remedy = "No two halves of this set are independent: do not trust an FSC of it."
            faults.severe(table.path, f"data_{table.name}", fault, remedy)
        elif together.reasons:
            count = len(np.unique(together.groups))
            fault = f"half sets are drawn from {count:,} groups of images that belong together ({reasons})."
            faults.note(table.path, f"data_{table.name}", fault)
        return
    split = together.split_by(halves)
    if split.any():
        fault = (
            f"rlnRandomSubset puts {split.sum():,} of {len(table):,} images that belong together ({reasons}) into both "
            f"halves: their FSC is too good."
        )
        _add(table, split, fault, "Remove the column, and halves are drawn by what belongs together.", faults)
