"""The one training loop.

Everything random follows from the seed and a number: batch n is the same whenever it is drawn,
and torch's generators are seeded anew before each batch is learned from. So the state of a run
is its weights, its optimizers and its step, and a run that was cut off goes on as if nothing
had happened.
"""

import math
import random
import time
from collections.abc import Iterable, Iterator
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from fewlabel.errors import ConfigError
from fewlabel.train.ahead import Ahead, Job
from fewlabel.train.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    sweep,
)
from fewlabel.train.cpu import convolving_well
from fewlabel.train.history import History
from fewlabel.train.ranks import batch_number
from fewlabel.train.run import Progress, Run
from fewlabel.train.stage import Networks, Stage
from fewlabel.train.weights import (
    RunningMean,
    State,
    gradients,
    load_state,
    make_optimizer,
    move_only,
    moving_statistics,
    state_of,
    swapped_in,
    weights_under,
)


def train(stages: Iterable[Stage], run: Run) -> Networks:
    """Train each stage in turn; a finished stage is loaded, not trained again.

    Stages are drawn one at a time, so a recipe may build its second network from the
    weights its first one ended with.

    Returns:
        The networks of the last stage, with their final weights, in evaluation mode.

    Raises:
        ConfigError: If a loss stops being a number or a turn's weights do not exist.
        OutputError: If the run folder cannot be written; the last checkpoint survives.
        KeyboardInterrupt: If `run.stop` asked for it; the run can be taken up from there.
    """
    networks: Networks = {}
    finished: set[str] = set()
    for stage in stages:
        networks = stage.networks
        for net in networks.values():
            net.to(run.device)
        final = run.folder / stage.name / "final.safetensors"
        if not run.ranks.agree(final.exists()):
            with convolving_well(networks.values()):
                _StageRun(stage, run, finished).go()
        load_state(networks, load_weights(final))
        for net in networks.values():
            net.eval().requires_grad_(True)
        finished.add(stage.name)
        _seed_all(run.seed, f"after {stage.name}", 0)  # for networks that the recipe makes next
    return networks


class _StageRun:
    """One stage under way."""

    def __init__(self, stage: Stage, run: Run, finished: set[str]) -> None:
        self.stage, self.run, self.finished = stage, run, finished
        self.folder = run.folder / stage.name
        self.optimizers = [
            make_optimizer(weights_under(stage.networks, turn.trains), stage.optimizer)
            for turn in stage.turns
        ]
        keep = stage.optimizer.ema
        self.mean = RunningMean(stage.networks, keep) if keep else None
        self.window = max(1, min(50, stage.steps // 200))
        self.history = History(run.folder / "history.csv") if run.ranks.rank == 0 else None
        self.step = 0
        self.best = -math.inf
        self.best_step = 0
        self.turn: int | None = None
        self.moving: list[torch.nn.Parameter] = []
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.values: dict[str, float] = {}

    def go(self) -> None:
        self._take_up()
        if not self.stage.steps:
            self._validate()
        started, first, saved = time.perf_counter(), self.step, time.perf_counter()
        with Ahead(self._jobs(), self.run.workers) as batches:
            while self.step < self.stage.steps and not self._given_up():
                self._take_step(batches)
                if self._due(self._validate_every):
                    self._validate()
                now = time.perf_counter()
                if self._due(self.window) or self._given_up():
                    self._log(now - started, first, batches.waited_s)
                if self._checkpoint_due(now - saved):
                    self._save()
                    saved = now
                if self.run.stop():
                    self._save()
                    raise KeyboardInterrupt
        self._finish()

    # One step

    def _jobs(self) -> Iterator[Job]:
        accumulate = self.stage.optimizer.accumulate
        for step in range(self.step, self.stage.steps):
            draw = self.stage.turns[self.stage.turn_of(step)].draw
            for part in range(accumulate):
                n = batch_number(step, part, accumulate, self.run.ranks)
                yield lambda draw=draw, n=n: draw(n)  # type: ignore[misc]

    def _take_step(self, batches: Ahead) -> None:
        number = self.stage.turn_of(self.step)
        if number != self.turn:
            self.turn = number
            self.moving = move_only(self.stage.networks, self.stage.turns[number].trains)
        config, optimizer = self.stage.optimizer, self.optimizers[number]
        optimizer.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            self._learn(batches, part)
        if self.run.ranks.world > 1:
            self.run.ranks.average(gradients(self.moving))
        torch.nn.utils.clip_grad_norm_(self.moving, config.clip)
        for group in optimizer.param_groups:
            group["lr"] = config.rate_at(self.step, self.stage.steps)
        optimizer.step()
        if self.run.ranks.world > 1:
            self.run.ranks.average(moving_statistics(self.stage.networks))
        if self.mean:
            self.mean.update(self.step)
        self.step += 1

    def _learn(self, batches: Ahead, part: int) -> None:
        device = torch.device(self.run.device)
        accumulate = self.stage.optimizer.accumulate
        batch = {key: value.to(device, non_blocking=True) for key, value in batches.next().items()}
        _seed_all(
            self.run.seed,
            self.stage.name,
            batch_number(self.step, part, accumulate, self.run.ranks),
        )
        assert self.turn is not None
        turn = self.stage.turns[self.turn]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.run.precision == "bf16"):
            losses = turn.loss(self.stage.networks, batch)
        torch.autograd.backward(losses["total"] / accumulate)
        prefix = f"{'+'.join(turn.trains)}: " if len(self.stage.turns) > 1 else ""
        for key, value in losses.items():
            total, count = self.sums.get(prefix + key, (torch.zeros((), device=device), 0))
            self.sums[prefix + key] = (total + value.detach(), count + 1)

    # Now and then

    @property
    def _validate_every(self) -> int:
        return self.stage.validate_every or max(1, self.stage.steps // 10)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.stage.steps

    def _checkpoint_due(self, passed_s: float) -> bool:
        every = self.run.checkpoint_every
        return passed_s > self.run.checkpoint_s or bool(every and self.step % every == 0)

    def _given_up(self) -> bool:
        if self.stage.patience is None or self.stage.validate is None:
            return False
        return self.step - self.best_step >= self.stage.patience * self._validate_every

    def _kept(self) -> State:
        return self.mean.state if self.mean else state_of(self.stage.networks)

    def _validate(self) -> None:
        if self.stage.validate is None:
            return
        scores: dict[str, float] = {}
        if self.run.ranks.rank == 0:
            with swapped_in(self.stage.networks, self._kept()), torch.no_grad():
                scores = self.stage.validate(self.stage.networks)
        scores = self.run.ranks.agree(scores)
        named = {f"validation {key}": value for key, value in scores.items()}
        self.values |= named
        if self.history:
            self.history.add(self.stage.name, self.step, named)
        if scores["score"] > self.best:
            self.best, self.best_step = scores["score"], self.step
            if self.run.ranks.rank == 0:
                save_weights(self.folder / "best.safetensors", self._kept())

    def _means(self) -> dict[str, float]:
        """Mean losses since the last row of the history; refuses what is not a number."""
        means = {key: float(total) / count for key, (total, count) in self.sums.items()}
        for key, value in means.items():
            if not math.isfinite(value):
                raise ConfigError(
                    f"The loss {key!r} of stage {self.stage.name!r} became {value} before step"
                    f" {self.step}.",
                    fix="lower the learning rate or `clip`, or train in precision 32; the last"
                    " checkpoint is from before and stays.",
                )
        return means

    def _log(self, passed_s: float, first: int, waited_s: float) -> None:
        means, self.sums = self._means(), {}
        pace = (self.step - first) / passed_s
        measured = {
            **means,
            "learning rate": self.stage.optimizer.rate_at(self.step - 1, self.stage.steps),
            "steps per second": pace,
            "share waiting for data": waited_s / passed_s,
        }
        self.values |= measured
        if self.history:
            self.history.add(self.stage.name, self.step, measured)
            left_s = (self.stage.steps - self.step) / pace
            self.run.watch(
                Progress(self.stage.name, self.step, self.stage.steps, dict(self.values), left_s)
            )

    # To and from disk

    def _save(self) -> None:
        self._means()
        if self.run.ranks.rank != 0:
            return
        content = {
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "networks": state_of(self.stage.networks),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "mean": self.mean.state if self.mean else None,
            "sums": self.sums,
        }
        save_checkpoint(self.folder / "last.pt", content)

    def _take_up(self) -> None:
        if self.run.ranks.rank == 0:
            sweep(self.folder)
        last = self.folder / "last.pt"
        if self.run.ranks.agree(last.exists()):
            content = load_checkpoint(last, torch.device(self.run.device))
            self.step, self.best = content["step"], content["best"]
            self.best_step, self.sums = content["best_step"], content["sums"]
            load_state(self.stage.networks, content["networks"])
            for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            if self.mean:
                for name, part in content["mean"].items():
                    self.mean.state[name] = part
        if self.history:
            self.history.rewind(self.finished, self.stage.name, self.step)

    def _finish(self) -> None:
        if self.run.ranks.rank == 0:
            self._save()
            winner = self._kept()
            if self.stage.validate is not None and self.best > -math.inf:
                winner = load_weights(self.folder / "best.safetensors")
            save_weights(self.folder / "final.safetensors", winner)
        self.run.ranks.agree(0)  # the others wait until the file is there


def _seed_all(seed: int, stage: str, number: int) -> None:
    """Seed every global generator, for losses and networks that use them."""
    state = np.random.SeedSequence((seed, crc32(stage.encode()), number)).generate_state(1)
    torch.manual_seed(int(state[0]))
    random.seed(int(state[0]))
    np.random.seed(int(state[0]))  # noqa: NPY002  (the global one, on purpose)
