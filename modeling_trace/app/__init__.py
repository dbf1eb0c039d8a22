"""
The app: texts of a model with their segments in colours, and what their latents do, in the browser (`demo` extra).

`drafts`, `running`, `pages`, `plane` and `models` know nothing of Gradio; `layout` and `serving` put them on a page.
"""

import importlib
from typing import TYPE_CHECKING

_EXPORTS = {"build_app": "layout", "launch_app": "serving"}

if TYPE_CHECKING:
    from .layout import build_app as build_app
    from .serving import launch_app as launch_app


def __getattr__(name: str):
    if name in _EXPORTS:  # these need Gradio, which the rest does not
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["build_app", "launch_app"]
