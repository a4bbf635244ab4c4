"""The only layer at full resolution of a U-Net that begins at half of it, a few planes at a time.

Such a layer (`UNet(fine=16, fine_norm=False)`) has no norm, so what it says of some planes needs no
others but their neighbors. Its features of a whole image, eight times as many voxels as anything
else in the network, are never all in memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from fewlabel.engine_fold import doubles, fold

Maps = Shaped[np.ndarray, "_ _ _ _"]
"""Channels and three axes of space."""

PLANES = 32
"""Computed at once, at most."""
_FARTHEST = 4
"""Reach beyond which too many planes would be computed twice."""
_VOXEL_WISE = {"PRelu", "Relu", "Add", "Multiply", "Convert"}


@dataclass(frozen=True)
class Coarse:
    """A tensor at half the resolution, of which a transposed convolution makes finer maps.

    Attributes:
        layer: The transposed convolution.
        mirrored: Whether its plane 0 belongs to the last ones of the features.
    """

    layer: str
    mirrored: bool


@dataclass(frozen=True)
class Fine:
    """What lies between maps at half the resolution and the features of the last layer.

    Attributes:
        coarse: Where it begins.
        reach: How many voxels beyond its own a feature sees.
    """

    coarse: tuple[Coarse, ...]
    reach: int

    @property
    def halo(self) -> int:
        """Planes of a part that hold only where the window ends: an even number."""
        return self.reach + self.reach % 2

    def length(self, planes: int) -> int:
        """How many to compute at once, so that parts of equal length cover a window.

        >>> Fine((), reach=1).length(160), Fine((), reach=1).length(16)
        (30, 16)
        """
        rims = 2 * self.halo
        if planes <= PLANES:
            return planes
        parts = math.ceil((planes - rims) / (PLANES - rims))
        return 2 * math.ceil(((planes - rims) / parts + rims) / 2)


def fine_part(features: Any) -> Fine | None:
    """The part of a network of OpenVINO that can be computed plane by plane.

    Args:
        features: What the last layer looks at.

    Returns:
        None unless all that leads to it from half the resolution looks at few voxels.
    """
    found: dict[str, bool] = {}
    reach = _walk(features, False, found)
    if reach is None or reach > _FARTHEST or not found:
        return None
    return Fine(tuple(Coarse(*one) for one in sorted(found.items())), reach)


def _walk(output: Any, mirrored: bool, found: dict[str, bool]) -> int | None:
    """How far a tensor sees from its own voxel; takes down where half the resolution begins."""
    node = output.get_node()
    if node.get_type_name() == "Parameter":
        return 0
    if node.get_type_name() == "ConvolutionBackpropData":
        same = found.setdefault(node.get_friendly_name(), mirrored) == mirrored
        return 0 if same and doubles(node) else None
    reach = _own_reach(node)
    mirrored ^= node.get_type_name() == "Slice"
    before = [_walk(one, mirrored, found) for one in node.input_values() if not _fixed(one)]
    if reach is None or not before or None in before:
        return None
    return reach + max(one for one in before if one is not None)


def _own_reach(node: Any) -> int | None:
    """How far a node looks around a voxel; None if that is not known."""
    kind, about = node.get_type_name(), node.get_attributes()
    if kind == "Convolution":
        (edge, *others) = _edges(node)
        plain = not others and set(about["strides"]) == set(about["dilations"]) == {1}
        return edge // 2 if plain and set(about["pads_begin"]) == {edge // 2} else None
    known = (
        kind in _VOXEL_WISE
        or (kind == "Concat" and about["axis"] == 1)
        or (kind == "Slice" and _turns_planes(node))
    )
    return 0 if known else None


def _edges(convolution: Any) -> set[int]:
    return set(list(convolution.input_value(1).get_shape())[2:])


def _turns_planes(node: Any) -> bool:
    """Whether a slice turns the image around along its first spatial axis, and no more."""
    given = [one.get_node() for one in node.input_values()[1:]]
    if len(given) != 4 or any(one.get_type_name() != "Constant" for one in given):
        return False
    start, stop, step, axis = (one.get_data().ravel().tolist() for one in given)
    return bool(step == [-1] and axis == [2] and start == [-1] and stop[0] < -(2**30))


def _fixed(output: Any) -> bool:
    """Whether a tensor is the same for every image, or for every image of a size."""
    node = output.get_node()
    if node.get_type_name() in {"Constant", "ShapeOf"}:
        return True
    inputs = node.input_values()
    return bool(inputs) and all(_fixed(one) for one in inputs)


def fine_model(network: Any, features: Any, fine: Fine, window: Sequence[int], kind: type) -> Any:
    """That part as a network of its own, for some planes at a time.

    Args:
        network: Of OpenVINO; a copy, as it is changed.
        features: In it, what the last layer looks at.
        fine: Which part.
        window: Voxels of the images; even.
        kind: Type of the numbers that it is given and gives.
    """
    from fewlabel.ov import op, openvino

    size = (fine.length(window[0]), *window[1:])
    image = network.input("image")
    shapes = {image: [1, image.get_partial_shape()[1], *size]}
    nodes = {node.get_friendly_name(): node for node in network.get_ops()}
    for coarse in fine.coarse:
        layer = nodes[coarse.layer]
        maps = layer.input_value(0).get_partial_shape()[1]
        part = op.parameter([1, maps, -1, -1, -1], np.dtype(kind))
        layer.input(0).replace_source_output(op.convert(part, "f32").output(0))
        shapes[part.output(0)] = [1, maps, *(n // 2 for n in size)]
    result = op.result(op.convert(features, np.dtype(kind).name.replace("float", "f")))
    model = openvino.Model([result], [one.get_node() for one in shapes], "fine")
    model.reshape({one: openvino.PartialShape(shape) for one, shape in shapes.items()})
    fold(model)
    return model


@dataclass(frozen=True, eq=False)
class FinePlanes:
    """Computes features for a few planes at a time.

    Attributes:
        request: Runs what `fine_model` gives.
        fine: Which part that is.
        length: Planes that it computes at once.
    """

    request: Any
    fine: Fine
    length: int

    def at(
        self, image: Float32[np.ndarray, "channels i j k"], coarse: Sequence[Maps], begin: int
    ) -> tuple[int, int, Maps]:
        """Features of `length` planes from about `begin` on, and from where to where they hold.

        The maps are those of the next call then.
        """
        size, halo = image.shape[1], self.fine.halo
        first = max(0, min(begin - begin % 2 - halo, size - self.length))
        parts = [image[None, :, first : first + self.length]]
        for one, maps in zip(self.fine.coarse, coarse, strict=True):
            start = (size - first - self.length if one.mirrored else first) // 2
            parts.append(maps[None, :, start : start + self.length // 2])
        self.request.infer([np.ascontiguousarray(part) for part in parts], share_inputs=True)
        found: Maps = self.request.get_output_tensor(0).data[0]
        low = first if first == 0 else first + halo
        last = first + self.length
        return low, last if last == size else last - halo, found[:, low - first :]


@dataclass
class FineFeatures:
    """The features of a window, computed when they are asked for.

    Attributes:
        planes: What computes them.
        image: The window's.
        coarse: Maps at half the resolution.
    """

    planes: FinePlanes
    image: Float32[np.ndarray, "channels i j k"]
    coarse: Sequence[Maps]
    _begin: int = field(default=0, init=False)
    _end: int = field(default=0, init=False)
    _found: Maps | None = field(default=None, init=False)

    def __call__(self, begin: int, end: int) -> Maps:
        """Features of planes `begin` to `end`, which is best asked for in order."""
        pieces = []
        while begin < end:
            if self._found is None or not self._begin <= begin < self._end:
                self._begin, self._end, found = self.planes.at(self.image, self.coarse, begin)
                self._found = found.copy()
            upto = min(end, self._end)
            pieces.append(self._found[:, begin - self._begin : upto - self._begin])
            begin = upto
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
