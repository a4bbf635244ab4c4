"""Which weights of a U-Net move when it is fine-tuned, and a list of them for people to check.

A network of n levels, the last of which is the bottleneck, has n - 1 up-blocks, deepest first,
and for each head one output block and as many outputs of deep supervision as it was made with.

| strategy    | encoder levels | up-blocks     | deep outputs | first level, last up-block, output |
|-------------|----------------|---------------|--------------|------------------------------------|
| `frozen`    |                |               |              |                                    |
| `inner-1`   | the last 2     | the first     | yes          |                                    |
| `inner-2`   | the last 3     | the first 2   | yes          |                                    |
| `inner-all` | all but first  | all but last  | yes          |                                    |
| `full`      | all            | all           | yes          | yes                                |
| `scratch`   | all, from random weights, the rest too       | yes          | yes          |

An age head hangs on the bottleneck and moves with it. Weights that have nothing to start from,
as the source lacked their structure or modality, move under every strategy but `frozen`.

Source: richter2022, transfer learning. The six are those of the paper's text; its published code
calls `inner-1` "deep" and `inner-all` "shallow", the other way round.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator

from fewlabel.nets.unet import Decoder, UNet
from fewlabel.train.weights import weights_under
from fewlabel.whole import write_text

TABLE = "trained_weights.tsv"

PAPER = {
    "frozen": "no fine-tuning",
    "inner-1": "shallow",
    "inner-2": "medium",
    "inner-all": "deep",
    "full": "full fine-tuning",
    "scratch": "new model",
}
"""The paper's name of each strategy."""


def strategy_named(name: Any) -> Any:
    """The strategy of a name, which may be the paper's; other names come back as they are.

    >>> strategy_named("Shallow"), strategy_named("no fine tuning"), strategy_named("inner-2")
    ('inner-1', 'frozen', 'inner-2')
    """
    plain = str(name).strip().lower().replace("_", "-").replace(" ", "-")
    return next((own for own, paper in PAPER.items() if plain == paper.replace(" ", "-")), plain)


Strategy = Annotated[
    Literal["frozen", "inner-1", "inner-2", "inner-all", "full", "scratch"],
    BeforeValidator(strategy_named),
]
"""One of the keys of `PAPER`, or the paper's name of it."""


def trained_by(strategy: Strategy, net: UNet, fresh: Collection[str] = ()) -> tuple[str, ...]:
    """Prefixes of the weights that move, for a `Turn` with the network as "net".

    Args:
        strategy: A key of `PAPER`.
        net: The network.
        fresh: Names of weights that have nothing to start from, wholly or in part.

    Returns:
        Prefixes in the order of the network; none under `frozen`.
    """
    if strategy == "frozen":
        return ()
    if strategy in ("full", "scratch"):
        return ("net",)
    inner = tuple(_inner(net, {"inner-1": 1, "inner-2": 2}.get(strategy)))
    new = (name for name in fresh if not any(f"{name}.".startswith(f"{p}.") for p in inner))
    return tuple(f"net.{part}" for part in (*inner, *new))


def _inner(net: UNet, blocks: int | None) -> Iterator[str]:
    """The bottleneck and so many blocks on either side of it; None: all but the outermost."""
    levels = len(net.encoder.levels)
    around = levels - 2 if blocks is None else min(blocks, levels - 2)
    for level in range(levels - 1 - around, levels):
        yield f"encoder.levels.{level}"
    for name, decoder in net.decoders.items():
        for up in range(around):
            yield f"decoders.{name}.ups.{up}"
        for depth in range(1, len(cast("Decoder", decoder).outs)):
            yield f"decoders.{name}.outs.{depth}"
    if net.age is not None:
        yield "age"


def record(run: Path, net: UNet, trains: tuple[str, ...], *, fresh: Collection[str] = ()) -> str:
    """Write `trained_weights.tsv`, the weights that move: name, shape, numbers, what they begin as.

    Args:
        run: Folder to write it to; left alone if it says this already.
        net: The network.
        trains: Prefixes; see `trained_by`.
        fresh: Names of weights that have nothing to start from, wholly or in part.

    Returns:
        How many weights move, as a sentence.
    """
    moving = {id(weight) for weight in weights_under({"net": net}, trains)}
    weights = dict(net.named_parameters())
    moved = {name: weight for name, weight in weights.items() if id(weight) in moving}
    lines = [
        f"{name}\t{'x'.join(map(str, weight.shape))}\t{weight.numel()}\t{name in fresh}"
        for name, weight in moved.items()
    ]
    text = "\n".join(("weight\tshape\tnumbers\tnew", *lines)) + "\n"
    file = run / TABLE
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
    numbers, everything = (sum(w.numel() for w in part.values()) for part in (moved, weights))
    return (
        f"{len(moved)} of {len(weights)} weights move, {numbers:,} of {everything:,} numbers,"
        f" listed in {TABLE}."
    )


def counts(run: Path) -> tuple[int, int]:
    """How many weights move in a run, and how many numbers they hold, from what `record` wrote."""
    rows = [line.split("\t") for line in (run / TABLE).read_text(encoding="utf-8").splitlines()]
    return len(rows) - 1, sum(int(row[2]) for row in rows[1:])
