"""The models of the app: loaded once, kept for all who look, and errors in one line."""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from ..data import TraceProcessor
from ..loading import load_config, load_model
from ..models.modeling_trace import TraceForConditionalGeneration
from ..utils import one_line
from .plane import find_report

logger = logging.get_logger(__name__)

MOST_MODELS = 2  # kept beside each other; the one that was used last stays


@dataclass(frozen=True)
class LoadedModel:
    """A model, its processor, and its evaluation report where there is one with a plane."""

    name: str
    model: TraceForConditionalGeneration
    processor: TraceProcessor
    report: dict[str, Any] | None = None

    @property
    def description(self) -> str:
        """The model in a line."""
        config, latents = self.model.config, "no latents"
        name = os.path.basename(os.path.abspath(self.name)) if os.path.isdir(self.name) else self.name
        if self.model.has_latents:
            what = "text" if self.model.one_latent_per_text else "segment"
            latents = f"one latent of {config.latent_size} dimensions per {what}"
        return f"{name}: {config.backbone_config.model_type}, {self.model.num_parameters():,} parameters, {latents}"


class ModelStore:
    """
    Loads models by name and keeps the last ones.

    Args:
        device (`str`, *optional*): as for [`load_model`].
        report (`str`, *optional*): folder of a report on the first model, in place of its own.
    """

    def __init__(self, device: str | None = None, report: str | None = None):
        self.device, self.report = device, report
        self._first: str | None = None
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, name: str, plain: bool = False) -> None:
        """Refuse, in one line, what [`~ModelStore.get`] would, before any weights are read."""
        if not name.strip():
            raise ValueError("no model is named. Enter a folder that `modeling-trace train` wrote, or a Hub id.")
        if load_config(name).latent_dynamics == "none" and not plain:
            raise _no_latents(name)

    def get(self, name: str, plain: bool = False) -> LoadedModel:
        """
        A model by its folder or Hub id.

        Args:
            name (`str`): the folder or id.
            plain (`bool`, *optional*, defaults to `False`): whether it is to stand beside TRACE, and so may lack
                latents.

        Raises:
            ValueError: in one line, where there is none.
        """
        name = name.strip()
        with self._lock:
            if name not in self._loaded:
                self.check(name, plain)
                given = self.report if self._first in (None, name) and not plain else None
                report = None if plain else find_report(name, given)
                self._loaded[name] = LoadedModel(name, *load_model(name, self.device), report)
                if not plain:
                    self._first = self._first or name
            if not (plain or self._loaded[name].model.has_latents):  # it was loaded to stand beside another
                raise _no_latents(name)
            self._loaded.move_to_end(name)
            while len(self._loaded) > MOST_MODELS:
                self._loaded.popitem(last=False)
            return self._loaded[name]


def _no_latents(name: str) -> ValueError:
    return ValueError(f"'{name}' is a plain language model, without latents. Give a TRACE model.")


def message(error: BaseException) -> str:
    """What to say of an error: a user's in its own words, others in one line; those go to the log whole."""
    if isinstance(error, (ValueError, OSError, ImportError)):
        return one_line(error) or type(error).__name__
    logger.error("The app met an error that is no user's.", exc_info=error)
    return "this went wrong in the app itself. Try again; the details are in the terminal that it was started from."


__all__ = ["LoadedModel", "ModelStore", "message"]
