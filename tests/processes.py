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
    tests = Path(__file__).parent
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
