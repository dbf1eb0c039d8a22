"""Gradio, and serving a page with it: where the app listens, how it looks, how it ends."""

import os
import socket
import threading

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: it would call home

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The app requires the `demo` extra: pip install 'modeling-trace[demo]'") from error

FIRST_PORT, NUM_PORTS = 7860, 100
PALE = ("body_text_color_subdued", "block_info_text_color", "block_label_text_color", "block_title_text_color")
CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto; overflow: visible !important; }
.html-container { padding: 0 !important; }
.statusbar { position: sticky; top: 0; z-index: 1000; background: var(--background-fill-primary); padding: 0.5rem 0;
  align-items: flex-start; flex-wrap: nowrap !important; gap: 0.5rem; }
.statusbar button { min-width: 5rem; max-width: 6rem; height: 46px; align-self: flex-start; }
button:focus-visible, input:focus-visible, textarea:focus-visible { outline: 3px dashed #D55E00 !important;
  outline-offset: 2px; }
@media (max-width: 600px) {
  .gradio-container, .gradio-container > .main { padding-left: 6px !important; padding-right: 6px !important; }
  .gradio-container h1 { font-size: 1.4rem; }
  /* the picture of the plane goes below the texts */
  .settings { display: contents !important; }
  .settings > * { flex: 0 0 100%; }
  .results { order: 2; }
  #plane { order: 3; }
}
"""


def launch_app(
    blocks: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, open_browser: bool = False
) -> str:
    """
    Serve the app in the background and return its address.

    Args:
        blocks (`gr.Blocks`): from [`build_app`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): address to listen at; that one cannot be reached from
            other machines, `"0.0.0.0"` can.
        port (`int`, *optional*): by default the first free one from 7860.
        open_browser (`bool`, *optional*, defaults to `False`): whether to open it in a browser.

    Raises:
        ValueError: for an address that is taken or is none of this machine's.
    """
    port = find_port(host, port)
    font = ["system-ui", "sans-serif"]  # Gradio's own comes from another machine
    theme = gr.themes.Default(font=font, font_mono=["monospace"], primary_hue="blue", neutral_hue="slate")
    # Gradio's greys are too pale to read
    dark = {f"{name}_dark": "*neutral_200" for name in PALE}
    theme = theme.set(
        **dict.fromkeys(PALE, "*neutral_700"),
        **dark,
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
    )
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
    )
    return address


def find_port(host: str, port: int | None = None) -> int:
    """
    A port that can be listened at.

    Args:
        host (`str`): the address.
        port (`int`, *optional*): which one; by default the first free one from 7860.

    Raises:
        ValueError: for an address that is taken or is none of this machine's.
    """
    if port is None:
        port = next((p for p in range(FIRST_PORT, FIRST_PORT + NUM_PORTS) if _why_not(host, p) is None), FIRST_PORT)
    why = _why_not(host, port)
    if why is not None:
        raise ValueError(f"`port` {port} at `host` '{host}' cannot be used: {why}. Choose another one.")
    return port


def _why_not(host: str, port: int) -> str | None:
    if not 0 < port < 2**16:
        return "ports are from 1 to 65535"
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    return None


def serve_until_stopped(blocks: gr.Blocks) -> None:
    """Wait for Ctrl-C, and close the app then."""
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)


__all__ = ["find_port", "gr", "launch_app", "serve_until_stopped"]
