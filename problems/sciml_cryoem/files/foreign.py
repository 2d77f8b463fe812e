"""What a file is that is neither STAR nor MRC, by its first bytes, and how to make something readable of it."""

from pathlib import Path

_BY_FIRST_BYTES = (
    (b"\x93NUMPY", "a cryoSPARC dataset (.cs, NumPy)", "Export it to STAR, for example with pyem's `csparc2star.py`."),
    (b"SQLite format 3\0", "an SQLite database, as of a cisTEM project", "Export the particles from cisTEM to RELION."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Decompress it first: `zstd -d FILE`."),
    (b"\xfd7zXZ\0", "compressed with xz", "Decompress it first: `xz -dk FILE`."),
    (b"\x1f\x8b", "compressed with gzip", "Decompress it first: `gunzip -k FILE`."),
    (b"BZh", "compressed with bzip2", "Decompress it first: `bunzip2 -k FILE`."),
    (b"PK\x03\x04", "a ZIP archive", "Unpack it first: `unzip FILE`."),
    (
        b"\x89HDF\r\n",
        "an HDF5 file, as EMAN2 and cryoSPARC write",
        "Convert it to MRC, for example with `e2proc2d.py`.",
    ),
    (b"\x89PNG", "a PNG picture", "Name the MRC file that it shows."),
    (b"II*\0", "a TIFF file", "Convert it to MRC, for example with IMOD's `tif2mrc`."),
    (b"MM\0*", "a TIFF file", "Convert it to MRC, for example with IMOD's `tif2mrc`."),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`."),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8: `iconv -f UTF-16 -t UTF-8 FILE`."),
)
_BY_ENDING = {
    ".cs": ("a cryoSPARC dataset (.cs)", "Export it to STAR, for example with pyem's `csparc2star.py`."),
    ".cistem": ("a cisTEM parameter file", "Export the particles from cisTEM to RELION."),
    ".pkl": ("a pickle, which is never opened: it can run any code", "Name the STAR file that it was made from."),
}
COMPRESSED = (b"\x1f\x8b", b"BZh")
"""First bytes of what is read although it is compressed, where it is a map: gzip and bzip2."""


def identify(path: Path, start: bytes) -> tuple[str, str] | None:
    """What a file is, in words, and the remedy; None where its first bytes and its name tell nothing.

    Args:
        path: the file.
        start: its first bytes, 16 or more of them.
    """
    for known, what, remedy in _BY_FIRST_BYTES:
        if start.startswith(known):
            return what, remedy.replace("FILE", path.name)
    head = start[:200].lstrip()
    if head[:1] == b"C" and b"PSI" in head and b"THETA" in head:
        return "a cisTEM or Frealign parameter file", "Export the particles from cisTEM to RELION."
    return None if b"data_" in start else _BY_ENDING.get(path.suffix.lower())


def missing(path: Path) -> str:
    """Why a file that does not exist does not: no such name, or a link that leads nowhere."""
    if path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist."
    return "no such file."
