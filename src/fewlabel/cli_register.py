"""The commands that register scans and carry labels from one to others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from fewlabel.register import Deformer


def register(  # noqa: PLR0913  (one parameter per option)
    moving: Path,
    fixed: Path,
    *,
    out: Path,
    labels: Path | None = None,
    protocol: str | None = None,
    model: str | None = None,
    refine: int | None = None,
    spacing: float | None = None,
) -> None:
    """Bend a scan onto another: warped scan, labels, displacements in mm, and how well it fits.

    Args:
        moving: The scan to be bent.
        fixed: The scan that it shall look like; results lie on its voxels.
        out: Folder for the results.
        labels: Label map of the moving scan, to be carried along.
        protocol: What its numbers mean.
        model: A model with a registration network, by name or folder; without it the scans are
            registered by optimization alone.
        refine: Optimization steps at full resolution; more is slower and closer. By default 20,
            or none with a model.
        spacing: Voxels to work on, in mm; by default 2 for a brain, finer for small things.
    """
    from fewlabel.errors import ConfigError
    from fewlabel.labels import load_protocol
    from fewlabel.register import How
    from fewlabel.register_files import LabelFile, register_files

    if labels is not None and protocol is None:
        raise ConfigError(
            "--labels needs --protocol: the file does not say what its numbers mean.",
            fix="add --protocol NAME, or the path of a protocol's table.",
        )
    carried = LabelFile(labels, load_protocol(protocol)) if labels and protocol else None
    how = How(refine=refine, spacing_mm=spacing)
    done = register_files(moving, fixed, out, labels=carried, model=_deformer(model), how=how)
    before, after = done.similarity
    print(
        f"{moving.name} to {fixed.name}: local correlation {before:.2f} after the affine start,"
        f" {after:.2f} in the end; {done.folds.voxels} voxels folded"
        f" ({100 * done.folds.share:.2g} %); {sum(done.seconds.values()):.1f} s"
    )
    print(f"  {out}")


def propagate(  # noqa: PLR0913  (one parameter per option)
    atlas: Path,
    atlas_labels: Path,
    scans: Annotated[list[Path], Parameter(name="SCAN", negative="")],
    *,
    out: Path,
    protocol: str,
    model: str | None = None,
    refine: int | None = None,
) -> None:
    """Label scans from one labeled scan, or from several that vote.

    Args:
        atlas: The labeled scan, or a folder of them.
        atlas_labels: Its label map, or a folder of them, matched by case.
        scans: What to label.
        out: Folder for the results.
        protocol: What the numbers in the label maps mean.
        model: A model with a registration network, by name or folder.
        refine: Optimization steps at full resolution; more is slower and closer.
    """
    from fewlabel.labels import load_protocol
    from fewlabel.register import How
    from fewlabel.register_files import propagate_files, read_atlases

    atlases = read_atlases(atlas, atlas_labels, load_protocol(protocol))
    how, deformer = How(refine=refine), _deformer(model)
    for path, _, agreement in propagate_files(atlases, scans, out, model=deformer, how=how):
        agreed = f", atlases agree on {100 * agreement:.0f} %" if len(atlases) > 1 else ""
        print(f"{path}{agreed}", flush=True)


def _deformer(model: str | None) -> "Deformer | None":
    if model is None:
        return None
    from fewlabel.deformer import NetworkDeformer
    from fewlabel.model import find_model

    return NetworkDeformer(find_model(model))
