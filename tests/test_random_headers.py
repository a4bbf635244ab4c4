"""Whatever the bytes of a file are, it is read or refused in words; nothing else ever happens."""

import gzip
import json

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.freesurfer.mghformat import MGHImage

from fewlabel.errors import FewlabelError
from fewlabel.info import describe_scan
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import Label, LabelProtocol
from tests.scans import noise

PROTOCOL = LabelProtocol("tissue", (Label(1, "CSF"), Label(2, "GM")))
KINDS = {"nifti1": nibabel.Nifti1Image, "nifti2": nibabel.Nifti2Image, "mgh": MGHImage}
HEADERS = {"nifti1": nibabel.Nifti1Header, "nifti2": nibabel.Nifti2Header}

small = st.integers(-3, 12)
lengths = st.one_of(small, st.sampled_from([0, 1, 255, 30_000, 32_767]))
floats = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.3, 5.0, 0.001, 1000.0]),
    st.floats(width=32, allow_nan=True, allow_infinity=True),
)
spacings = st.floats(0.25, 6, width=32)
codes = st.integers(-2, 5)


def several(values, n):
    return st.lists(values, min_size=n, max_size=n)


fields = st.fixed_dictionaries(
    {},
    optional={
        "dim": several(lengths, 8),
        "pixdim": several(st.one_of(spacings, floats), 8),
        "datatype": st.sampled_from([0, 1, 2, 4, 8, 16, 64, 128, 256, 512, 768, 1024, 1280, 2304]),
        "sform_code": codes,
        "qform_code": codes,
        "srow_x": several(st.one_of(spacings, floats), 4),
        "srow_y": several(floats, 4),
        "quatern_b": floats,
        "qoffset_x": floats,
        "scl_slope": floats,
        "scl_inter": floats,
        "xyzt_units": st.integers(0, 255),
        "vox_offset": st.sampled_from([0, 1, 351, 352, 353, 400, 544, 10_000, 2_000_000_000]),
    },
)
slips = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("random")


@pytest.fixture(scope="module")
def contents(folder):
    """The bytes of a good scan in each format."""
    found = {}
    for name, kind in KINDS.items():
        path = folder / f"good.{'mgh' if name == 'mgh' else 'nii'}"
        nibabel.save(kind(noise(), np.eye(4)), path)
        found[name] = path.read_bytes()
    return found


def with_fields(content, kind, changed):
    """The content with other values in its NIfTI header."""
    header_class = HEADERS[kind]
    size = header_class.sizeof_hdr
    header = header_class(content[:size], check=False)
    for name, value in changed.items():
        header[name] = value
    return header.binaryblock + content[size:]


def with_slips(content, wrong, length):
    """The content with some bytes overwritten, cut off at a length."""
    broken = bytearray(content)
    for place, byte in wrong:
        if place < len(broken):
            broken[place] = byte
    return bytes(broken[:length])


def attempt(path):
    """The scan or None, and None or the words of its refusal."""
    try:
        return read_scan(path), None
    except FewlabelError as refusal:
        return None, refusal.what


def read_or_refuse(path):
    """Read a file in each way; `info` must know beforehand whether it will be read."""
    report = describe_scan(path)
    json.dumps(report.as_json(), allow_nan=False)
    assert report.as_text()
    scan, refusal = attempt(path)
    assert report.refusal == refusal
    if scan is not None:
        assert scan.notes == report.notes
        assert np.isfinite(scan.data).all()
        assert scan.data.dtype == np.float32
    for strict in (True, False):
        try:
            labels = read_labels(path, PROTOCOL, strict=strict)
        except FewlabelError:
            continue
        assert -1 <= labels.data.min() <= labels.data.max() <= 2


@settings(max_examples=500, deadline=None)
@given(changed=fields, kind=st.sampled_from(["nifti1", "nifti2"]), packed=st.booleans())
def test_random_headers_are_read_or_refused(folder, contents, changed, kind, packed):
    content = with_fields(contents[kind], kind, changed)
    path = folder / "scan.nii"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    read_or_refuse(path)


@settings(max_examples=500, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    inner=slips,
    outer=slips,
    length=st.one_of(st.none(), st.integers(0, 1500)),
)
def test_random_bytes_are_read_or_refused(folder, contents, kind, inner, outer, length):
    content = with_slips(contents[kind], inner, None)
    path = folder / f"scan.{'mgh' if kind == 'mgh' else 'nii'}"
    path.write_bytes(content[:length])
    read_or_refuse(path)
    path = folder / f"scan.{'mgz' if kind == 'mgh' else 'nii.gz'}"
    path.write_bytes(with_slips(gzip.compress(content, 1), outer, length))
    read_or_refuse(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=800), ending=st.sampled_from(["nii", "nii.gz", "mgz", "txt"]))
def test_any_file_is_read_or_refused(folder, content, ending):
    path = folder / f"any.{ending}"
    path.write_bytes(content)
    read_or_refuse(path)
