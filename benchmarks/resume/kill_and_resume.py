"""Does a run that is killed with `kill -9` end with the weights of one that was not?

Trains a settings file twice, once without a stop and once killed at random moments and resumed,
and compares the SHA-256 of all final weights.

    python -m benchmarks.resume.kill_and_resume configs/toy.yaml --place /tmp/resume --kills 3
"""

import argparse
import json
import random
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from benchmarks.common import RESULTS, add_rows, provenance


def main() -> None:
    """Train, kill, resume, compare."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("config", type=Path)
    ask.add_argument("--place", type=Path, required=True, help="empty folder for both runs")
    ask.add_argument("--kills", type=int, default=3)
    ask.add_argument("--set", action="append", default=[], help="as of `fewlabel train`")
    ask.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    said = ask.parse_args()
    options = [word for change in said.set for word in ("--set", change)]
    whole, killed = said.place / "whole", said.place / "killed"
    began = time.monotonic()
    start(said.config, whole, options).wait()
    duration_s = time.monotonic() - began
    print(f"without a stop: {duration_s:.0f} s")
    moments = random.Random(said.seed)
    for number in range(said.kills):
        after_s = moments.uniform(0.1, 0.9) * duration_s / said.kills
        process = start(said.config, killed, options)
        time.sleep(after_s)
        ended = process.poll() is not None
        process.kill()
        process.wait()
        print(f"kill {number + 1} after {after_s:.0f} s{': had ended' if ended else ''}")
    code = start(said.config, killed, options).wait()
    found = {name: hashes(run) for name, run in (("whole", whole), ("killed", killed))}
    same = code == 0 and found["whole"] == found["killed"] != {}
    print(json.dumps(found, indent=1))
    print("equal" if same else "DIFFERENT")
    row: dict[str, str | float] = {
        **provenance(),
        "config": said.config.name,
        "changes": " ".join(said.set),
        "kills": said.kills,
        "whole_s": round(duration_s),
        "equal": str(same),
        "sha256": " ".join(found["whole"].values()),
    }
    add_rows(RESULTS / "kill_and_resume.csv", [row])
    sys.exit(not same)


def start(config: Path, run: Path, options: list[str]) -> "subprocess.Popen[bytes]":
    """Begin or resume a run, with a checkpoint every few seconds."""
    command = ["fewlabel", "train", str(config), "--out", str(run), "--resume"]
    return subprocess.Popen([*command, "--checkpoint-minutes", "0.1", "--device", "cpu", *options])


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of each stage's final weights."""
    paths = sorted(run.glob("*/final.safetensors"))
    return {path.parent.name: sha256(path.read_bytes()).hexdigest() for path in paths}


if __name__ == "__main__":
    main()
