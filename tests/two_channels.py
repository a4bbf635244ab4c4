"""A model that looks at T1w and T2w and tells an age, small enough to work out by hand.

A voxel's intensity is the larger one of the two channels, and its class the band that lies
nearest, as in `band_model`. So either image will do, and what only one of them shows is seen. The
age is `WEEKS` times the brightest voxel of both.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fewlabel.card import AgeCard
from fewlabel.model import ModelFolder, write_model
from tests.band_model import CENTERS, band_card

WEEKS = 40.0
MODALITIES = ("T1w", "T2w")


def two_channel_onnx(centers: tuple[float, ...] = CENTERS, *, age: bool = True) -> bytes:
    """Like `band_model.band_onnx`, of the maximum of two channels."""
    at = np.array(centers, dtype=np.float32)
    weight = (80 * at).reshape(-1, 1, 1, 1, 1).astype(np.float32)
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array((-40 * at**2).astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["brighter"], axes=[1], keepdims=1),
        helper.make_node("Conv", ["brighter", "w", "b"], ["logits_bands"], kernel_shape=[1, 1, 1]),
    ]
    sizes = ["i", "j", "k"]
    told = [helper.make_tensor_value_info("logits_bands", TensorProto.FLOAT, [1, len(at), *sizes])]
    if age:
        nodes += [
            helper.make_node("ReduceMax", ["image"], ["top"], axes=[1, 2, 3, 4], keepdims=0),
            helper.make_node("Mul", ["top", "weeks"], ["age_weeks"]),
        ]
        constants.append(numpy_helper.from_array(np.float32([WEEKS]), "weeks"))
        told.append(helper.make_tensor_value_info("age_weeks", TensorProto.FLOAT, [1]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2, *sizes])
    graph = helper.make_graph(nodes, "two", [image], told, constants)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def two_channel_model(
    folder: Path, ages: AgeCard | None = None, *, onnx: bytes | None = None, **changes: object
) -> ModelFolder:
    """Write such a model; either modality may be missing unless `changes` say otherwise."""
    said = {"modalities": MODALITIES, "any_modality": True, "age": ages} | changes
    return write_model(folder, band_card(**said), onnx=onnx or two_channel_onnx())
