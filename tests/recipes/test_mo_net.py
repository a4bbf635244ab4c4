"""MO-Net, on brains of 8 mm voxels."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fewlabel.cohort import Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.datasets.phantom import PhantomConfig, write_phantoms
from fewlabel.errors import CohortError, ConfigError
from fewlabel.joint import joint_loss, load_start, loss_weights, start_from
from fewlabel.labels import load_protocol
from fewlabel.nets.unet import UNet
from fewlabel.partial import PartialConfig, PartialImages, painter_of
from fewlabel.recipes import mo_net, read_plan
from fewlabel.train.checkpoint import save_weights
from fewlabel.train.loop import train
from fewlabel.train.run import Run
from fewlabel.train.stage import Workplace

PHANTOM, FSL15 = load_protocol("phantom8"), load_protocol("fsl15")
SMALL = (4, 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three people to learn from and one to test on, and a protocol of two structures."""
    folder = tmp_path_factory.mktemp("data")
    config = PhantomConfig(cases=4, spacing_mm=5.0, validation=0, test=1)
    cohort = index_folder(write_phantoms(folder / "phantoms", config)).cohort
    write_cohort(cohort, folder / "cohort.tsv")
    (folder / "partial2.tsv").write_text("index\tname\n1\tVentricle\n2\tBrain-Stem\n")
    return folder


@pytest.fixture
def config_of(data):
    def of(**changes):
        usual = {
            "data": {"cohort": data / "cohort.tsv"},
            "pretraining": {"data": {"cohort": data / "cohort.tsv"}, "steps": 2},
            "protocols": ["phantom8"],
            "partial": str(data / "partial2.tsv"),
            "working": {"spacing_mm": 8.0, "intensity": "z_score"},
            "patches": {"size": [16, 16, 16], "batch": 1},
            "channels": SMALL,
            "steps": 2,
        }
        return mo_net.Config.model_validate(usual | changes)

    return of


def stages_of(config, folder):
    """Stage 1 is trained when stage 2 is asked for."""
    work = Workplace(folder / "run", folder / "cache")
    run = Run(folder / "run")
    for stage in mo_net.stages(config, 0, work):
        yield stage
        train([stage], run)


def test_both_decoders_start_from_stage_1_bit_for_bit_but_for_the_new_last_layer(
    config_of, tmp_path
):
    first, second = stages_of(config_of(), tmp_path)
    before = first.networks["net"].state_dict()
    fresh = next(stages_of(config_of(start="scratch", pretraining=None), tmp_path / "other"))
    config = config_of(pretraining=None, pretrained=tmp_path / "run")
    work = Workplace(tmp_path / "later", tmp_path / "cache")

    after = next(mo_net.stages(config, 0, work)).networks["net"].state_dict()

    assert [first.name, second.name] == ["pretrain", "joint"]
    for name, weight in before.items():
        assert torch.equal(after[name], weight)
        twin = name.replace("partial2", "phantom8")
        if ".outs." not in name:
            assert torch.equal(after[twin], weight)
    last = [name for name in after if "phantom8.outs." in name]
    untrained = UNet({"phantom8": 9}, channels=SMALL).state_dict()
    assert {after[name].shape for name in last} == {untrained[name].shape for name in last}
    assert fresh.networks["net"].decoders.keys() == {"phantom8"}
    assert list(mo_net.exports(config, first.networks).heads) == ["partial2"]


def test_the_partial_target_is_the_merge_of_the_full_one(config_of, tmp_path):
    *_, stage = stages_of(config_of(augment={"chance": 0}), tmp_path)
    keep = {PHANTOM.class_of("Ventricle"): 1, PHANTOM.class_of("Brain-Stem"): 2}

    for n in range(4):
        batch = stage.turns[0].draw(n)
        full, partial = batch["classes/phantom8"], batch["classes/partial2"]
        merged = torch.where(full < 0, full, torch.zeros_like(full))
        for number, goal in keep.items():
            merged[full == number] = goal
        assert torch.equal(partial, merged)
        assert batch["merge/partial2"].tolist() == [[0, 1, 2]]


def test_beyond_a_scan_of_z_scores_it_is_as_dark_as_in_its_darkest_voxels(config_of, tmp_path):
    patches = {"size": [64, 64, 64], "batch": 1}
    still = {"move": 0, "margin_voxels": 0}
    config = config_of(start="scratch", pretraining=None, patches=patches, augment=still)
    stage = next(stages_of(config, tmp_path))

    image = stage.turns[0].draw(0)["image"]

    assert image[0, 0, 0, 0, 0] == image.min()
    assert image.min() < -0.5


def test_both_losses_count_half_and_a_network_with_one_decoder_has_one():
    torch.manual_seed(0)
    net = UNet({"phantom8": 9, "partial2": 3}, channels=SMALL)
    labels = torch.zeros((1, 8, 8, 8), dtype=torch.int16)
    batch = {"image": torch.rand(1, 1, 8, 8, 8)}
    for name, n in (("phantom8", 9), ("partial2", 3)):
        batch |= {f"classes/{name}": labels, f"merge/{name}": torch.arange(n)[None]}
    weights = loss_weights(("phantom8", "partial2"), "partial2", 0.5)

    found = joint_loss(net, batch, weights, dice_weight=0.0)

    parts = [found["cross-entropy phantom8"], found["cross-entropy partial2"]]
    assert weights == {"phantom8": 0.5, "partial2": 0.5}
    assert found["total"].item() == pytest.approx(0.5 * sum(part.item() for part in parts))
    assert loss_weights(("phantom8",), "partial2", 0.5) == {"phantom8": 1.0}


def test_stage_2_without_the_file_of_stage_1_says_what_to_do(config_of, tmp_path):
    config = config_of(pretraining=None, pretrained=tmp_path / "nowhere")

    with pytest.raises(ConfigError, match=r"but there is no .*nowhere") as refusal:
        next(stages_of(config, tmp_path))

    assert "`start: pretrain` first and set `pretrained`" in refusal.value.fix
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="does not hold the weights of a network"):
        load_start(tmp_path / "empty.safetensors")


def test_a_network_of_another_shape_is_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"net": UNet({"a": 3}, channels=SMALL).state_dict()})
    before = load_start(tmp_path / "w.safetensors")

    with pytest.raises(ConfigError, match=r"\(decoder a\) does not fit one for b"):
        start_from(UNet({"full": 9}, channels=SMALL), before, "b")
    with pytest.raises(ConfigError, match="does not fit"):
        start_from(UNet({"full": 9}, channels=(8, 16)), before, "a")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretraining": None}, "needs stage 1: set either `pretraining`"),
        ({"pretrained": "somewhere"}, "needs stage 1: set either"),
        ({"start": "scratch"}, "`start: scratch` takes no `pretraining`"),
        ({"start": "pretrain", "pretraining": None}, "needs `pretraining`, nothing else"),
        ({"data": None}, "needs `data` with full labels"),
        ({"augment": {"chance": 0.3}}, "`augment.chance` must be 0 unless"),
        ({"patches": {"size": [15, 16, 16]}}, "must be divisible by 2"),
        ({"pretraining": {"steps": 1}}, "needs `data`, `label_maps` or both"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config_of, changes, words):
    with pytest.raises(ValueError, match=words):
        config_of(**changes)


def test_people_of_stage_1_may_not_be_scored(config_of, data, tmp_path):
    cases = index_folder(data / "phantoms").cohort.cases
    seen = Cohort(tuple(replace(case, split="train") for case in cases))
    write_cohort(seen, tmp_path / "partial.tsv")
    config = config_of(pretraining={"data": {"cohort": tmp_path / "partial.tsv"}, "steps": 1})

    with pytest.raises(CohortError, match=r"is in pre-training .* and test"):
        list(stages_of(config, tmp_path))


def test_people_of_an_earlier_stage_1_may_not_be_scored_either(config_of, data, tmp_path):
    cases = index_folder(data / "phantoms").cohort.cases
    run = tmp_path / "earlier"
    (run / "pretrain").mkdir(parents=True)
    weights = UNet({"partial2": 3}, channels=SMALL).state_dict()
    save_weights(run / "pretrain" / "final.safetensors", {"net": weights})
    write_cohort(Cohort(tuple(replace(case, split="train") for case in cases)), run / "cohort.tsv")

    for place in (run, run / "pretrain" / "final.safetensors"):
        config = config_of(pretraining=None, pretrained=place)
        with pytest.raises(CohortError, match=r"is in pre-training .* and test"):
            next(stages_of(config, tmp_path))


def test_any_number_of_heads_share_the_encoder_and_are_exported(config_of, data, tmp_path):
    (data / "sides.tsv").write_text("index\tname\n1\tLeft-Cortex\n2\tRight-Cortex\n")
    config = config_of(protocols=["phantom8", str(data / "sides.tsv")])

    *_, stage = stages_of(config, tmp_path)
    export = mo_net.exports(config, stage.networks)

    assert list(export.heads) == ["phantom8", "sides", "partial2"]
    assert loss_weights(export.heads, "partial2", 0.5) == {
        "phantom8": 0.25,
        "sides": 0.25,
        "partial2": 0.5,
    }
    assert export.grid.window == (16, 16, 16)


@pytest.fixture
def label_maps(tmp_path):
    """A head of one hemisphere each side, with a thalamus and a fourth ventricle."""
    classes = np.full((48, 48, 48), 511, dtype=np.int16)
    classes[8:24, 8:40, 8:40], classes[24:40, 8:40, 8:40] = 2, 41
    classes[15:21, 14:26, 14:26], classes[27:33, 14:26, 14:26] = 10, 49
    folder = tmp_path / "maps"
    folder.mkdir()
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(classes, affine), folder / "sub-1_dseg.nii.gz")
    return folder


def test_images_made_up_from_label_maps_come_with_their_sub_cortical_labels(label_maps):
    source = PartialConfig(label_maps=label_maps)
    images = PartialImages(
        None, painter_of(source, (16, 16, 16), 8.0, 3), source.share, FSL15, z_score=True
    )

    drawn = [images.finish(images(n)) for n in range(6)]
    again = images.finish(images(4))

    assert source.share == 1.0
    assert torch.equal(again["image"], drawn[4]["image"])
    seen = {int(v) for batch in drawn for v in batch["classes/fsl15"].unique()}
    thalami = {FSL15.class_of(f"{side}-Thalamus") for side in ("Left", "Right")}
    assert thalami <= seen <= thalami | {0, -1}
    assert drawn[0]["merge/fsl15"].tolist() == [list(range(16))]


def test_scans_and_made_up_images_are_mixed_by_chance(label_maps):
    source = PartialConfig.model_validate(
        {"label_maps": label_maps, "data": {"phantom": {}}, "synthetic": 0.3}
    )
    painter = painter_of(source, (16, 16, 16), 8.0, 0)
    images = PartialImages(
        lambda _: {"image": torch.zeros(1)}, painter, source.share, FSL15, z_score=False
    )

    painted = sum("rows" in images(n) for n in range(100))

    assert 20 <= painted <= 40


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "configs").glob("dai2019_*.yaml")),
    ids=lambda p: p.stem,
)
def test_every_settings_file_of_the_paper_is_understood(path):
    assert read_plan(path).header.recipe == "mo-net"


@pytest.mark.parametrize(
    ("full", "part"),
    [
        ("neuromorphometrics138", "fsl15"),
        ("hammers67", "fsl15"),
        ("dktaseg", "fsl15"),
        ("aseg32", "fsl15"),
        ("neuromorphometrics138", "malc25"),
    ],
)
def test_full_protocols_can_be_cut_to_all_of_the_partial_ones(full, part):
    whole, wanted = load_protocol(full), load_protocol(part)

    assert whole.covers(wanted) == wanted.names
    assert set(whole.table_to(wanted)) >= set(range(len(wanted.names) + 1))
