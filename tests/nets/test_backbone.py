import sys
import threading
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewlabel.errors import ConfigError
from fewlabel.nets import backbone
from fewlabel.nets.backbone import download, find_backbone, load_backbone, read_backbone
from fewlabel.nets.vgg_fcn import VggFcn

WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
NUMBERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
KERAS = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]


@pytest.fixture(scope="module")
def weights():
    """Zeros of VGG-16's shapes, but for the first layer, by torchvision's names."""
    state, before = {}, 3
    for number, after in zip(NUMBERS, WIDTHS, strict=True):
        state[f"features.{number}.weight"] = torch.zeros(after, before, 3, 3)
        state[f"features.{number}.bias"] = torch.zeros(after)
        before = after
    state["features.0.weight"][:] = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    state["features.28.bias"][:] = 7.0
    return state


def first_colors(found):
    return found.state["features.0.weight"][0, :, 0, 0].tolist()


@contextmanager
def server(content):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *said):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/vgg16.pth"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_blue_green_red_weights_are_turned_round(weights, tmp_path):
    said = {"input": "BGR, 0-255, minus 103.939/116.779/123.68"}
    save_file(weights, tmp_path / "caffe.safetensors", said)

    found = read_backbone(tmp_path / "caffe.safetensors")

    assert first_colors(found) == [4.0, 2.0, 1.0]
    assert found.source == "ImageNet, caffe.safetensors"


def test_weights_that_do_not_say_their_input_are_refused(weights, tmp_path):
    save_file(weights, tmp_path / "some.safetensors")

    with pytest.raises(ConfigError, match="does not say which input its weights expect"):
        read_backbone(tmp_path / "some.safetensors")


@pytest.mark.parametrize(
    ("classifier", "colors"),
    [(0.0, [1 / (255 * 0.229), 2 / (255 * 0.224), 4 / (255 * 0.225)]), (np.nan, [1.0, 2.0, 4.0])],
)
def test_both_of_torchvisions_files_are_known_by_their_classifier(
    weights, tmp_path, classifier, colors
):
    whole = weights | {"classifier.0.weight": torch.full((2, 2), classifier)}
    torch.save(whole, tmp_path / "vgg16.pth")

    assert first_colors(read_backbone(tmp_path / "vgg16.pth")) == pytest.approx(colors)


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    torch.save({"features.0.weight": NotWeights()}, tmp_path / "evil.pth")

    with pytest.raises(ConfigError, match="Cannot read the backbone"):
        read_backbone(tmp_path / "evil.pth")


class NotWeights:
    def __reduce__(self):
        return (pytest.fail, ("the file was run",))


def test_keras_names_and_axes_are_understood(weights, tmp_path):
    stored = {}
    for number, name in zip(NUMBERS, KERAS, strict=True):
        kernel = weights[f"features.{number}.weight"].numpy().transpose(2, 3, 1, 0)
        stored[f"{name}/{name}_W_1:0"] = kernel
        stored[f"{name}/{name}_b_1:0"] = weights[f"features.{number}.bias"].numpy()
    np.savez(tmp_path / "keras.npz", **stored)

    found = read_backbone(tmp_path / "keras.npz")

    assert first_colors(found) == [4.0, 2.0, 1.0]
    assert found.state["features.28.bias"][0] == 7.0


def test_h5_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "keras.h5").write_bytes(b"something")

    with pytest.raises(ConfigError, match="pip install h5py"):
        read_backbone(tmp_path / "keras.h5")


def test_a_missing_or_misshapen_layer_is_named(weights, tmp_path):
    part = {key: value for key, value in weights.items() if key != "features.28.bias"}
    save_file(part, tmp_path / "part.safetensors", {"input": "RGB, 0-255"})
    with pytest.raises(ConfigError, match=r"features\.28\.bias is missing, needed is \(512,\)"):
        read_backbone(tmp_path / "part.safetensors")

    narrow = weights | {"features.2.bias": torch.zeros(3)}
    save_file(narrow, tmp_path / "narrow.safetensors", {"input": "RGB, 0-255"})
    with pytest.raises(ConfigError, match=r"features\.2\.bias is \(3,\), needed is \(64,\)"):
        read_backbone(tmp_path / "narrow.safetensors")


@pytest.mark.parametrize(
    ("name", "words"), [("gone.pth", "gone.pth is not there"), ("vgg.zip", "is a .zip file")]
)
def test_files_that_are_not_there_or_no_weights_are_refused(tmp_path, name, words):
    (tmp_path / "vgg.zip").write_bytes(b"PK")

    with pytest.raises(ConfigError, match=words):
        read_backbone(tmp_path / name)


def test_a_truncated_file_is_refused(tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")

    with pytest.raises(ConfigError, match="copy the file again"):
        read_backbone(tmp_path / "cut.pth")


def test_random_means_no_weights(tmp_path):
    assert find_backbone("random", tmp_path) is None


def test_a_network_without_the_coarsest_stage_takes_what_it_has(weights, tmp_path):
    save_file(weights, tmp_path / "rgb.safetensors", {"input": "RGB, 0-255"})
    net = VggFcn({"a": 2}, stages=1)

    load_backbone(net, read_backbone(tmp_path / "rgb.safetensors"))

    assert net.features[0].weight[0, :, 0, 0].tolist() == [1.0, 2.0, 4.0]


# Download, from a server of our own


def test_weights_are_fetched_once_and_kept(weights, tmp_path, monkeypatch):
    whole = weights | {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save(whole, tmp_path / "published.pth")
    content = (tmp_path / "published.pth").read_bytes()
    monkeypatch.setattr(backbone, "SHA256", sha256(content).hexdigest())
    with server(content) as url:
        monkeypatch.setattr(backbone, "URL", url)
        first = find_backbone("imagenet", tmp_path / "cache")

    again = find_backbone("imagenet", tmp_path / "cache")  # the server is gone

    assert first_colors(again) == first_colors(first)
    assert [path.name for path in (tmp_path / "cache" / "backbones").iterdir()] == ["vgg16.pth"]


def test_another_file_than_the_pinned_one_is_not_kept(tmp_path):
    with (
        server(b"<html>log in first</html>") as url,
        pytest.raises(ConfigError, match="is not the file it should be: its SHA-256 begins with"),
    ):
        download(url, "0" * 64, tmp_path / "vgg16.pth")

    assert not list(tmp_path.iterdir())


def test_without_network_the_way_out_is_told(tmp_path, monkeypatch):
    with server(b"") as url:
        pass
    monkeypatch.setattr(backbone, "URL", url)

    with pytest.raises(ConfigError, match="cannot be fetched") as refusal:
        find_backbone("imagenet", tmp_path)

    assert "--set backbone=PATH" in refusal.value.fix
    assert "--set backbone=random" in refusal.value.fix
