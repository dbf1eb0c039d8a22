"""One script in one process and in two (gloo), for tests that both give the same."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import torch


def one_and_two_processes(script: str, tmp_path: Path) -> list:
    """
    Run `script` with one process and with two.

    Args:
        script (`str`): a template with {tests} and {package}, folders for sys.path; it saves its result by torch.save
            to `sys.argv[1]/result.pt`, from the first process.
        tmp_path (`Path`): where to.

    Returns:
        `list`: both results.
    """
    tests = Path(__file__).parents[1]
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script).format(tests=str(tests), package=str(tests.parent)))
    results = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        folder = tmp_path / str(len(results))
        folder.mkdir()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, str(file), str(folder)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, re.sub(r"\s*\n", "\n", run.stderr)[-3000:]
        results.append(torch.load(folder / "result.pt"))
    return results


ROOT = Path(__file__).parents[2]


LAUNCH_FILES = ROOT / "examples" / "accelerate"


def launch(launch_file: str, *arguments: str) -> None:
    """`accelerate launch` with a file of examples/, on two CPU processes."""
    files = ["--config_file", str(LAUNCH_FILES / f"{launch_file}.yaml")]
    if launch_file.startswith("deepspeed"):
        files += ["--deepspeed_config_file", str(LAUNCH_FILES / f"{launch_file}.json")]
    else:
        files += ["--mixed_precision", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *files]
    command += ["--num_processes", "2", "--main_process_port", "0", *arguments]
    folders = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, re.sub(r"\s*\n", "\n", run.stderr)[-3000:]


def launch_script(launch_file: str, script: str, folder: Path):
    """A script whose first process saves its result as `result.pt` in its folder."""
    (folder / "script.py").write_text(textwrap.dedent(script))
    launch(launch_file, str(folder / "script.py"), str(folder))
    return torch.load(folder / "result.pt")
