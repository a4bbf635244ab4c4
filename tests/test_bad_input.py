"""Every refusal says which file, what was found, what was needed and what to do."""

import gzip

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage

import fewlabel.voxels
from fewlabel.errors import ScanError
from fewlabel.info import describe_scan
from fewlabel.io import read_scan
from tests.scans import SHAPE, noise, saved


def refusal_of(path):
    """The refusal of a scan: it names the file and a fix, and leaves the folder as it was."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(ScanError) as refusal:
        read_scan(path)
    assert path.name in refusal.value.what
    assert refusal.value.fix.endswith(".")
    assert sorted(path.parent.iterdir()) == before
    return refusal.value.what


def test_a_missing_file(tmp_path):
    assert "There is no file" in refusal_of(tmp_path / "scan.nii.gz")


def test_an_empty_file(tmp_path):
    (tmp_path / "scan.nii.gz").touch()
    assert "is empty (0 bytes)" in refusal_of(tmp_path / "scan.nii.gz")


def test_a_file_cut_short_in_its_header(tmp_path):
    path = saved(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:200])
    assert "its header takes 348 bytes and only 200 are there" in refusal_of(path)


def test_a_file_cut_short_in_its_voxels(tmp_path):
    path = saved(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:-100])  # 352 + 8*7*6*2 = 1024 bytes when whole
    words = refusal_of(path)
    assert "is cut short: its header asks for 1024 bytes, but 924 bytes on disk" in words


def test_a_gzip_stream_cut_short(tmp_path):
    path = saved(tmp_path / "scan.nii.gz")
    whole = path.read_bytes()
    for length in (len(whole) - 4, len(whole) // 2):
        path.write_bytes(whole[:length])
        words = refusal_of(path)
        assert "is cut short: its header asks for 1024 bytes, but its gzip stream ends" in words
    path.write_bytes(whole[:12])
    assert "its gzip stream ends within the header" in refusal_of(path)


def test_a_gzip_stream_with_a_wrong_byte(tmp_path):
    path = saved(tmp_path / "scan.nii.gz")
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1  # the checksum
    path.write_bytes(whole)
    assert "is damaged: its gzip stream cannot be uncompressed" in refusal_of(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Dear colleague, attached is the scan", "begins with the bytes 44 65 61 72"),
        (b"\x89PNG\r\n\x1a\n" + bytes(600), "it is a PNG picture"),
        (bytes(128) + b"DICM" + bytes(600), "it is a DICOM file (give the folder"),
        (bytes(2000), "begins with the bytes 00 00 00 00"),
    ],
)
def test_what_is_no_image(tmp_path, content, words):
    (tmp_path / "scan.nii").write_bytes(content)
    found = refusal_of(tmp_path / "scan.nii")
    assert words in found
    assert "needed is a NIfTI-1, NIfTI-2 or MGH file" in found


def test_a_header_without_its_voxels(tmp_path):
    path = saved(tmp_path / "scan.nii", magic=b"ni1")
    assert "voxels lie in another file (.hdr and .img)" in refusal_of(path)


def test_few_bad_voxels_are_cleaned_and_noted(tmp_path):
    data = noise((10, 10, 10)).astype(np.float32) + 5
    data[0, 0, :9] = [np.nan, np.inf, -np.inf, *[np.nan] * 6]
    scan = read_scan(saved(tmp_path / "scan.nii", data))
    darkest = data[np.isfinite(data)].min()
    assert (scan.data[0, 0, :9] == darkest).all()
    assert scan.notes == (
        f"9 voxels are NaN or infinite; they got the smallest intensity, {darkest:g}.",
    )


def test_many_bad_voxels_are_refused(tmp_path):
    data = noise((10, 10, 10)).astype(np.float64)
    data[0, 0, :10] = np.nan
    words = refusal_of(saved(tmp_path / "scan.nii", data))
    assert "10 voxels that are NaN or infinite (1 %); fewer than 1 % can be mended" in words


def test_a_constant_image(tmp_path):
    path = saved(tmp_path / "scan.nii", np.full(SHAPE, 7, np.int16))
    assert "is constant: each of its 336 voxels is 7" in refusal_of(path)


def test_an_affine_of_zeros(tmp_path):
    path = saved(tmp_path / "scan.nii", srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4)
    assert "has a singular affine (sform)" in refusal_of(path)


@pytest.mark.parametrize("row", [[1, 0, 0, 0], [1, 1e-6, 0, 0], [0, np.nan, 0, 0]])
def test_an_affine_with_parallel_axes_or_nan(tmp_path, row):
    path = saved(tmp_path / "scan.nii", srow_x=[1, 1, 0, 0], srow_y=[row[0] - 1, *row[1:]])
    assert "has a singular affine" in refusal_of(path)


def test_a_senseless_qform_where_only_that_is_there(tmp_path):
    fields = {"sform_code": 0, "qform_code": 1, "quatern_b": 3}
    path = saved(tmp_path / "scan.nii", **fields)
    assert "has a singular affine (qform)" in refusal_of(path)
    assert "The qform makes no sense" in describe_scan(path).notes[0]


def test_sform_and_qform_that_disagree_are_read_by_the_sform(tmp_path):
    path = saved(tmp_path / "scan.nii", qform_code=1, qoffset_x=30, qoffset_y=0, qoffset_z=0)
    scan = read_scan(path)
    assert scan.notes == (
        "The sform and the qform put the same voxel up to 30 mm apart; the sform is used (code 2).",
    )
    np.testing.assert_array_equal(scan.grid.affine, np.eye(4))


def test_voxel_sizes_beside_the_affine_that_disagree_are_noted(tmp_path):
    path = saved(tmp_path / "scan.nii", pixdim=[1, 1, 1, 2, 1, 1, 1, 1])
    assert read_scan(path).notes == (
        "The header states voxels of 1x1x2 mm but its sform gives 1x1x1 mm; the sform is used.",
    )


def test_sheared_axes_are_noted(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    notes = read_scan(saved(tmp_path / "scan.nii", affine=sheared)).notes
    assert "The axes of the voxels are not at right angles; the shear is kept." in notes


def test_a_time_series(tmp_path):
    words = refusal_of(saved(tmp_path / "bold.nii.gz", noise((*SHAPE, 9))))
    assert "has 9 volumes (8x7x6x9), such as a time series; needed is one 3D volume" in words


@pytest.mark.parametrize("shape", [(8, 7), (8, 7, 1), (1, 8, 7), (8, 7, 1, 20)])
def test_a_slice(tmp_path, shape):
    words = refusal_of(saved(tmp_path / "scan.nii", noise(shape)))
    assert f"is a 2D slice ({'x'.join(map(str, shape))}); needed is a whole 3D scan" in words


@pytest.mark.parametrize("spacing", [(0.29, 1, 1), (1, 1, 5.1), (0.05, 0.05, 0.05)])
def test_voxels_beyond_the_limits(tmp_path, spacing):
    words = refusal_of(saved(tmp_path / "scan.nii", affine=np.diag([*spacing, 1])))
    assert f"has voxels of {'x'.join(map(str, spacing))} mm; needed are 0.3 to 5 mm" in words


@pytest.mark.parametrize("spacing", [(0.3, 0.3, 0.3), (5, 5, 5), (0.3, 1, 5)])
def test_voxels_at_the_limits_are_read(tmp_path, spacing):
    read_scan(saved(tmp_path / "scan.nii", affine=np.diag([*spacing, 1])))


@pytest.mark.parametrize(
    ("spacing", "code", "unit"),
    [
        (0.001, 2, "meters"),
        (0.0007, 0, "meters"),
        (1000, 2, "microns"),
        (1, 1, "meters"),
        (900, 3, "microns"),
    ],
)
def test_scans_in_meters_or_microns(tmp_path, spacing, code, unit):
    affine = np.diag([spacing, spacing, spacing, 1])
    words = refusal_of(saved(tmp_path / "scan.nii", affine=affine, xyzt_units=code))
    assert f"is in {unit}: voxels of" in words
    assert "needed are mm" in words


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_header_that_asks_for_too_much_is_refused_before_anything_is_allocated(
    tmp_path, monkeypatch, name
):
    monkeypatch.setattr(fewlabel.voxels, "read_stored", None)
    path = saved(tmp_path / name, dim=[3, 30_000, 30_000, 30_000, 1, 1, 1, 1])
    words = refusal_of(path)
    assert "asks for 27000000000000 voxels (30000x30000x30000)" in words
    assert "the most that is read is 2147483648" in words


def test_a_small_gzip_file_that_promises_a_large_scan_is_refused_before_it_is_allocated(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fewlabel.voxels, "read_stored", None)
    path = saved(tmp_path / "scan.nii.gz", dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    assert "asks for 2000000352 bytes, but" in refusal_of(path)


def test_a_gzip_bomb_is_uncompressed_no_further_than_its_header_says(tmp_path, monkeypatch):
    path = saved(tmp_path / "scan.nii.gz")
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content + bytes(50_000_000)))
    given = []
    stream = fewlabel.voxels.igzip.IGzipFile
    read = stream.read

    def counted(self, size=-1):
        given.append(size)
        return read(self, size)

    monkeypatch.setattr(stream, "read", counted)
    np.testing.assert_array_equal(read_scan(path).data, noise())
    assert max(given) <= 672  # bytes of voxels
    assert min(given) > 0


@pytest.mark.parametrize("dim", [[3, 8, -7, 6], [3, 8, 0, 6], [9, 8, 7, 6], [-1, 8, 7, 6]])
def test_dimensions_that_are_none(tmp_path, dim):
    words = refusal_of(saved(tmp_path / "scan.nii", dim=[*dim, 1, 1, 1, 1]))
    assert "all must be 1 or more, on 1 to 7 axes" in words


@pytest.mark.parametrize("slope", [np.nan, np.inf])
def test_a_scale_that_is_no_number(tmp_path, slope):
    words = refusal_of(saved(tmp_path / "scan.nii", scl_slope=slope))
    assert f"by scl_slope {slope} and scl_inter 0.0; both must be finite" in words


def test_voxels_that_begin_within_the_header(tmp_path):
    words = refusal_of(saved(tmp_path / "scan.nii", vox_offset=100))
    assert "voxels begin at byte 100; they cannot begin before byte 352" in words


@pytest.mark.parametrize("code", [128, 2304])
def test_a_color_picture(tmp_path, code):
    words = refusal_of(saved(tmp_path / "scan.nii", datatype=code))
    assert "holds RGB color (RGB" in words
    assert "needed is one whole or real number per voxel" in words


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("n_labels", [1, 3, 60])
def test_a_label_map_given_as_a_scan(tmp_path, dtype, n_labels):
    rng = np.random.default_rng(1)
    values = np.concatenate([[0], rng.choice(np.arange(1, 256), n_labels, replace=False)])
    data = values[rng.integers(0, n_labels + 1, (4, 4, 4))].astype(dtype)
    path = saved(tmp_path / "dseg.nii.gz", data.repeat(8, 0).repeat(8, 1).repeat(8, 2))
    words = refusal_of(path)
    assert "looks like a label map: whole numbers only" in words


@pytest.mark.parametrize("gray_values", [16, 64, 256])
def test_scans_of_few_gray_values_with_flat_air_are_no_label_maps(tmp_path, gray_values):
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    head = np.clip(1.2 - np.sqrt(i**2 + j**2 + k**2), 0, None)
    noisy = head * np.random.default_rng(0).normal(1, 0.15, head.shape)
    data = np.clip(noisy / 1.2 * gray_values, 0, gray_values - 1).astype(np.uint8)
    read_scan(saved(tmp_path / "scan.nii", data))


def test_a_freesurfer_file_that_knows_no_orientation_is_read_with_a_note(tmp_path):
    path = tmp_path / "scan.mgh"
    nibabel.save(MGHImage(noise(), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[28:30] = b"\0\0"
    path.write_bytes(content)
    assert "knows no orientation; coronal slices are assumed" in read_scan(path).notes[0]
