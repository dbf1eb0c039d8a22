"""Scripts in one process and in two (gloo): what they give, and where they stand when they do not end."""

import faulthandler
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from multiprocessing import connection
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


def run_as_rank(rank: int, world_size: int, port: int, script: str, folder: Path) -> None:
    """What a process of [`run_in_processes`] does."""
    said = os.open(folder / f"said-{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(said, sys.stderr.fileno())
    faulthandler.enable()
    torch.set_num_threads(1)
    if world_size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        os.environ.update({name: str(value) for name, value in {**address, **ranks}.items()})
    sys.argv[1:] = [str(folder)]
    exec(compile(textwrap.dedent(script), "script", "exec"), {"__name__": "__main__"})


def run_in_processes(world_size: int, script: str, folder: Path):
    """
    Run a script in so many processes, as torchrun would. They are forked from one that has imported torch and
    Transformers and done nothing else, so that a start takes no time: where a launch is what is tested, use
    [`launch`].

    Args:
        world_size (`int`): 1 for a process without the names of torchrun in its environment.
        script (`str`): may save a result by torch.save to `sys.argv[1]/result.pt`, from the first process.
        folder (`Path`): where to, outside what the script itself fills.

    Returns:
        What the script saved, or None.

    Raises:
        AssertionError: with the last of what it wrote, where a process failed or was not done in time; then with the
            Python stack of every process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modeling_trace.training"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (world_size, port, script, folder)
    processes = [context.Process(target=run_as_rank, args=(rank, *arguments)) for rank in range(world_size)]
    for process in processes:
        process.start()
    end = time.monotonic() + LIMIT
    while (going := [one for one in processes if one.exitcode is None]) and time.monotonic() < end:
        connection.wait([one.sentinel for one in going], end - time.monotonic())
        if any(one.exitcode for one in processes):
            break
    for process in going:
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGABRT)
        process.join()
    said = "\n".join(file.read_text()[-6000:] for file in sorted(folder.glob("said-*.txt")))
    assert [process.exitcode for process in processes] == [0] * world_size, said
    result = folder / "result.pt"
    return torch.load(result) if result.exists() else None


def one_and_two_processes(script: str, tmp_path: Path) -> list:
    """Both results of [`run_in_processes`], with one process and with two."""
    results = []
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        results.append(run_in_processes(world_size, script, folder))
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
