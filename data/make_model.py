"""Build `model.cif`: an asymmetric assembly of ideal alpha helices, invented here, so that it may be shipped freely.

usage: python data/make_model.py data/model.cif

Helices of poly-alanine are packed at random (fixed seed) into three overlapping ellipsoids of different size that no
rotation or reflection takes into each other, so a map of it has one right hand and one right orientation.
"""

import sys

import gemmi
import numpy as np

# Backbone of an ideal alpha helix: radius (A), angle (degrees) and height (A) of each atom relative to its C-alpha.
ATOMS = {"N": (1.55, -27.0, -0.90), "CA": (2.29, 0.0, 0.0), "C": (1.66, 26.0, 1.10), "O": (2.00, 22.0, 2.33),
         "CB": (3.30, -10.0, -0.60)}  # fmt: skip
RISE, TURN = 1.5, 100.0
# Centers and half axes (A) of the ellipsoids: body, head, arm.
ELLIPSOIDS = (((0, 0, 0), (58, 38, 34)), ((38, 46, 12), (30, 26, 30)), ((-50, -22, 40), (18, 20, 36)))
CLEARANCE = 8.5


def helix(start: np.ndarray, axis: np.ndarray, residues: int, phase: float) -> np.ndarray:
    """Atom positions, (residues, atoms, 3)."""
    side = np.linalg.svd(axis[None])[2][1]
    other = np.cross(axis, side)
    radius, angle, height = (np.array(column) for column in zip(*ATOMS.values(), strict=True))
    number = np.arange(residues)[:, None]
    turn = np.radians(phase + TURN * number + angle)
    along = (RISE * number + height)[..., None]
    return start + along * axis + (radius * np.cos(turn))[..., None] * side + (radius * np.sin(turn))[..., None] * other


def inside(points: np.ndarray) -> bool:
    """Whether all points lie in the union of the ellipsoids."""
    hits = [(((points - center) / np.array(axes)) ** 2).sum(-1) < 1 for center, axes in ELLIPSOIDS]
    return bool(np.any(hits, axis=0).all())


def pack(helices: int, seed: int = 7) -> list[np.ndarray]:
    """Helices that lie inside and keep clear of each other."""
    draw = np.random.default_rng(seed)
    placed: list[np.ndarray] = []
    while len(placed) < helices:
        axis = draw.standard_normal(3)
        axis /= np.linalg.norm(axis)
        center, half = ELLIPSOIDS[draw.choice(len(ELLIPSOIDS), p=(0.6, 0.25, 0.15))]
        start = np.array(center) + draw.uniform(-1, 1, 3) * half
        atoms = helix(start, axis, int(draw.integers(10, 30)), draw.uniform(0, 360))
        alphas = atoms[:, 1]
        if not inside(alphas):
            continue
        if any(np.linalg.norm(alphas[:, None] - other[None, :, 1], axis=-1).min() < CLEARANCE for other in placed):
            continue
        placed.append(atoms)
    return placed


def structure(helices: list[np.ndarray]) -> gemmi.Structure:
    """A gemmi structure with one chain a helix."""
    model = gemmi.Model(1)
    for number, atoms in enumerate(helices):
        chain = gemmi.Chain(chr(65 + number // 26) + chr(65 + number % 26))
        for place, positions in enumerate(np.round(atoms, 2)):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(place + 1, " ")
            for name, position in zip(ATOMS, positions, strict=True):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.b_iso = name, gemmi.Element(name[0]), 60.0
                atom.pos = gemmi.Position(*position)
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    result = gemmi.Structure()
    result.name = "helices"
    result.add_model(model)
    return result


if __name__ == "__main__":
    groups = gemmi.MmcifOutputGroups(False)
    groups.atoms = True
    document = structure(pack(48)).make_mmcif_document(groups)
    document[0].name = "helices"
    document.write_file(sys.argv[1])
