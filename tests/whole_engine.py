"""Networks in one piece, all in memory: what engines must agree with."""

from itertools import product

import numpy as np

from fewlabel.engine import (
    Answer,
    Compute,
    ages_of,
    channels_of,
    cpu_settings,
    logits_of,
    with_shares,
)
from fewlabel.engine_norms import steady
from fewlabel.ov import op, openvino
from fewlabel.patches import tile_starts, tile_weights

EXACT = Compute(threads=1, precision="exact")


def dense(answer):
    """Its probabilities in one array."""
    return np.stack([*answer.shares])


def answer_of(onnx, head, image, offsets=None):
    """What a network says of an image that it sees as a whole, all logits at once."""
    network, logits, ages = _read(onnx, head, image.shape[1:], offsets)
    shares = with_shares(network, logits)
    ends = [*shares.get_results(), *map(op.result, ages)]
    shares, *age = _run(openvino.Model(ends, shares.get_parameters(), "whole"), image)
    return Answer(shares[0], float(age[0].item()) if age else None)


def answer_in_windows(onnx, head, image, window, offsets=None):
    """The same from the weighted means of the logits of windows."""
    network, logits, _ = _read(onnx, head, window, offsets)
    model = openvino.Model([op.result(logits)], network.get_parameters(), "logits")
    mean = blend(lambda part: _run(model, part)[0][0], image, window)
    shares = np.exp(mean - mean.max(axis=0))
    return Answer(np.rint(255 * shares / shares.sum(axis=0)).astype(np.uint8))


def blend(look, image, window):
    """Weighted means of what is seen in each window."""
    field = image.shape[1:]
    total, sums = np.zeros(field, np.float32), None
    for start in product(*(tile_starts(*pair) for pair in zip(field, window, strict=True))):
        here = tuple(slice(a, a + n) for a, n in zip(start, window, strict=True))
        found = look(image[(slice(None), *here)])
        sums = np.zeros((len(found), *field), np.float32) if sums is None else sums
        sums[(slice(None), *here)] += found * tile_weights(window)
        total[here] += tile_weights(window)
    return sums / total


def _read(onnx, head, shape, offsets):
    network = openvino.Core().read_model(onnx)
    network.reshape({"image": [1, channels_of(network), *shape]})
    logits = logits_of(network, head, offsets)
    steady(network)
    return network, logits, ages_of(network)


def _run(model, image):
    compiled = openvino.Core().compile_model(model, "CPU", cpu_settings(EXACT))
    return [one.copy() for one in compiled([np.ascontiguousarray(image)[None]]).to_tuple()]
