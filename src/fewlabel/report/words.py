"""The paragraph that a paper's Methods section needs, from the records of the results."""

from collections.abc import Mapping, Sequence
from typing import Any

_FEWLABEL = "The fewlabel developers. fewlabel: segment brain MR images when labels are scarce."
_PROTOCOLS = {
    "aseg32": "Fischl B, Salat DH, Busa E, et al. Whole brain segmentation: automated labeling of"
    " neuroanatomical structures in the human brain. Neuron 33(3):341-355, 2002.",
}
_MODELS = {
    "adult-aseg32": "Billot B, Greve DN, Puonti O, et al. SynthSeg: segmentation of brain MRI"
    " scans of any contrast and resolution without retraining. Medical Image Analysis 86:102789,"
    " 2023 (label maps and the idea of training on synthetic images).",
}


def methods(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A paragraph to paste and what it cites; empty without segmented scans."""
    if not records:
        return {"text": "", "citations": []}
    ways = sorted({_way(record) for record in records})
    checked = {str((r.get("quality") or {}).get("calibrated_on") or "") for r in records} - {""}
    warned = sum(bool(record.get("warnings")) for record in records)
    scans = "One scan was" if len(records) == 1 else f"{len(records)} scans were"
    text = f"{scans} segmented with fewlabel, {' and '.join(ways)}."
    text += (
        " Class probabilities were interpolated back onto each scan's own grid, and volumes are"
        " counts of voxels times their volume."
    )
    if checked:
        text += (
            " The Dice overlap to expect without a manual segmentation, with 90 % conformal"
            " intervals, was estimated from the network's own probabilities, calibrated on"
            f" {'; '.join(sorted(checked))}."
        )
    text += (
        f" Automatic checks raised warnings for {warned} of {len(records)} results; [describe here"
        " who looked at the results and what was done about these]."
    )
    cited = [_FEWLABEL]
    for record in records:
        model = str((record.get("model") or {}).get("name"))
        cited += [_PROTOCOLS.get(str(record.get("protocol")), ""), _MODELS.get(model, "")]
    return {"text": text, "citations": [c for c in dict.fromkeys(cited) if c]}


def _way(record: Mapping[str, Any]) -> str:
    model = record.get("model") or {}
    return (
        f"version {record.get('fewlabel')} (model {model.get('name')} {model.get('version')},"
        f" SHA-256 {str(model.get('sha256'))[:12]}, protocol {record.get('protocol')},"
        f" {record.get('engine')})"
    )
