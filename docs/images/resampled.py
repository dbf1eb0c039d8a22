"""
Draws resampled.svg, the picture of the README: a greedy text of the demo's model, segments in colours, and the same
text with the latent of its third sentence resampled. `python docs/images/resampled.py trace-demo/model`
"""

import argparse
import html
import textwrap
from pathlib import Path

from modeling_trace import load_model
from modeling_trace.demo import NUM_GREEDY, generate_from_bos

COLOURS = ("#cfe3ff", "#d3f2dc", "#ffe3b8", "#ecd9fa", "#ffd6d6", "#d9f0f2")
LETTER, LINE, MARGIN, COLUMNS = 8.4, 25, 16, 92  # pixels; a monospaced font of 14 pixels


def drawn(pieces: list[str], top: float, marked: int | None) -> tuple[list[str], float]:
    """A text's sentences, each on its colour, wrapped; and where the next text begins."""
    text = " ".join(pieces)
    owner = [number for number, piece in enumerate(pieces) for _ in range(len(piece) + 1)]
    parts, start = [], 0
    for line in textwrap.wrap(text, COLUMNS, break_on_hyphens=False):
        place = text.index(line, start)
        start, left = place + len(line), place
        while left < start:
            right = left
            while right < start and owner[right] == owner[left]:
                right += 1
            run, number = text[left:right], owner[left]
            x, width = MARGIN + (left - place) * LETTER, len(run) * LETTER
            border = ' stroke="#b7791f" stroke-width="1.5"' if number == marked else ""
            colour = COLOURS[number % len(COLOURS)]
            parts.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="21" rx="3" fill="{colour}"{border}/>'
            )
            parts.append(
                f'<text x="{x:.1f}" y="{top + 15}" textLength="{width:.1f}" xml:space="preserve">'
                f"{html.escape(run)}</text>"
            )
            left = right
        top += LINE
    return parts, top


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="of `modeling-trace demo`")
    parser.add_argument("--output", default=str(Path(__file__).with_suffix(".svg")))
    arguments = parser.parse_args()
    model, processor = load_model(arguments.model, device="cpu")
    _, output = generate_from_bos(model, processor, NUM_GREEDY, 0)
    chosen = next(row for row, ids in enumerate(output.sequences) if len(processor.split(ids)) >= 4)
    latents = output.latents[chosen].clone()
    latents[2] = float("nan")  # sample it again; all others are held
    _, resampled = generate_from_bos(model, processor, 2, 1, latents=latents)
    titles = ("Written greedily. Each colour is a segment with a latent of its own:",)
    titles += ("The third latent resampled, all others held. Then once more:", "")
    parts, top = [], 12.0
    for title, ids in zip(titles, [output.sequences[chosen], *resampled.sequences], strict=True):
        if title:
            parts.append(
                f'<text x="{MARGIN}" y="{top + 14}" font-family="Helvetica,Arial,sans-serif" fill="#444">'
                f"{title}</text>"
            )
            top += LINE
        pieces = [piece.strip() for piece in processor.split(ids)]
        added, top = drawn(pieces, top, 2 if title != titles[0] else None)
        parts += added
        top += 10
    width = 2 * MARGIN + COLUMNS * LETTER
    body = "\n".join(parts)
    Path(arguments.output).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {top:.0f}" font-size="14" fill="#1a1a1a" '
        f'font-family="DejaVu Sans Mono,Menlo,Consolas,monospace" role="img">\n'
        f"<title>A text with one segment resampled</title>\n"
        f'<rect width="{width:.0f}" height="{top:.0f}" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
