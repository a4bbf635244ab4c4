"""Training: stages and turns, one loop, checkpoints, devices."""

from fewlabel.train.config import OptimizerConfig
from fewlabel.train.loop import train
from fewlabel.train.run import Progress, Run
from fewlabel.train.stage import Batch, Draw, Export, Losses, Networks, Stage, Turn, Workplace

__all__ = [
    "Batch",
    "Draw",
    "Export",
    "Losses",
    "Networks",
    "OptimizerConfig",
    "Progress",
    "Run",
    "Stage",
    "Turn",
    "Workplace",
    "train",
]
