"""`modeling-trace app [PATH-OR-HUB-ID]`: shows in the browser what a model's latents do."""

import dataclasses
import sys

from .parser import CommandParser, flag


@dataclasses.dataclass
class AppArguments:
    """What stands beside the model, and where the app listens."""

    plain: str | None = flag(
        None, "Folder or Hub id of a plain language model to compare with. Default: the backbone with latents off."
    )
    report: str | None = flag(
        None, "Folder of an evaluation report with the model, for the plane. Default: `report` in the model's folder."
    )
    host: str = flag("127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines in.")
    port: int | None = flag(None, "Port to listen at. Default: the first free one from 7860.")
    no_browser: bool = flag(False, "Do not open a browser.")
    device: str | None = flag(None, "cuda, mps or cpu. Default: the first that is available.")


def run(argv: list[str] | None = None) -> int:
    """Serve the app until Ctrl-C. Returns the exit code."""
    parser = CommandParser(
        [AppArguments],
        instead={"model": "path-or-hub-id, without a flag", "server_name": "host", "server_port": "port"},
        prog="modeling-trace app",
        usage="modeling-trace app [PATH-OR-HUB-ID] [--name value ...]",
        description="Show in the browser what a model's latents do: resample and hold them, segment by segment; "
        "interpolate; a map; the plain model beside it. Requires the `demo` extra.",
    )
    parser.add_argument("model", nargs="?", help="folder or Hub id of a TRACE model; others can be loaded on the page")
    arguments = parser.parse(sys.argv[2:] if argv is None else argv)

    from ..app.layout import build_app  # Gradio takes seconds
    from ..app.serving import find_port, launch_app, serve_until_stopped

    port = find_port(arguments.host, arguments.port)
    blocks = build_app(arguments.model, plain=arguments.plain, report=arguments.report, device=arguments.device)
    address = launch_app(blocks, host=arguments.host, port=port, open_browser=not arguments.no_browser)
    print(f"The app is at {address} - Ctrl-C stops it.", flush=True)
    serve_until_stopped(blocks)
    return 0


__all__ = ["run"]
