"""Slurm jobs from a file: checked before anything starts, and the script that Slurm would get."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from raw_data import write_nnunet

from samcancer.cohort.slurm import make_cluster, read_slurm_file
from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError

pytest.importorskip("dask_jobqueue", reason="--slurm needs the extra `cluster`")

PATIENCE_S = 120.0

GOOD = """
jobs: 4
cores: 6
memory: 24GB
queue: gpu
walltime: "02:00:00"
interface: lo
job_extra_directives: ["--gres=gpu:1"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "slurm.yaml"
    path.write_text(text)
    return path


def test_the_job_asks_slurm_for_what_the_file_says_and_does_one_case_at_a_time(
    tmp_path: Path,
) -> None:
    asked = read_slurm_file(write(tmp_path, GOOD))
    assert asked.jobs == 4
    with make_cluster(asked) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    for directive in ("-p gpu", "--cpus-per-task=6", "-t 02:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {directive}" in lines
    (environment,) = [line for line in lines if line.startswith("export ")]
    assert environment.startswith("export OMP_NUM_THREADS=6 MALLOC_TRIM_THRESHOLD_=")
    (command,) = [line for line in lines if "dask_worker" in line or "dask worker" in line]
    # the last of a repeated option is the one that counts
    assert command.split("--nthreads ")[-1].split()[0] == "1"
    assert "tls://" in command
    key = Path(command.split("--tls-key ")[-1].split()[0])
    assert key.parent == tmp_path
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cores: 1\nmemory: 1GB\n", "slurm.yaml: lacks jobs"),
        ("jobs: 0\ncores: 1\nmemory: 1GB\n", "jobs must be a whole number from 1, got 0"),
        ("jobs: 1\ncores: 1\nmemory: 1GB\nqueu: a\n", "has unknown keys: queu"),
        ("jobs: 1\ncores: 1\nmemory: 1GB\nprocesses: 2\n", "has unknown keys: processes"),
        ("- jobs\n", "is not a mapping of names to values"),
        ("jobs: [\n", "not a YAML file"),
    ],
)
def test_a_file_that_is_not_right_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_slurm_file(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_slurm_file(tmp_path / "slurm.yaml")


def stand_in(folder: Path, name: str, script: str) -> None:
    """Put a command of Slurm's name into a folder of programs."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run_words(tmp_path: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """Prepare cases by ``--slurm`` with the programs first in the path."""
    (tmp_path / "slurm.yaml").write_text("jobs: 2\ncores: 1\nmemory: 2GB\ninterface: lo\n")
    words = ["prepare-slices", "--input", "Dataset901_Phantom_Liver", "--output", "store"]
    words += ["--slurm", "slurm.yaml", "--quiet"]
    return subprocess.run(
        [sys.executable, "-m", "samcancer", *words],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_nnunet(tmp_path / "Dataset901_Phantom_Liver", 2)


@pytest.mark.usefixtures("raw")
@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="Slurm is on this machine")
def test_a_machine_without_slurm_is_one_line(tmp_path: Path) -> None:
    done = run_words(tmp_path, tmp_path / "none")
    assert done.returncode == 2
    fact = "error: --slurm: sbatch is not on this machine. Run this where jobs are submitted."
    assert done.stderr == f"{fact}\n"


@pytest.mark.usefixtures("raw")
def test_jobs_that_slurm_refuses_are_one_line_with_its_words(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    stand_in(programs, "sbatch", "echo 'sbatch: error: invalid partition: gpux' >&2; exit 1")
    done = run_words(tmp_path, programs)
    assert done.returncode == 2
    fact = "Slurm does not take the jobs (sbatch: error: invalid partition: gpux)"
    mend = "See docs/cluster.md for an example."
    assert done.stderr == f"error: slurm.yaml: {fact}. {mend}\n"


@pytest.mark.usefixtures("raw")
def test_cases_are_prepared_by_jobs_which_are_cancelled_afterwards(tmp_path: Path) -> None:
    """A stand-in for sbatch keeps the job's script and runs it here, as Slurm does on a node."""
    programs, jobs = tmp_path / "programs", tmp_path / "jobs"
    jobs.mkdir()
    start = f'''cp "$1" "{jobs}/$$.sh"
setsid bash "{jobs}/$$.sh" > "{jobs}/$$.log" 2>&1 &
echo "Submitted batch job $!"; touch "{jobs}/$!.job"'''
    stand_in(programs, "sbatch", f'[ "$1" = --test-only ] && exit\n{start}')
    stand_in(programs, "scancel", f'kill -- -"$1"; touch "{jobs}/$1.cancelled"')
    done = run_words(tmp_path, programs)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(CaseStore(tmp_path / "store").cases) == 2
    submitted = {path.stem for path in jobs.glob("*.job")}
    assert len(submitted) == 2
    assert not list(tmp_path.glob(".dask*"))  # keys
    assert {path.stem for path in jobs.glob("*.cancelled")} == submitted
