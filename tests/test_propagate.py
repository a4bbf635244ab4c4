import numpy as np
import pytest

from fewlabel.errors import CohortError, GridMismatch, ProtocolError
from fewlabel.labels import Label, LabelProtocol
from fewlabel.propagate import Atlas, check_atlases, fuse
from fewlabel.volume import LabelMap
from tests.heads import box, head

ONE = LabelProtocol("one", (Label(1, "a"),))
TWO = LabelProtocol("two", (Label(1, "a"), Label(2, "b")))


def atlas(protocol=ONE, spacing=12.0):
    scan = head(box(12.0))
    shape = box(spacing).shape
    return Atlas(scan, LabelMap(np.zeros(shape, dtype=np.int16), box(spacing), protocol))


def test_atlases_under_different_protocols_are_refused():
    with pytest.raises(ProtocolError, match="atlas 2 in 'two'"):
        check_atlases([atlas(ONE), atlas(TWO)])
    with pytest.raises(CohortError, match="no atlas"):
        check_atlases([])
    with pytest.raises(GridMismatch, match="atlas 1 and its labels"):
        check_atlases([atlas(spacing=6.0)])
    check_atlases([atlas(), atlas()])


def test_votes_count_by_weight_and_the_unannotated_do_not_vote():
    """Voxel 0: 5 has 0.9 against 0.4 + 0.4. Voxel 1: 0.7 against 0.8. 2, 3: -1 is no vote."""
    maps = [[5, 5, -1, -1], [6, 6, 7, -1], [6, 6, 7, -1]]
    weights = [[0.9, 0.7, 9, 1], [0.4, 0.4, 0.1, 1], [0.4, 0.4, 0.1, 1]]
    fused = fuse(
        [np.array(m, dtype=np.int16).reshape(4, 1, 1) for m in maps],
        [np.array(w, dtype=np.float32).reshape(4, 1, 1) for w in weights],
    )
    assert fused.ravel().tolist() == [5, 6, 7, -1]
