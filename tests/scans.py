"""Small scans on disk, with whatever a test wants in their headers."""

import gzip

import nibabel
import numpy as np

SHAPE = (8, 7, 6)


def noise(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 500, shape).astype(np.int16)


def saved(path, data=None, affine=None, **fields):
    """Write a scan of 1 mm; `fields` are put into its header as they are."""
    data = noise() if data is None else data
    affine = np.eye(4) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(data, affine, dtype=data.dtype), path)
    return patched(path, **fields)


def patched(path, **fields):
    raw = path.read_bytes()
    content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    header = nibabel.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
