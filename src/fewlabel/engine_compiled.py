"""Networks compiled by OpenVINO: kept on disk, so that the next process starts sooner, and run.

An entry of the cache is named after all that it depends on. One that cannot be read is removed, and
where no cache can be written to, networks are compiled each time.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from fewlabel.cache import Cache, default_cache
from fewlabel.engine import Compute, age_in, cpu_settings
from fewlabel.engine_fine import Coarse, Fine, FineFeatures, FinePlanes, Maps
from fewlabel.engine_windows import Features, Head, Parts
from fewlabel.errors import OutputError

_ABOUT = "about.json"
_WORTH_BYTES = 1e6
"""Smaller networks are compiled as fast as they are read."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A network in parts.

    Attributes:
        body: From an image to features, or maps at half the resolution, and to the age if the
            network tells it.
        head: From features of some voxels to the probability of each class.
        planes: From maps at half the resolution to features of some planes, if these are computed
            so.
        fine: What the planes do, then.
    """

    body: Any
    head: Any
    planes: Any | None
    fine: Fine | None

    @property
    def channels(self) -> int:
        """Of the images."""
        return int(self.body.inputs[0].get_shape()[1])

    @property
    def tells_age(self) -> bool:
        """Whether the body ends with an age."""
        return len(self.body.outputs[-1].get_shape()) == 1

    def parts(self, *, alone: bool) -> Parts:
        """What looks at windows.

        Args:
            alone: Features of one window are not needed any more when the next one is looked at.
        """
        from fewlabel.ov import openvino

        request, n_maps = self.body.create_infer_request(), len(self.body.outputs) - self.tells_age
        planes = self._fine_planes()

        def look(image: Float32[np.ndarray, "channels i j k"]) -> tuple[Features, float | None]:
            request.infer([np.ascontiguousarray(image)[None]], share_inputs=True)
            found: list[Maps] = [one.data[0] for one in request.output_tensors[:n_maps]]
            found = found if alone else [one.copy() for one in found]
            age = age_in(request) if self.tells_age else None
            if planes is not None:
                return FineFeatures(planes, image, found), age
            return lambda begin, end: found[0][:, begin:end], age

        precision = self.body.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        version = openvino.__version__.split("-")[0]
        n_classes = int(self.head.outputs[0].get_shape()[1])
        return Parts(look, self._head(n_classes), n_classes, f"OpenVINO {version}, {precision}")

    def _fine_planes(self) -> FinePlanes | None:
        if self.planes is None or self.fine is None:
            return None
        length = int(self.planes.inputs[0].get_shape()[2])
        return FinePlanes(self.planes.create_infer_request(), self.fine, length)

    def _head(self, n_classes: int) -> Head:
        request = self.head.create_infer_request()
        takes = self.head.inputs[0]
        shape, kind = tuple(takes.get_shape()), takes.get_element_type().to_dtype()

        def run(some: Shaped[np.ndarray, "c voxels"]) -> UInt8[np.ndarray, "classes voxels"]:
            shares = np.empty((n_classes, some.shape[1]), dtype=np.uint8)
            chunk: np.ndarray = np.zeros(shape, dtype=kind)
            for begin in range(0, some.shape[1], shape[2]):
                here = some[:, begin : begin + shape[2]]
                chunk[0, :, : here.shape[1]] = here
                request.infer([chunk], share_inputs=True)
                answer = request.get_output_tensor(0).data[0]
                shares[:, begin : begin + shape[2]] = answer[:, : here.shape[1]]
            return shares

        return run


def compiled(
    core: Any, file: Path, about: tuple[object, ...], compute: Compute, make: Callable[[], Compiled]
) -> Compiled:
    """A network as it was compiled before, or else now.

    Args:
        core: Of OpenVINO.
        file: What the network comes from.
        about: What else it depends on.
        compute: Threads and precision.
        make: Compiles it.
    """
    if file.stat().st_size < _WORTH_BYTES:
        return make()
    fresh: list[Compiled] = []

    def keep(folder: Path) -> None:
        fresh.append(make())
        _write(folder, fresh[0])

    try:
        asked = *about, compute.threads, compute.precision
        place = Cache(default_cache()).entry(_key(core, file, asked), keep)
    except (OutputError, RuntimeError):  # no cache that can be written to, or no home
        return fresh[0] if fresh else make()
    found = fresh[0] if fresh else _read(core, place, compute)
    if found is None:
        shutil.rmtree(place, ignore_errors=True)
        return make()
    return found


def settings_of(compute: Compute) -> dict[str, dict[str, Any]]:
    """What OpenVINO is told of each part of a `Compiled`.

    The last layer computes in 32 bits, as 16 make logits equal where two classes compete.
    """
    fast = cpu_settings(compute)
    exact = cpu_settings(compute.model_copy(update={"precision": "exact"}))
    return {"body": fast, "head": exact, "planes": fast}


def _write(folder: Path, network: Compiled) -> None:
    about: dict[str, Any] = {"fine": network.fine and asdict(network.fine), "sha256": {}}
    for name in ("body", "head", "planes"):
        part = getattr(network, name)
        if part is not None:
            content = part.export_model().getvalue()
            (folder / name).write_bytes(content)
            about["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _read(core: Any, place: Path, compute: Compute) -> Compiled | None:
    """What was written; None if it is damaged."""
    settings = settings_of(compute)
    try:
        about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
        fine, parts = about["fine"], {}
        for name, digest in about["sha256"].items():
            content = _content(place / name, digest)
            parts[name] = core.import_model(io.BytesIO(content), "CPU", settings[name])
        if fine is not None:
            fine = Fine(tuple(Coarse(**one) for one in fine["coarse"]), fine["reach"])
        return Compiled(parts["body"], parts["head"], parts.get("planes"), fine)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def _content(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is damaged")
    return content


def _key(core: Any, file: Path, about: tuple[object, ...]) -> str:
    """Names a network, what else it depends on, and what compiled it, and for which processor."""
    return "network-" + hashlib.sha256(b"".join(_said(core, file, about))).hexdigest()


def _said(core: Any, file: Path, about: tuple[object, ...]) -> Iterator[bytes]:
    from fewlabel.ov import openvino

    traits = "FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"
    machine = [core.get_property("CPU", trait) for trait in traits]
    yield repr((about, openvino.__version__, machine)).encode()
    for path in (file, *sorted(Path(__file__).parent.glob("engine*.py"))):
        yield path.read_bytes()
