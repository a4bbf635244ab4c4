"""Model folders: everything that prediction needs, in files that hold no code.

model.onnx            the network: input "image", one output "logits_<head>" per head
model.json            the card: grid and intensity rule, protocols, provenance, hashes
weights.safetensors   all weights of training, if wanted: those of deep supervision, too
quality.json          what results are usually like, and how far doubt goes with Dice, if measured
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path

from fewlabel.card import ModelCard, read_card
from fewlabel.errors import ModelFolderError, OutputError
from fewlabel.norms import Norms
from fewlabel.whole import write_bytes, write_folder

CARD, ONNX, WEIGHTS, QUALITY = "model.json", "model.onnx", "weights.safetensors", "quality.json"
README = "README.md"
REGISTRATION = "registration.safetensors"
DEFAULT = "adult-aseg32"
_FILES = {CARD, ONNX, WEIGHTS, QUALITY, README, REGISTRATION}
_SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ModelFolder:
    """A trained model on disk, whose files are those that its card names."""

    folder: Path
    card: ModelCard

    @property
    def onnx(self) -> Path:
        """The network for OpenVINO."""
        return self.folder / ONNX

    @property
    def weights(self) -> Path | None:
        """The weights for torch, if the folder has them."""
        return self.folder / WEIGHTS if WEIGHTS in self.card.sha256 else None

    @property
    def quality(self) -> Path | None:
        """What its results are usually like (`fewlabel.norms`), if the folder says so."""
        return self.folder / QUALITY if QUALITY in self.card.sha256 else None

    @property
    def size_mb(self) -> float:
        """All its files, in MB (10^6 bytes)."""
        files = (CARD, *self.card.sha256)
        return sum((self.folder / name).stat().st_size for name in files) / 1e6

    def as_text(self) -> str:
        """For people: what it segments, from what, under which terms and how well."""
        card = self.card
        lines = [
            f"{card.name} {card.version}: {card.description}",
            f"  structures  {len(card.protocol.labels)} ({card.protocol.name})",
            f"  input       {card.describe_input()}; works at {card.grid.describe()}",
            *([f"  age         {card.age.describe()}"] if card.age else []),
            f"  size        {self.size_mb:.1f} MB; license {card.license}",
            f"  folder      {self.folder}",
            *(
                f"  measured    {m.metric} {m.value:g}{' ' + m.unit if m.unit else ''} on {m.data}"
                for m in card.measured
            ),
        ]
        return "\n".join(lines)


def read_model(folder: Path) -> ModelFolder:
    """Read and check a model folder.

    Raises:
        ModelFolderError: If a file is missing, is not what the card says, or the card is not
            one that this version understands.
    """
    card = read_card(folder / CARD)
    if ONNX not in card.sha256:
        raise ModelFolderError(
            f"{folder / CARD} does not give the hash of {ONNX}.", fix="export the model again."
        )
    for name, expected in card.sha256.items():
        path = _file_of(folder, name)
        found = sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise ModelFolderError(
                f"{path} is damaged or was exchanged: its SHA-256 begins with {found[:12]}, the"
                f" card says {expected[:12]}.",
                fix="copy the whole folder again.",
            )
    return ModelFolder(folder, card)


def write_model(
    folder: Path,
    card: ModelCard,
    *,
    onnx: bytes,
    weights: bytes | None = None,
    registration: bytes | None = None,
    quality: bytes | None = None,
) -> ModelFolder:
    """Write a model folder, whole or not at all.

    Args:
        folder: Must not exist, or be a model folder, which is replaced, and hold nothing else.
        card: What to say; the hashes are filled in.
        onnx: Content of the network's file.
        weights: Content of the safetensors file, if wanted.
        registration: That of a registration network, if there is one.
        quality: That of `quality.json`, if it was calibrated.

    Raises:
        OutputError: If something else is there, or the place cannot be written to.
    """
    require_place(folder)
    contents = {ONNX: onnx, WEIGHTS: weights, REGISTRATION: registration, QUALITY: quality}
    files = {name: content for name, content in contents.items() if content is not None}
    hashes = {name: sha256(content).hexdigest() for name, content in files.items()}
    card = card.model_copy(update={"sha256": hashes})
    files |= _told(folder, card)
    try:
        write_folder(folder, files)
    except OSError as problem:
        raise OutputError(
            f"Cannot write the model folder {folder}: {problem.strerror or problem}.",
            fix="choose another folder with --out, or make room.",
        ) from None
    return ModelFolder(folder, card)


def rewrite_card(model: ModelFolder, card: ModelCard) -> ModelFolder:
    """The same model folder, of which something else is said."""
    for name, content in _told(model.folder, card).items():
        write_bytes(model.folder / name, content)
    return read_model(model.folder)


def _told(folder: Path, card: ModelCard) -> dict[str, bytes]:
    """What a folder says about its model, for programs and for people."""
    for_people = card.readme(folder.name)
    return {CARD: (card.model_dump_json(indent=1) + "\n").encode(), README: for_people.encode()}


def copy_model(
    model: ModelFolder, out: Path, card: ModelCard, norms: Norms | None = None
) -> ModelFolder:
    """The same networks under another card. What `quality.json` said is left behind.

    Args:
        model: Whose networks.
        out: Folder to write; may be the model's own.
        card: What to say.
        norms: For `quality.json`.

    Raises:
        OutputError: If something else is at `out`, or it cannot be written to.
    """
    bends = model.folder / REGISTRATION
    return write_model(
        out,
        card,
        onnx=model.onnx.read_bytes(),
        weights=None if model.weights is None else model.weights.read_bytes(),
        registration=bends.read_bytes() if model.card.registration else None,
        quality=(norms.model_dump_json(indent=1) + "\n").encode() if norms else None,
    )


def require_place(folder: Path) -> None:
    """Refuse a place for a model folder where something else is, or lies in the folder.

    Raises:
        OutputError: If so.
    """
    if not folder.exists():
        return
    if not (folder / CARD).is_file():
        raise OutputError(
            f"{folder} exists and is no model folder.", fix="choose another folder with --out."
        )
    others = sorted({path.name for path in folder.iterdir()} - _FILES)
    if others:
        raise OutputError(
            f"{folder} holds what no model folder has, which would be lost:"
            f" {', '.join(others[:5])}.",
            fix="move that to another place, or choose another folder with --out.",
        )


def find_model(name_or_folder: str | Path | None = None) -> ModelFolder:
    """A model by its name, or the one in a folder.

    Args:
        name_or_folder: A name that `list_models` gives, or a path; None: the default model.

    Raises:
        ModelFolderError: If there is no such model.
    """
    wanted = str(name_or_folder or DEFAULT)
    known = _model_folders()
    if wanted in known:
        return read_model(known[wanted])
    folder = Path(wanted)
    if folder.is_dir() or len(folder.parts) > 1:
        return read_model(folder)
    near = get_close_matches(wanted, known, n=1)
    names = ", ".join(known) or "none is installed"
    hint = f"write {near[0]!r}" if near else f"use one of these ({names})"
    raise ModelFolderError(
        f"There is no model {wanted!r}.", fix=f"{hint}, or give the path of a model folder."
    )


def list_models() -> tuple[ModelFolder, ...]:
    """Models that ship with fewlabel, then those in the user's folder (`models_folder`).

    Those of the user's that cannot be read are left out; `unreadable_models` tells why.
    """
    return tuple(found for found in _listed() if isinstance(found, ModelFolder))


def unreadable_models() -> tuple[ModelFolderError, ...]:
    """What is wrong with each model in the user's folder that `list_models` leaves out."""
    return tuple(found for found in _listed() if isinstance(found, ModelFolderError))


def models_folder() -> Path | None:
    """Where users keep models of their own: `FEWLABEL_MODELS`, or a place in their home.

    None if neither is known.
    """
    said = os.environ.get("FEWLABEL_MODELS")
    try:
        return Path(said or Path.home() / ".local" / "share" / "fewlabel" / "models")
    except RuntimeError:  # no home
        return None


def _listed() -> Iterator[ModelFolder | ModelFolderError]:
    for folder in _model_folders().values():
        try:
            card = read_card(folder / CARD)
            for name in card.sha256:
                _file_of(folder, name)
        except ModelFolderError as refusal:
            if folder.parent == _SHIPPED:
                raise  # another one would be chosen in its place
            yield refusal
        else:
            yield ModelFolder(folder, card)


def _model_folders() -> dict[str, Path]:
    """Folder of each model by name; one that ships with fewlabel wins over one that does not."""
    own, found = models_folder(), dict[str, Path]()
    for place in (_SHIPPED, *([own] if own else [])):
        for card in sorted(place.glob(f"*/{CARD}")):
            if not card.parent.name.startswith("."):  # a draft of a process that was killed
                found.setdefault(card.parent.name, card.parent)
    return found


def _file_of(folder: Path, name: str) -> Path:
    """A file that a card names."""
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise ModelFolderError(
            f"The model folder {folder} lacks {name}, which its card names.",
            fix="copy the whole folder again.",
        )
    return path
