"""How a network does on whole scans that it does not learn from, while it is trained."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from fewlabel.conform import GridRule
from fewlabel.conformed import Conformed
from fewlabel.contract import Contract
from fewlabel.examples import Example, Heads
from fewlabel.labels import LabelProtocol
from fewlabel.nets.unet import UNet
from fewlabel.patches import Index, stitch
from fewlabel.train.stage import Networks, Workplace
from fewlabel.whole import write_text

TABLE, CONFUSION = "validation.csv", "confusion.csv"


class HeldOut:
    """Scans to validate on.

    Scores are taken on the working grid and judge progress; `fewlabel evaluate` scores what
    `fewlabel segment` writes, on the grid of the scan.

    Args:
        examples: Those without labels are left out.
        heads: Protocol of each head of the network.
        patch: Voxels that the network sees at once, where it does not see a whole field.
        field: What it looks at, as `segment` does at first; None: all of the scan.
        work: Where `validation.csv` is written to, the Dice of each scan and structure, and
            `confusion.csv`, what was taken for what.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        heads: Heads,
        patch: Index,
        work: Workplace,
        field: GridRule | None = None,
    ) -> None:
        self.examples = [example for example in examples if example.contracts]
        if examples and not self.examples:
            work.tell(
                f"None of the {len(examples)} scans of the split val has labels: nothing tells when"
                " the network is best, and training goes on to its last step."
            )
        self.heads, self.work, self.field = heads, work, field
        self.patch = field.field if field else patch
        self._taken: dict[str, Counter[tuple[str, str]]] = {}
        self._ages: dict[str, list[float]] = {}

    def score(self, networks: Networks) -> dict[str, float]:
        """How the network does.

        Returns:
            Mean Dice over structures and scans: "score", and for each head if there are more;
            "age error weeks", the mean absolute error over scans of known age, if the network
            tells the age. That of a scan is the mean over patches, as in richter2022.
        """
        net = cast("UNet", networks["net"])
        self._taken = {name: Counter() for name in self.heads}
        self._ages = {}
        rows = [
            (example.scan.case.id, name, structure, value)
            for example in self.examples
            for name in example.contracts
            for structure, value in self._dice(net, example, name)
        ]
        table = (f"{case},{head},{structure},{value:.5f}" for case, head, structure, value in rows)
        text = "\n".join(("case,head,structure,dice", *table)) + "\n"
        write_text(self.work.run / TABLE, text)
        self._write_confusion()
        means = {
            f"dice {head}": float(np.mean([value for _, name, _, value in rows if name == head]))
            for head in dict.fromkeys(name for _, name, _, _ in rows)
        }
        score = float(np.mean([value for _, _, _, value in rows])) if rows else 0.0
        return {"score": score} | (means if len(means) > 1 else {}) | self._age_error()

    def _age_error(self) -> dict[str, float]:
        errors = [
            abs(float(np.mean(self._ages[case.id])) - case.age_weeks)
            for case in (example.scan.case for example in self.examples)
            if case.age_weeks is not None and self._ages.get(case.id)
        ]
        return {"age error weeks": float(np.mean(errors))} if errors else {}

    def _write_confusion(self) -> None:
        table = (
            f"{head},{truth},{said},{voxels}"
            for head, taken in self._taken.items()
            for (truth, said), voxels in sorted(taken.items())
        )
        text = "\n".join(("head,truth,predicted,voxels", *table)) + "\n"
        write_text(self.work.run / CONFUSION, text)

    def _dice(self, net: UNet, example: Example, name: str) -> Iterator[tuple[str, float]]:
        head, ages = self.heads[name], self._ages.setdefault(example.scan.case.id, [])

        def predict(part: Float32[np.ndarray, "c i j k"]) -> Float32[np.ndarray, "n i j k"]:
            image = torch.from_numpy(part)[None].to(self.work.device)
            with torch.no_grad():
                features = net.encoder(image)
                logits: Tensor = net.decoders[name](features, image)[0]
                if net.age is not None:
                    ages.append(float(net.age(features[-1])))
            shares: np.ndarray = logits[0].float().cpu().numpy()
            return shares

        image, drawn = self._seen(example.scan)
        found = stitch(image, self.patch, head.n_classes, predict)
        terms = example.contracts[name][0]
        self._taken[name].update(confusion_by_contract(found, drawn, terms, head))
        yield from dice_by_contract(found, drawn, terms, head)

    def _seen(
        self, scan: Conformed
    ) -> tuple[Float32[np.ndarray, "c i j k"], Int16[np.ndarray, "i j k"]]:
        """Image and labels of what the network looks at."""
        assert scan.classes is not None
        if self.field is None:
            return np.asarray(scan.image), np.asarray(scan.classes)
        return scan.part(scan.start_of(self.field), self.patch)


def dice_by_contract(
    found: Int16[np.ndarray, "i j k"],
    drawn: Int16[np.ndarray, "i j k"],
    terms: Contract,
    head: LabelProtocol,
) -> Iterator[tuple[str, float]]:
    """Dice of each structure that labels can judge.

    Args:
        found: Classes of the network.
        drawn: Classes of the case's own protocol.
        terms: What they say about those of the network.
        head: Protocol of the network.

    Yields:
        Structure, or the first of several that the labels do not tell apart, and its Dice.
        Structures that neither side has are left out, and so is the background.
    """
    said, truth = terms.merge[found], terms.labels[drawn]
    known = (said >= 0) & (truth >= 0)
    said, truth = said[known], truth[known]
    n = head.n_classes
    size = np.bincount(said, minlength=n) + np.bincount(truth, minlength=n)
    both = np.bincount(truth[said == truth], minlength=n)
    for number in np.flatnonzero(size):
        if number != terms.merge[0]:
            yield head.names[number - 1], float(2 * both[number] / size[number])


def confusion_by_contract(
    found: Int16[np.ndarray, "i j k"],
    drawn: Int16[np.ndarray, "i j k"],
    terms: Contract,
    head: LabelProtocol,
) -> dict[tuple[str, str], int]:
    """Voxels of each structure (or "background") by what the network took them for.

    The arguments are those of `dice_by_contract`. Background that was found as such is left out.
    """
    said, truth = terms.merge[found].ravel(), terms.labels[drawn].ravel()
    known = (said >= 0) & (truth >= 0)
    n, names = head.n_classes, ("background", *head.names)
    pairs = np.bincount(truth[known].astype(np.intp) * n + said[known], minlength=n * n)
    nothing = int(terms.merge[0])
    shown = [*names]
    shown[nothing] = "background"
    return {
        (shown[at // n], shown[at % n]): int(pairs[at])
        for at in np.flatnonzero(pairs).tolist()
        if at != nothing * n + nothing
    }
