"""What stands in ``deploy/``, with stand-ins for Slurm's commands."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from atts.store.shards import Share

DEPLOY = Path(__file__).parents[1] / "deploy"
BASH = shutil.which("bash") or ""

# Of KubeRay's API reference (ray.io/v1); required ones first.
RAY_JOB = {"entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
RAY_JOB |= {"backoffLimit", "submissionMode", "activeDeadlineSeconds", "runtimeEnvYAML", "suspend"}
CLUSTER = {"headGroupSpec", "rayVersion", "workerGroupSpecs", "authOptions"}
HEAD = {"rayStartParams", "template", "serviceType"}
WORKERS = HEAD | {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"}


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """Stand-ins that write down what they are asked; ``srun`` runs it, without its options."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in {
        "sbatch": f'printf "%s\\n" "$@" > "{tmp_path}/sbatch"',
        "srun": 'while case "$1" in --*) ;; *) false; esac; do shift; done; exec "$@"',
        "atts": f'printf "%s\\n" "$*" >> "{tmp_path}/atts"',
        "ray": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
        "scontrol": "echo node1; echo node2",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def run(slurm: Path, script: str, **variables: object) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    environment["PATH"] = f"{slurm}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [BASH, str(DEPLOY / script), "my.yaml", "runs/the whole"],
        cwd=slurm.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_task_of_an_array_makes_its_share_and_one_job_merges(
    slurm: Path, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        numbers = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": 3}
        result = run(
            slurm, "slurm-array.sh", SLURM_ARRAY_TASK_MIN=1, SLURM_ARRAY_JOB_ID=42, **numbers
        )
        assert result.returncode == 0, result.stderr
        if number == 1:
            options = (tmp_path / "sbatch").read_text().splitlines()
            (tmp_path / "sbatch").unlink()
    assert not (tmp_path / "sbatch").exists()
    assert "--dependency=afterok:42" in options
    (wrapped,) = (each for each in options if each.startswith("--wrap="))
    assert wrapped == "--wrap=atts merge 'runs/the whole-shards' --to 'runs/the whole'"
    asked = (tmp_path / "atts").read_text().splitlines()
    assert asked == [
        f"run --config my.yaml --shard {number}/3 --out runs/the whole-shards/{number}"
        for number in (1, 2, 3)
    ]
    assert Share.parse("3/3") == Share(3, 3)


def test_a_job_on_ray_starts_servers_runs_and_ends_them(slurm: Path, tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": 7, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": 2}
    result = run(slurm, "slurm-ray.sh", **job)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "atts").read_text().splitlines() == [
        "servers up --config my.yaml --ray auto",
        "run --config my.yaml --out runs/the whole --ray auto",
        "servers down",
    ]
    # Where the run fails, its servers end all the same, and the job has its exit code.
    (tmp_path / "atts").unlink()
    failing = (slurm / "atts").read_text() + 'test "$1" != run || exit 75\n'
    (slurm / "atts").write_text(failing)
    assert run(slurm, "slurm-ray.sh", **job).returncode == 75
    assert (tmp_path / "atts").read_text().splitlines()[-1] == "servers down"


def test_the_manifest_has_fields_that_kuberay_knows() -> None:
    tree: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    spec = tree["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec.keys() <= RAY_JOB
    assert cluster.keys() <= CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in cluster["workerGroupSpecs"]:
        assert {"groupName", "minReplicas", "maxReplicas"} <= group.keys() <= WORKERS
    images = set()
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        named = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == named
        assert "ATTS_SERVER_KEY" in [variable["name"] for variable in container["env"]]
    assert len(images) == 1  # one Ray and one Python on every node
    script = spec["entrypoint"]
    assert subprocess.run([BASH, "-n", "-c", script], check=False).returncode == 0
    assert script.count("--ray auto") == 2


def test_the_container_has_what_pip_builds_from() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    for name in (name for names in copied for name in names):
        assert (DEPLOY.parent / name).exists(), name
    assert "'/src[ray,serve-ray]'" in text
