"""Long work in a thread: it says how far it is, and stops within a token when it is told to."""

import threading
from collections.abc import Callable, Generator
from typing import Any

import torch
from transformers import StoppingCriteria

INTERVAL = 0.2  # seconds between two reports


class Watch(StoppingCriteria):
    """
    Goes with `generate()` as a stopping criterion: remembers the rows so far, and ends them all once it is stopped.

    Attributes:
        rows (`torch.LongTensor` of shape `(num_texts, sequence_length)`, *optional*): the texts so far, prompts
            included.
        done, total (`int`): how much of how much is done, in the work's own unit; a total of 0 is not known.
    """

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None
        self.done, self.total = 0, 0
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the work at its next step. May be called from any thread."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def __call__(self, input_ids, scores, **kwargs):
        self.rows, self.done = input_ids, self.done + 1
        return torch.full((len(input_ids),), self.stopped, dtype=torch.bool, device=input_ids.device)


def in_background(work: Callable[[], Any], watch: Watch) -> Generator[Watch, None, Any]:
    """
    Do `work` in a thread and yield its watch a few times a second; as a generator, returns what the work returns.

    One that is closed before the end, because nobody looks any longer, stops the work and waits for it.

    Args:
        work (`Callable`): takes nothing; looks at the watch by itself.
        watch ([`Watch`]): of that work.

    Raises:
        Whatever the work raises.
    """
    result: dict[str, Any] = {}

    def target():
        try:
            result["value"] = work()
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield watch
            thread.join(INTERVAL)
    finally:
        if thread.is_alive():
            watch.stop()
            thread.join()
    if "error" in result:
        raise result["error"]
    return result["value"]


__all__ = ["Watch", "in_background"]
