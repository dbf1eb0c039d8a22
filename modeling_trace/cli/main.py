"""
`modeling-trace COMMAND ...`: finds the command's module, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 training diverged, 2 bad input, 130 stopped by Ctrl-C.
"""

import importlib
import os
import sys

# A command is the module of its name in this package; only the one in use is imported.
COMMANDS = {
    "train": "turn a language model into TRACE, or fine-tune it as it is for comparison",
    "generate": "generate texts with a trained model",
    "reconstruct": "reconstruct texts from their latents alone",
    "interpolate": "interpolate between the latents of two texts",
    "edit": "resample the latents of chosen segments and hold the others",
    "average": "generate a text from the mean of several texts' latents",
    "evaluate": "evaluate a model: likelihood, latents, quality and diversity, in one report",
    "compare": "compare several models on the same texts, side by side in one report",
    "human": "make rating sheets for a human evaluation, and analyse the ratings",
    "push": "push a trained model to the Hub, with its card",
    "app": "show in the browser what a model's latents do: resample, hold, interpolate",
    "demo": "train a tiny model on the built-in reviews and see what its latents do",
    "env": "print versions and devices, for a bug report",
}
DEBUG_VARIABLE = "MODELING_TRACE_DEBUG"


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"usage: modeling-trace COMMAND ...\n\n{commands}\n\n"
        "`modeling-trace COMMAND --help` shows a command's main flags, `--help all` every flag.\n"
        "`modeling-trace --version` prints the version.\n"
        "`modeling-trace --import MODULE COMMAND ...` first imports your own module, for its latent dynamics.\n"
        f"Errors are one line; set the environment variable {DEBUG_VARIABLE}=1 to see the traceback."
    )


def main(argv: list[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`list[str]`, *optional*): arguments without the program's name; by default those of the process.

    Returns:
        `int`: the exit code.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name, *rest = argv
    if name == "--version":
        from .. import __version__

        print(__version__)
        return 0
    try:
        while name == "--import":  # what it registers is there before the command looks for it
            if len(rest) < 2:
                raise ValueError(
                    "`--import` must be followed by a module and a command, as in `--import my_dynamics train`."
                )
            sys.path.insert(0, os.getcwd())  # as for `python -m`
            importlib.import_module(rest[0])
            name, *rest = rest[1:]
        from ..utils import nearest
        from .parser import help_level

        if name not in COMMANDS:
            hint = nearest(name, list(COMMANDS)) or f" The commands are {', '.join(COMMANDS)}."
            raise ValueError(f"there is no command '{name}'.{hint}")
        if name == "train" and help_level(rest) == "short":
            name = "train_help"
        return importlib.import_module(f"{__package__}.{name}").run(rest) or 0
    except SystemExit as stop:  # argparse, after --help
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt as stop:
        _say(f"\nstopped: {stop}" if stop.args else "\nstopped.")
        return 130
    except BrokenPipeError:  # `modeling-trace ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        code = _exit_code(error)
        if code is None or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        # of these only a lack of memory is a RuntimeError: it may be that of one process alone
        _say(f"error: {' '.join(str(error).split())}", everywhere=code == 2 and isinstance(error, RuntimeError))
        return code


def _exit_code(error: Exception) -> int | None:
    """None for what is no user's mistake, and so needs its traceback."""
    from huggingface_hub.errors import StrictDataclassError

    if isinstance(error, (ValueError, OSError, ImportError, StrictDataclassError)):
        return 2
    from ..training import TrainingDivergedError, TrainingMemoryError

    if isinstance(error, TrainingMemoryError):
        return 2
    return 1 if isinstance(error, TrainingDivergedError) else None


def _say(text: str, everywhere: bool = False) -> None:
    # all processes of a distributed run meet the same error
    if everywhere or os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
