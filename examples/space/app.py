"""
A Hugging Face Space with the app; runs here as well: python examples/space/app.py

The model: the folder `model` beside this file, or what the Space's variable TRACE_MODEL names; with neither, the page
asks for one. TRACE_PLAIN_MODEL names a plain language model to stand beside it.
"""

import os
import threading
from pathlib import Path

from modeling_trace.app import build_app, launch_app

beside = Path(__file__).parent / "model"
model = os.environ.get("TRACE_MODEL") or (str(beside) if beside.is_dir() else None)
blocks = build_app(model, plain=os.environ.get("TRACE_PLAIN_MODEL"))

if __name__ == "__main__":
    # a Space is reached from outside, by its own port; elsewhere the app stays on this machine
    on_space = "SPACE_ID" in os.environ
    print(launch_app(blocks, host="0.0.0.0" if on_space else "127.0.0.1", port=7860 if on_space else None), flush=True)
    threading.Event().wait()
