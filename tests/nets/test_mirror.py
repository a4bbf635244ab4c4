import torch

from fewlabel.labels import Label, LabelProtocol
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet

SIDES = LabelProtocol("sides", (Label(1, "Left-A"), Label(2, "Right-A"), Label(3, "Middle")))


def test_the_answer_for_a_mirrored_head_is_the_mirrored_answer_with_sides_exchanged():
    torch.manual_seed(0)
    net = Mirrored(UNet({"sides": 4}, channels=(4, 8)), {"sides": SIDES.mirrored()}).eval()
    image = torch.randn(1, 1, 8, 6, 4)

    with torch.no_grad():
        straight, mirrored = net(image)["sides"], net(image.flip(2))["sides"]

    assert torch.allclose(mirrored.flip(2)[:, [0, 2, 1, 3]], straight, atol=1e-6)


def test_an_answer_that_needs_no_mirror_stays_as_it_is():
    class Flat(torch.nn.Module):
        def forward(self, image):
            return {"sides": torch.tensor([1.0, 5.0, 5.0, 2.0]).reshape(1, 4, 1, 1, 1) + 0 * image}

    logits = Mirrored(Flat(), {"sides": SIDES.mirrored()})(torch.randn(1, 1, 4, 4, 4))["sides"]

    assert torch.allclose(logits[0, :, 0, 0, 0], torch.tensor([1.0, 5.0, 5.0, 2.0]))
