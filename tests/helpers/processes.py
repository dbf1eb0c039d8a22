"""Scripts in one process and in two (gloo): what they give, and where they stand when they do not end."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import torch

LIMIT = 300  # seconds


def run_command(command: list[str], folders: tuple[str, ...] = (), limit: float = LIMIT) -> None:
    """
    Run a command to its end, and the processes that it starts, each with one thread.

    Args:
        command (`list[str]`): with all arguments.
        folders (`tuple[str]`): put before PYTHONPATH.
        limit (`float`): seconds, after which every process of it is ended. `subprocess.run` would end the launcher
            alone, and the workers would go on and write what makes the run look finished.

    Raises:
        AssertionError: with the last of what it wrote, where it failed or was not done in time; then with the Python
            stack of every process.
    """
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, said = run.communicate(timeout=limit)
        end = f"exit code {run.returncode}"
    except subprocess.TimeoutExpired:
        launcher = psutil.Process(run.pid)
        for process in [*reversed(launcher.children(recursive=True)), launcher]:
            process.send_signal(signal.SIGABRT)  # on which PYTHONFAULTHANDLER writes the stacks
        _, said = run.communicate()
        end = f"not done in {limit} s"
    said = re.sub(r"\nExtension modules: .*|\s*(?=\n)", "", said)  # a page of names under each stack
    assert end == "exit code 0", f"{end}\n{said[-6000:]}"


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
        run_command([sys.executable, *launcher, str(file), str(folder)])
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
    run_command(command, (str(ROOT), str(ROOT / "tests")))


def launch_script(launch_file: str, script: str, folder: Path):
    """A script whose first process saves its result as `result.pt` in its folder."""
    (folder / "script.py").write_text(textwrap.dedent(script))
    launch(launch_file, str(folder / "script.py"), str(folder))
    return torch.load(folder / "result.pt")
