"""What the app shows, as HTML: texts with their segments in colours, the tools of the chosen one, what goes on."""

import html
from collections.abc import Sequence

from .drafts import Draft
from .running import Watch

# Okabe and Ito's colours, which the colour-blind tell apart, and tints of them that black text stands out from.
# Each segment has its number as well, so that nothing is said by colour alone.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
TINTS = ("#CCE3F0", "#FAECCC", "#CCECE3", "#F5E4ED", "#DDF0FB", "#F7DFCC")
MOST_TEMPERATURE = 2.0

STYLE = """
.texts { list-style: none; margin: 0; padding: 0; }
.text { margin: 0 0 0.8rem; padding: 0.6rem 0.8rem; border: 1px solid var(--border-color-primary);
  border-radius: 8px; background: var(--background-fill-primary); color: var(--body-text-color);
  line-height: 2; overflow-wrap: anywhere; }
.text .label { font-size: 0.85rem; color: var(--body-text-color); margin-right: 0.5rem; font-weight: 600; }
.segment { color: #111; padding: 0.15rem 0.25rem; border-radius: 4px; border-bottom: 3px solid;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; white-space: pre-wrap; }
.segment sub { font-size: 0.7rem; font-weight: 700; margin-right: 0.2rem; line-height: 1; color: #111; }
.segment[role=button] { cursor: pointer; }
.segment[role=button]:hover { filter: brightness(0.94); }
.segment[aria-pressed=true] { outline: 3px solid #111; outline-offset: 1px; }
.dark .segment[aria-pressed=true] { outline-color: #fff; }
.segment:focus-visible, .tools button:focus-visible, .tools input:focus-visible {
  outline: 3px dashed #D55E00; outline-offset: 2px; }
.segment.changed { font-weight: 700; }
.segment.given { border-bottom-style: dotted; }
.held { font-size: 0.7rem; font-weight: 700; background: #111; color: #fff; border-radius: 3px; padding: 0 0.25rem;
  margin-left: 0.3rem; }
.tools { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; margin-top: 0.6rem; line-height: 1.4;
  padding-top: 0.6rem; border-top: 1px solid var(--border-color-primary); }
.tools button { border: 1px solid #555; border-radius: 6px; padding: 0.45rem 0.8rem; background: #fff; color: #111;
  cursor: pointer; min-height: 40px; font-weight: 600; transition: none; }
.tools button.main { background: #00507d; border-color: #00507d; color: #fff; }
.tools button[aria-pressed=true] { background: #111; color: #fff; }
.tools label { display: flex; flex-wrap: wrap; gap: 0.4rem; align-items: center; min-height: 40px; }
.tools input { accent-color: #0072B2; width: 9rem; height: 1.6rem; }
.tools output { min-width: 2rem; font-variant-numeric: tabular-nums; }
.tools p, .before { flex-basis: 100%; font-size: 0.85rem; line-height: 1.5; margin: 0.2rem 0; }
.before { line-height: 2; margin-top: 0.5rem; }
.status { min-height: 44px; padding: 0.5rem 0.8rem; border-radius: 8px; background: var(--background-fill-secondary);
  color: var(--body-text-color); border: 1px solid var(--border-color-primary); overflow-wrap: anywhere;
  max-height: 8.5rem; overflow-y: auto; }
.status progress { width: 100%; height: 6px; accent-color: #0072B2; display: block; margin-top: 0.3rem; }
.status.error { border: 2px solid #D55E00; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 1rem; }
.columns h3 { margin: 0 0 0.4rem; font-size: 1rem; color: var(--body-text-color); }
.columns p, .note { font-size: 0.9rem; color: var(--body-text-color); }
.plane img { max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
""" + "\n".join(
    f".c{number} {{ background: {tint}; border-bottom-color: {colour}; }}"
    for number, (colour, tint) in enumerate(zip(COLOURS, TINTS, strict=True))
)

# A click, or Enter and the space bar, on what has a data-action. A page that is drawn anew keeps the focus.
SCRIPT = """
let last = null;
let waiting = null;
const send = target => {
  const data = target.dataset;
  last = data.key;
  const value = target.matches('input') ? Number(target.value) : null;
  trigger('click', {action: data.action, text: Number(data.text), segment: Number(data.segment), value: value});
};
element.addEventListener('click', event => {
  const target = event.target.closest('[data-action]');
  if (target && !target.matches('input')) send(target);
});
element.addEventListener('keydown', event => {
  if ((event.key === 'Enter' || event.key === ' ') && event.target.matches('span[data-action]')) {
    event.preventDefault();
    send(event.target);
  }
});
element.addEventListener('input', event => {
  const shown = event.target.parentElement.querySelector('output');
  if (shown) shown.textContent = Number(event.target.value).toFixed(1);
});
element.addEventListener('change', event => {
  if (!event.target.matches('input')) return;
  clearTimeout(waiting);
  waiting = setTimeout(send, 250, event.target);
});
watch('value', () => {
  if (last === null || document.activeElement !== document.body) return;
  const again = element.querySelector('[data-key="' + last + '"]');
  if (again) again.focus({preventScroll: true});
});
"""


def escape(text: str) -> str:
    """Text as HTML; also what Gradio would take for a template."""
    text = html.escape(text)
    for letter in "{}$`":
        text = text.replace(letter, f"&#{ord(letter)};")
    return text


def texts_page(
    drafts: Sequence[Draft], selected: tuple[int, int] | None = None, latent_temperature: float = 1.0
) -> str:
    """
    Texts whose segments can be chosen.

    Args:
        drafts (`Sequence[Draft]`): the texts.
        selected (`tuple[int, int]`, *optional*): place of the chosen text, from 0, and its segment, from 1.
        latent_temperature (`float`, *optional*): of segments that have none of their own.
    """
    items = []
    for place, draft in enumerate(drafts):
        chosen = selected[1] if selected is not None and selected[0] == place else None
        parts = [_clickable(draft, place, number, chosen) for number in range(1, len(draft.segments) + 1)]
        item = _item(place, parts) + _before(draft)
        if chosen is not None:
            item += _tools(draft, place, chosen, latent_temperature)
        items.append(f'<li class="text">{item}</li>')
    return f'<ol class="texts">{"".join(items)}</ol>'


def plain_page(texts: Sequence[Sequence[str]], labels: Sequence[str] | None = None) -> str:
    """Texts whose segments have colours and numbers and nothing to choose."""
    items = []
    for place, segments in enumerate(texts):
        parts = [_segment(number, words) for number, words in enumerate(segments, 1)]
        items.append(f'<li class="text">{_item(place, parts, labels[place] if labels else None)}</li>')
    return f'<ol class="texts">{"".join(items)}</ol>'


def columns_page(columns: Sequence[tuple[str, str, Sequence[Sequence[str]]]]) -> str:
    """Texts side by side: the title, the note and the texts of each column."""
    parts = [
        f"<section><h3>{escape(title)}</h3><p>{escape(note)}</p>{plain_page(texts)}</section>"
        for title, note, texts in columns
    ]
    return f'<div class="columns">{"".join(parts)}</div>'


def status_line(text: str, watch: Watch | None = None) -> str:
    """What goes on, or what came of it, and how far it is; read out by screen readers."""
    bar = ""
    if watch is not None:
        bar = (
            f'<progress max="{watch.total}" value="{watch.done}"></progress>'
            if watch.total
            else "<progress></progress>"
        )
    return f'<div class="status" role="status" aria-live="polite">{escape(text)}{bar}</div>'


def error_line(text: str) -> str:
    return f'<div class="status error" role="alert">Error: {escape(text)}</div>'


def _item(place: int, parts: Sequence[str], label: str | None = None) -> str:
    words = " ".join(parts) or "(empty)"
    return f'<span class="label">{escape(str(place + 1) if label is None else label)}</span>{words}'


def _segment(number: int, words: str, classes: str = "", attributes: str = "", end: str = "") -> str:
    classes = f"segment c{(number - 1) % len(COLOURS)} {classes}".rstrip()
    shown = escape(words.strip()) or "(empty)"
    return f'<span class="{classes}"{attributes}><sub>{number}</sub>{shown}{end}</span>'


def _clickable(draft: Draft, place: int, number: int, chosen: int | None) -> str:
    if draft.latents is None:
        return _segment(number, draft.segments[number - 1])
    classes = "given" if number <= draft.num_given else ""
    if draft.resampled is not None and number >= draft.resampled:
        before = draft.before[number - 1] if number <= len(draft.before) else None
        classes += " changed" if draft.segments[number - 1] != before else ""
    pressed = "true" if number == chosen else "false"
    attributes = f' role="button" tabindex="0" aria-pressed="{pressed}"{_data("select", place, number)}'
    end = '<span class="held">held</span>' if number in draft.held else ""
    return _segment(number, draft.segments[number - 1], classes.strip(), attributes, end)


def _tools(draft: Draft, place: int, number: int, latent_temperature: float) -> str:
    held = number in draft.held
    slider = f'type="range" min="0" max="{MOST_TEMPERATURE:g}" step="0.1"{_data("temperature", place, number)}'
    temperature = draft.temperatures.get(number, latent_temperature)
    return f"""
<div class="tools" role="group" aria-label="Segment {number} of text {place + 1}">
<strong>Segment {number}</strong>
<button type="button" class="main"{_data("resample", place, number)}>Resample</button>
<button type="button" aria-pressed="{"true" if held else "false"}"{_data("hold", place, number)}>Hold</button>
<button type="button"{_data("hold_others", place, number)}>Hold all others</button>
<button type="button"{_data("release_all", place, number)}>Release all</button>
<label>Temperature of its latent
<input {slider} value="{temperature:.1f}">
<output>{temperature:.1f}</output></label>
<p>Resample draws the latent of segment {number} again and writes from there on. Later segments get new latents, too,
but those that are held.</p>
</div>"""


def _before(draft: Draft) -> str:
    if draft.resampled is None:
        return ""
    old = [_segment(number, words) for number, words in enumerate(draft.before, 1) if number >= draft.resampled]
    return (
        f'<div class="before">Segment {draft.resampled} was resampled; what changed is bold. Before: '
        f"{' '.join(old)}</div>"
    )


def _data(action: str, place: int, number: int) -> str:
    key = f"{action}-{place}-{number}"
    return f' data-action="{action}" data-text="{place}" data-segment="{number}" data-key="{key}"'


__all__ = [
    "COLOURS",
    "SCRIPT",
    "STYLE",
    "columns_page",
    "error_line",
    "escape",
    "plain_page",
    "status_line",
    "texts_page",
]
