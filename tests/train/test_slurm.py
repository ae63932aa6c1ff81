"""The batch script of docs/scaling.md, with stand-ins for what SLURM brings: two tasks, a TERM, and
the job once more."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amodal.train import checkpoint, log

PAGE = Path(__file__).parent.parent.parent / "docs" / "scaling.md"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 "$@" & tasks+=($!); done
echo "${tasks[@]}" > tasks
for task in "${tasks[@]}"; do wait $task || worst=$?; done
exit ${worst:-0}
"""
SCONTROL = '#!/bin/bash\necho "$@" >> asked\necho localhost\n'


def script(steps: int) -> str:
    (found,) = (
        block
        for block in re.findall(
            r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
        )
        if "#SBATCH" in block
    )
    assert "--data photos" in found and "--steps 100000 --workers 8" in found
    return found.replace(
        "--steps 100000 --workers 8", f"--size nano --batch 16 --steps {steps}"
    ).replace("29500", "29517")


@pytest.mark.slow
def test_the_batch_script_runs_is_stopped_queues_itself_and_goes_on(folder, tmp_path):
    (tmp_path / "photos").symlink_to(folder)
    tools = tmp_path / "bin"
    tools.mkdir()
    amodal = f'#!/bin/bash\nexec {sys.executable} -m amodal "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "amodal": amodal}.items():
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(stat.S_IRWXU)
    (tmp_path / "job").write_text(script(400), encoding="utf-8")
    where = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    where["PYTHONPATH"] = str(PAGE.parent.parent)
    run, options = tmp_path / "runs" / "first", {"cwd": tmp_path, "env": os.environ | where}
    job = subprocess.Popen(["bash", "job"], **options)
    while job.poll() is None and len(log.read_metrics(run / "metrics.jsonl")) < 2:
        time.sleep(0.05)
    for task in (
        (tmp_path / "tasks").read_text(encoding="utf-8").split()
    ):  # as SLURM signals the tasks, and not the script
        os.kill(int(task), signal.SIGTERM)
    assert job.wait(timeout=60) == 130
    assert "requeue 7" in (tmp_path / "asked").read_text(encoding="utf-8")
    stopped = checkpoint.step_of(checkpoint.latest(run / "checkpoints"))
    assert 0 < stopped < 400 and not (run / "model.safetensors").exists()
    assert subprocess.run(["bash", "job"], timeout=120, **options).returncode == 0
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["status"] == "done" and config["processes"] == 2
    steps = [entry["step"] for entry in log.read_metrics(run / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 400
