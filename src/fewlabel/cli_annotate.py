"""The commands that help to get annotations."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from fewlabel.auto import Annotator

annotate = App(name="annotate", help="Get annotations: by programs, for a few structures.")


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """What draws.

    Attributes:
        model: For `--with model`: a name from `fewlabel models`, or a model folder.
        atlas: For `--with registration`: a labeled scan, or a folder of them that vote.
        atlas_labels: Its label map, or a folder of them, matched by case.
        atlas_protocol: What the numbers in these label maps mean.
        brain_extracted: For `--with first`: the scans show the brain only.
        fourth_ventricle: Count the fourth ventricle as brain stem, as FIRST does.
    """

    model: str | None = None
    atlas: Path | None = None
    atlas_labels: Path | None = None
    atlas_protocol: str | None = None
    brain_extracted: Annotated[bool, Parameter(negative="")] = False
    fourth_ventricle: Annotated[bool, Parameter(negative="")] = False


@annotate.command
def auto(
    scans: Annotated[list[Path], Parameter(name="SCAN", negative="")],
    *,
    by: Annotated[Literal["first", "registration", "model"], Parameter(name="--with")],
    out: Path,
    protocol: str = "fsl15",
    source: Source = Source(),
) -> None:
    """Let a program draw a few structures in scans: partial labels to pre-train on.

    Writes a label map for each scan, `annotations.tsv` (what failed, and why) and `cohort.tsv`,
    a manifest of the scans that were annotated.

    Args:
        scans: NIfTI or MGH files.
        by: FSL FIRST, where it is installed; one labeled scan or several; or a model.
        out: Folder for the results; label maps that are there already are kept.
        protocol: What to draw; FIRST draws fsl15.
        source: What draws.
    """
    from fewlabel.auto import annotate as annotate_scans
    from fewlabel.auto import write_table
    from fewlabel.labels import load_protocol

    wanted = load_protocol(protocol)
    annotator, told = _annotator(by, protocol, source)
    found = []
    for one in annotate_scans(scans, annotator, wanted, out):
        print(f"{one.scan.name}: {one.problem or one.labels}", flush=True)
        found.append(one)
    done = write_table(found, wanted, told, out, drawn_in=protocol)
    print(f"{out}: {len(done.cases)} of {len(scans)} scans annotated by {told}")
    if len(done.cases) < len(scans):
        sys.exit(1)


def _annotator(by: str, protocol: str, source: Source) -> "tuple[Annotator, str]":
    """What draws, and its name for the table."""
    from fewlabel.auto import by_model, by_registration
    from fewlabel.errors import ConfigError
    from fewlabel.first import PROTOCOL, find_first
    from fewlabel.labels import load_protocol
    from fewlabel.model import find_model
    from fewlabel.register_files import read_atlases

    wanted, fourth = load_protocol(protocol), source.fourth_ventricle
    if by == "first":
        if protocol != PROTOCOL:
            raise ConfigError(
                f"FIRST draws {PROTOCOL}, not {protocol}.", fix="leave out --protocol."
            )
        return find_first(brain_extracted=source.brain_extracted), "FSL FIRST"
    if by == "model":
        model = find_model(source.model)
        return by_model(model, wanted, fourth_ventricle=fourth), model.card.name
    if source.atlas is None or source.atlas_labels is None or source.atlas_protocol is None:
        raise ConfigError(
            "--with registration needs a labeled scan.",
            fix="add --atlas, --atlas-labels and --atlas-protocol.",
        )
    own = load_protocol(source.atlas_protocol)
    atlases = read_atlases(source.atlas, source.atlas_labels, own)
    return by_registration(atlases, wanted, fourth_ventricle=fourth), "registration"
