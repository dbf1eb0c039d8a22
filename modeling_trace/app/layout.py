"""The app's page, in Gradio: what is where, and what happens on a click."""

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import drafts, pages
from .models import LoadedModel, ModelStore, message
from .plane import place_on_plane
from .running import Watch, in_background
from .serving import gr

MAP_TEXTS = 60
SEGMENT_GROUPS = ("1", "2", "3", "4", "5", "6+")

INTRODUCTION = """\
# TRACE: one latent for each segment

The model draws a latent for each **segment** of a text (a sentence, ten tokens) and writes the segment under it. Even
greedy texts differ. **Generate** some, then choose a segment, by mouse or by Tab and Enter, to resample or hold its
latent.
"""
OFF = (
    "The same backbone with its latents switched off (W_z z = 0). It was trained together with them, so it is not the "
    "language model that it came from: for that one, start the app with --plain."
)


@dataclass(frozen=True)
class Session:
    """What one who looks has on the page: the model's name, the texts, and the chosen text (from 0) and segment."""

    model: str | None = None
    texts: list[drafts.Draft] = field(default_factory=list)
    selected: tuple[int, int] | None = None


def build_app(
    model: str | None = None, *, plain: str | None = None, report: str | None = None, device: str | None = None
) -> gr.Blocks:
    """
    The app as Gradio blocks, for [`launch_app`] or for a page of your own.

    Args:
        model (`str`, *optional*): folder or Hub id of a TRACE model, loaded now. Others can be loaded on the page.
        plain (`str`, *optional*): folder or Hub id of a plain language model (`modeling-trace train --system gpt2`) to
            stand beside it. By default that is the model's own backbone with the latents switched off.
        report (`str`, *optional*): folder of an evaluation report with the model, for the quality-diversity plane; by
            default `report` in the model's own folder.
        device (`str`, *optional*): `"cuda"`, `"mps"` or `"cpu"`; the first that is available by default.

    Raises:
        ValueError: in one line, for a model or report that is none.
    """
    store = ModelStore(device, report)
    named = [(name, is_plain) for name, is_plain in ((model, False), (plain, True)) if name is not None]
    for load in (store.check, store.get):  # what is wrong with either is said before weights are read
        for name, is_plain in named:
            load(name, is_plain)
    return _Page(store, model, plain).blocks


class _Page:
    """The blocks, and what happens on them."""

    def __init__(self, store: ModelStore, model: str | None, plain: str | None):
        self.store, self.plain = store, plain
        self.watches: dict[str | None, Watch] = {}  # what runs now, by session
        with gr.Blocks(title="TRACE", analytics_enabled=False) as self.blocks:
            self._lay_out(model)
            self._wire()

    def _lay_out(self, model: str | None) -> None:
        self.session = gr.State(Session(model))
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            self.name = gr.Textbox(
                model or "",
                label="Model",
                info="A folder on this machine, or a Hub id",
                scale=4,
                min_width=200,
                elem_id="model",
            )
            self.load = gr.Button("Load", scale=1, min_width=100)
        with gr.Row(elem_classes="statusbar"):
            first = self.store.get(model).description if model else "No model yet: enter one and press Load."
            self.status = gr.HTML(pages.status_line(first), elem_id="status", css_template=pages.STYLE)
            self.stop = gr.Button("Stop", variant="stop", scale=0, elem_id="stop")
        with gr.Row():
            with gr.Column(scale=1, min_width=280, elem_classes="settings"):
                self.prompt = gr.Textbox(
                    "", label="Start of the texts", info="Optional; what a conditional model needs"
                )
                self.num_texts = gr.Slider(1, 12, 4, step=1, label="Texts")
                self.temperature = gr.Slider(
                    0, 1.5, 0, step=0.1, label="Temperature of the tokens", info="0 is greedy: only latents differ"
                )
                self.latent_temperature = gr.Slider(
                    0, pages.MOST_TEMPERATURE, 1, step=0.1, label="Temperature of the latents", info="0: prior's mean"
                )
                with gr.Accordion("More settings", open=False):
                    self.max_new_tokens = gr.Slider(8, 256, 100, step=1, label="Most tokens")
                    self.seed = gr.Textbox("", label="Seed", info="A number; empty: other texts each time")
                self.plane = gr.HTML(visible=False, elem_id="plane", css_template=pages.STYLE)
            with gr.Column(scale=3, min_width=300, elem_classes="results"), gr.Tabs():
                self._lay_out_tabs()

    def _lay_out_tabs(self) -> None:
        with gr.Tab("Texts"):
            with gr.Row():
                self.generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=130)
                self.read = gr.Button("Take the start as a whole text", elem_id="read", min_width=130)
            self.texts = gr.HTML("", elem_id="texts", css_template=pages.STYLE, js_on_load=pages.SCRIPT)
        with gr.Tab("Walk"):
            gr.Markdown(
                "Walks in straight lines from the latents of one text to those of the other: of your own, or else of "
                "the first two on the first tab."
            )
            self.start = gr.Textbox("", label="From", lines=2)
            self.end = gr.Textbox("", label="To", lines=2)
            self.num_steps = gr.Slider(2, 11, 5, step=1, label="Texts on the way, both ends included")
            with gr.Row():
                self.walk = gr.Button("Walk", variant="primary", elem_id="walk", min_width=130)
                self.fill = gr.Button("Take the first two texts", min_width=130)
            self.steps = gr.HTML("", elem_id="steps", css_template=pages.STYLE)
        with gr.Tab("Map"):
            gr.Markdown(
                "Posterior means of segments in the plane of their two main components (PCA), by the number of the "
                "segment."
            )
            self.map_texts = gr.Textbox(
                label="Texts, one a line", lines=3, info=f"Empty: the model writes {MAP_TEXTS} of its own"
            )
            self.draw = gr.Button("Draw the map", variant="primary", elem_id="draw")
            self.map = gr.ScatterPlot(
                x="first component",
                y="second component",
                color="segment",
                color_map=dict(zip(SEGMENT_GROUPS, pages.COLOURS, strict=True)),
                tooltip=["words", "text", "segment"],
                height=420,
                visible=False,
                elem_id="map",
            )
        with gr.Tab("Plain"):
            gr.Markdown("The same start and the same settings, from TRACE and from a plain language model.")
            self.compare = gr.Button("Write with both", variant="primary", elem_id="compare")
            self.columns = gr.HTML("", elem_id="columns", css_template=pages.STYLE)

    def _wire(self) -> None:
        decoding = [self.temperature, self.latent_temperature, self.max_new_tokens]
        state = [self.session, self.prompt, *decoding]
        texts = [self.status, self.session, self.texts]
        self._long(
            self.load.click, self._on_load, [self.name], [*texts, self.plane, self.steps, self.map, self.columns]
        )
        self._long(
            self.name.submit, self._on_load, [self.name], [*texts, self.plane, self.steps, self.map, self.columns]
        )
        written = [*state, self.num_texts, self.seed]
        self._long(self.generate.click, self._on_generate, written, texts)
        self._long(self.prompt.submit, self._on_generate, written, texts)
        self._long(self.read.click, self._on_read, state, texts)
        self._long(self.texts.click, self._on_segment, state, texts, with_event=True)
        ends = [self.start, self.end]
        self._long(self.walk.click, self._on_walk, [*state, *ends, self.num_steps], [self.status, self.steps, *ends])
        self.fill.click(self._on_fill, self.session, [*ends, self.status], show_progress="hidden")
        self._long(self.draw.click, self._on_map, [*state, self.map_texts], [self.status, self.map])
        self._long(self.compare.click, self._on_compare, written, [self.status, self.columns])
        self.stop.click(self._on_stop, None, self.status, queue=False, show_progress="hidden")
        place = [self.session, self.temperature, self.latent_temperature]
        for event in (self.temperature.release, self.latent_temperature.release, self.blocks.load):
            event(self._on_place, place, self.plane, show_progress="hidden")
        self.blocks.unload(self._on_leave)

    def _long(self, event: Callable, work: Callable, inputs: list, outputs: list, with_event: bool = False) -> None:
        """Wire work that takes a while: one at a time for the machine, errors in the status line."""

        def run(request: gr.Request, *values) -> Iterator[dict]:
            watch = self.watches[request.session_hash] = Watch()
            try:
                yield from work(watch, *values)
            except Exception as error:
                yield {self.status: pages.error_line(message(error))}
            finally:
                watch.stop()

        def run_with_event(request: gr.Request, data: gr.EventData, *values) -> Iterator[dict]:
            yield from run(request, data, *values)

        event(
            run_with_event if with_event else run,
            inputs,
            outputs,
            concurrency_limit=1,
            concurrency_id="model",
            show_progress="hidden",
            trigger_mode="multiple" if with_event else "once",  # a click is not lost while the last one is at work
        )

    # ---- What happens ----

    def _loaded(self, session: Session) -> LoadedModel:
        if session.model is None:
            raise ValueError("no model is loaded. Enter a folder or a Hub id above, and press Load.")
        return self.store.get(session.model)

    def _follow(self, work: Callable[[], Any], watch: Watch, doing: str, show: Callable | None = None) -> Generator:
        """Do the work in the background, and say so until it is done; returns what it returns."""
        running = in_background(work, watch)
        while True:
            try:
                next(running)
            except StopIteration as end:
                return end.value
            step = f", token {watch.done} of at most {watch.total}" if watch.total else ""
            said = "Stopping …" if watch.stopped else f"{doing}{step} …"
            update = {self.status: pages.status_line(said, watch)}
            yield update | (show(watch) if show is not None else {})

    def _on_load(self, watch, name):
        loaded = yield from self._follow(functools.partial(self.store.get, name), watch, f"Loading '{name.strip()}'")
        yield {
            self.status: pages.status_line(loaded.description),
            self.session: Session(loaded.name),
            **dict.fromkeys((self.texts, self.steps, self.columns), ""),
            self.map: gr.update(visible=False),
            self.plane: self._plane(loaded, 0.0, 1.0),
        }

    def _on_generate(self, watch, session, prompt, temperature, latent_temperature, most, num_texts, seed):
        loaded = self._loaded(session)
        decoding = drafts.Decoding(temperature, latent_temperature, int(most))

        def work():
            _set_seed(seed)
            return drafts.write(loaded.model, loaded.processor, int(num_texts), prompt, decoding, watch)

        def show(watch):
            return {self.texts: pages.plain_page(drafts.partial(loaded.processor, watch.rows))} if watch.done else {}

        texts = yield from self._follow(work, watch, f"Writing {int(num_texts)} texts", show)
        said = f"{self._written(texts, watch)} Choose a segment to resample or hold its latent."
        yield self._show(replace(session, texts=texts, selected=None), latent_temperature, said)

    def _on_read(self, watch, session, prompt, temperature, latent_temperature, most):
        loaded = self._loaded(session)
        if loaded.processor.conditional:
            raise ValueError("this model writes on a prompt, which is no text of its own. Use Generate.")
        if not prompt.strip():
            raise ValueError("the start is empty. Enter a text there.")
        work = functools.partial(drafts.read, loaded.model, loaded.processor, [prompt])
        texts = yield from self._follow(work, watch, "Reading the text")
        said = f"{len(texts[0].segments)} segments, with the latents that the model reads from them."
        yield self._show(Session(session.model, texts), latent_temperature, said)

    def _on_segment(self, watch, data, session, prompt, temperature, latent_temperature, most):
        place, number = int(data.text), int(data.segment)
        if not (0 <= place < len(session.texts) and 1 <= number <= len(session.texts[place].segments)):
            raise ValueError("that segment is gone. Choose another one.")
        draft = session.texts[place]
        everything = range(1, len(draft.segments) + 1)
        said = f"Text {place + 1}, segment {number}."
        if data.action == "resample":
            loaded = self._loaded(session)
            decoding = drafts.Decoding(temperature, latent_temperature, int(most))
            work = functools.partial(drafts.resample, loaded.model, loaded.processor, draft, number, decoding, watch)
            draft = yield from self._follow(work, watch, f"Resampling segment {number} of text {place + 1}")
            said = _what_changed(place, number, session.texts[place], draft, watch.stopped)
        elif data.action == "hold":
            held = number not in draft.held
            draft = drafts.hold(draft, [number], held)
            said = f"Segment {number} is held: its latent stays." if held else f"Segment {number} is released."
        elif data.action == "hold_others":
            draft = drafts.hold(drafts.hold(draft, everything), [number], False)
            said = f"All segments but {number} are held."
        elif data.action == "release_all":
            draft = drafts.hold(draft, everything, False)
            said = "No segment is held."
        elif data.action == "temperature":
            draft = drafts.set_temperature(draft, number, float(data.value))
            said = f"The latent of segment {number} will be drawn at temperature {float(data.value):g}."
        texts = [draft if other == place else text for other, text in enumerate(session.texts)]
        number = min(number, len(draft.segments))
        if data.action == "temperature":  # the slider shows it: drawn anew, it would be lost to the hand that moves it
            session = replace(session, texts=texts, selected=(place, number))
            yield {self.status: pages.status_line(said), self.session: session}
            return
        yield self._show(replace(session, texts=texts, selected=(place, number)), latent_temperature, said)

    def _on_walk(self, watch, session, prompt, temperature, latent_temperature, most, start, end, num_steps):
        loaded = self._loaded(session)
        if not start.strip() and not end.strip() and len(session.texts) > 1:
            start, end = _first_two(session)
            yield {self.start: start, self.end: end}
        decoding = drafts.Decoding(temperature, latent_temperature, int(most))
        work = functools.partial(
            drafts.interpolate,
            *(loaded.model, loaded.processor, start, end, int(num_steps), prompt, decoding, watch),
        )
        texts = yield from self._follow(work, watch, f"Writing {int(num_steps)} texts on the way")
        shares = [f"{step / (len(texts) - 1):.0%}" for step in range(len(texts))]
        yield {
            self.status: pages.status_line(self._written(texts, watch)),
            self.steps: pages.plain_page([text.segments for text in texts], shares),
        }

    def _on_fill(self, session):
        if len(session.texts) < 2:
            return {self.status: pages.error_line("there are no two texts yet. Generate some on the first tab.")}
        start, end = _first_two(session)
        return {self.start: start, self.end: end}

    def _on_map(self, watch, session, prompt, temperature, latent_temperature, most, lines):
        loaded = self._loaded(session)
        texts = [line.strip() for line in lines.splitlines() if line.strip()]

        def work():
            mine = texts
            if not mine:
                decoding = drafts.Decoding(temperature, latent_temperature, int(most))
                written = drafts.write(loaded.model, loaded.processor, MAP_TEXTS, prompt, decoding, watch)
                mine = [text for draft in written if (text := "".join(draft.segments)).strip()]
            watch.total = 0
            read = drafts.read(loaded.model, loaded.processor, mine, prompt, watch)
            return None if watch.stopped else drafts.latent_map(read)

        drawn = yield from self._follow(work, watch, "Reading texts for the map")
        if drawn is None:
            yield {self.status: pages.status_line("Stopped; no map was drawn.")}
            return
        rows, (first, second) = drawn
        yield {
            self.status: pages.status_line(
                f"{len(rows)} segments; the two components have {first:.0%} and {second:.0%} of the variance."
            ),
            self.map: gr.update(value=_table(rows), visible=True),
        }

    def _on_compare(self, watch, session, prompt, temperature, latent_temperature, most, num_texts, seed):
        loaded = self._loaded(session)
        decoding = drafts.Decoding(temperature, latent_temperature, int(most))
        plain = self.store.get(self.plain, plain=True) if self.plain is not None else loaded
        columns = []
        for other, title, note in (
            (loaded, f"TRACE: {loaded.name}", ""),
            (plain, f"Plain: {plain.name}" if plain is not loaded else "Plain: latents off", ""),
        ):

            def work(other=other, off=bool(columns)):
                _set_seed(seed)
                return drafts.write(
                    other.model, other.processor, int(num_texts), prompt, decoding, watch, latents_off=off
                )

            watch.done = 0
            texts = yield from self._follow(work, watch, f"Writing {int(num_texts)} texts, {title}")
            note = f"{_distinct(texts)} " + (OFF if columns and plain is loaded else "")
            columns.append((title, note, [text.segments for text in texts]))
            yield {self.columns: pages.columns_page(columns)}
            if watch.stopped:
                break
        yield {self.status: pages.status_line("Stopped." if watch.stopped else "Done.")}

    def _on_stop(self, request: gr.Request):
        watch = self.watches.get(request.session_hash)
        if watch is None or watch.stopped:
            return pages.status_line("Nothing is running.")
        watch.stop()
        return gr.skip()  # the work itself says that it stops: two messages could overtake each other

    def _on_leave(self, request: gr.Request):
        watch = self.watches.pop(request.session_hash, None)
        if watch is not None:
            watch.stop()

    def _on_place(self, session, temperature, latent_temperature):
        if session.model is None:
            return gr.update(visible=False)
        try:
            return self._plane(self.store.get(session.model), temperature, latent_temperature)
        except Exception as error:
            return gr.update(value=pages.error_line(message(error)), visible=True)

    def _plane(self, loaded: LoadedModel, temperature: float, latent_temperature: float):
        if loaded.report is None:
            return gr.update(visible=False)
        picture, words = place_on_plane(loaded.report, temperature, latent_temperature)
        image = f'<img alt="Quality against diversity" src="data:image/png;base64,{picture}">'
        return gr.update(
            value=f'<div class="plane">{image}<p class="note">{pages.escape(words)}</p></div>', visible=True
        )

    def _show(self, session: Session, latent_temperature: float, said: str) -> dict:
        return {
            self.status: pages.status_line(said),
            self.session: session,
            self.texts: pages.texts_page(session.texts, session.selected, latent_temperature),
        }

    def _written(self, texts: list[drafts.Draft], watch: Watch) -> str:
        if watch.stopped:
            return f"Stopped; what was written of {len(texts)} texts is here."
        return _distinct(texts)


def _set_seed(text: str) -> None:
    if not text.strip():
        torch.seed()
    elif text.strip().isdecimal():
        torch.manual_seed(int(text) % 2**63)
    else:
        raise ValueError(f"the seed must be a number >= 0 or empty, got '{text.strip()}'.")


def _distinct(texts: list[drafts.Draft]) -> str:
    different = len({text.segments for text in texts})
    return f"{different} of {len(texts)} texts {'is' if different == 1 else 'are'} distinct."


def _first_two(session: Session) -> tuple[str, str]:
    start, end = ("".join(draft.segments).strip() for draft in session.texts[:2])
    return start, end


def _what_changed(place: int, number: int, old: drafts.Draft, new: drafts.Draft, stopped: bool) -> str:
    said = f"Text {place + 1}, segment {number} resampled; "
    later = [i for i in range(number, len(new.segments) + 1) if new.segments[i - 1 : i] != old.segments[i - 1 : i]]
    said += f"segments that changed: {', '.join(map(str, later))}." if later else "the words did not change."
    if len(new.segments) != len(old.segments):
        said += f" The text has {len(new.segments)} segments now, it had {len(old.segments)}."
    lost = sorted(old.held - new.held)
    if lost:
        said += f" The text ended before segments that were held: {', '.join(map(str, lost))}."
    return "Stopped. " + said if stopped else said


def _table(rows: list[dict]):
    import pandas

    last = len(SEGMENT_GROUPS)
    return pandas.DataFrame(
        {
            "first component": [row["x"] for row in rows],
            "second component": [row["y"] for row in rows],
            "segment": [SEGMENT_GROUPS[min(row["segment"], last) - 1] for row in rows],
            "words": [row["words"] for row in rows],
            "text": [row["text"] for row in rows],
        }
    )


__all__ = ["build_app"]
