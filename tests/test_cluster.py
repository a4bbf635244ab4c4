"""Where a cohort is computed; nothing is submitted and no process is started."""

import gc
import importlib.util
import os

import pytest

from fewlabel.cluster import Place, Profile, connect, job_script, read_profile
from fewlabel.engine import Compute
from fewlabel.errors import ConfigError, ModelFolderError

needs_dask = pytest.mark.skipif(
    not importlib.util.find_spec("dask_jobqueue"), reason="dask-jobqueue is not installed"
)
PROFILE = """
system: SYSTEM
jobs: 20
cores: 8
memory: 8GB
walltime: "01:30:00"
queue: long
account: brains
directives: ["DIRECTIVE"]
before: ["module load python/3.11"]
python: /shared/venv/bin/python
log_folder: /shared/logs
"""


def profile_of(system, directive, tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text(PROFILE.replace("SYSTEM", system).replace("DIRECTIVE", directive))
    return read_profile(path)


def test_one_place_only():
    with pytest.raises(ConfigError, match="in one place only"):
        Place(workers=2, scheduler="tcp://node1:8786")
    with pytest.raises(ConfigError, match="There cannot be 0 workers"):
        Place(workers=0)


def test_a_slip_in_a_profile_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cors: 8\n")

    with pytest.raises(ConfigError, match=r"mine\.yaml: there is no setting 'cors'"):
        read_profile(path)


@needs_dask
@pytest.mark.parametrize(
    ("system", "directive", "expected"),
    [
        (
            "slurm",
            "--constraint=avx512",
            "#SBATCH -J fewlabel|#SBATCH -p long|#SBATCH -A brains|#SBATCH -n 1"
            "|#SBATCH --cpus-per-task=8|#SBATCH --mem=8G|#SBATCH -t 01:30:00"
            "|#SBATCH --constraint=avx512",
        ),
        (
            "pbs",
            "-m n",
            "#PBS -N fewlabel|#PBS -q long|#PBS -A brains|#PBS -l walltime=01:30:00|#PBS -m n",
        ),
        (
            "sge",
            "-pe smp 8",
            "#$ -N fewlabel|#$ -q long|#$ -P brains|#$ -l h_rt=01:30:00|#$ -pe smp 8",
        ),
    ],
    ids=["slurm", "pbs", "sge"],
)
def test_the_script_of_a_job_asks_for_what_the_profile_says(system, directive, expected, tmp_path):
    lines = job_script(profile_of(system, directive, tmp_path)).splitlines()

    assert set(expected.split("|")) <= set(lines)
    assert "module load python/3.11" in lines
    assert lines.index("export OPENBLAS_NUM_THREADS=1") < len(lines) - 1
    command = next(line for line in lines if "dask_worker" in line)
    assert command.startswith("/shared/venv/bin/python -m distributed.cli.dask_worker tcp://")
    assert "--nthreads 8" in command
    assert "--nworkers" not in command  # one worker with all cores of the job


@needs_dask
def test_it_is_the_script_that_dask_jobqueue_makes_for_the_same_wishes():
    from dask_jobqueue import SLURMCluster

    profile = Profile(jobs=3, cores=4, memory="6GB", walltime="00:20:00", queue="q")
    with SLURMCluster(
        cores=4,
        memory="6GB",
        processes=1,
        walltime="00:20:00",
        queue="q",
        job_name="fewlabel",
        job_script_prologue=["export OPENBLAS_NUM_THREADS=1"],
        scheduler_options={"dashboard_address": None},
    ) as cluster:
        theirs = cluster.job_script()

    def without_address(script):
        return [word for word in script.split() if not word.startswith("tcp://")]

    assert without_address(job_script(profile)) == without_address(theirs)


@needs_dask
def test_memory_that_is_no_amount_is_refused():
    with pytest.raises(ConfigError, match="memory of a job cannot be 'lots'"):
        job_script(Profile(memory="lots"))


@needs_dask
def test_the_cores_of_a_job_of_sge_must_be_asked_for():
    with pytest.raises(ConfigError, match="Nothing asks SGE for 8 cores") as refusal:
        job_script(Profile(system="sge", cores=8, directives=("-m n",)))

    assert "-pe smp 8" in refusal.value.fix
    job_script(Profile(system="sge", cores=1))


@needs_dask
def test_a_job_that_is_refused_ends_the_command_with_what_was_said(tmp_path, monkeypatch):
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\necho hm; echo 'sbatch: error: invalid account' >&2; exit 1\n")
    program.chmod(0o755)
    place = Place(profile=Profile(jobs=2))

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with (
        pytest.raises(ConfigError, match=r"sbatch refused a job: sbatch: error: invalid account\."),
        connect(place, Compute()),
    ):
        pass
    gc.collect()  # a cluster that was left open would complain

    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(ConfigError, match="There is no command sbatch here"),
        connect(place, Compute()),
    ):
        pass


def test_a_refusal_crosses_between_processes_with_its_remedy():
    import pickle

    crossed = pickle.loads(pickle.dumps(ModelFolderError("It is gone.", fix="bring it back.")))

    assert isinstance(crossed, ModelFolderError)
    assert (crossed.what, crossed.fix) == ("It is gone.", "bring it back.")
