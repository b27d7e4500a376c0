"""The page's gradio components: tabs, fields and buttons, in one language.

The event handlers are the scripts in `static/`, not Python, since gradio's server doesn't run. A field that a
script sets is listed in `FILLED`; the script sets it with the hidden button `fill`.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from stepaudiod.edits import MAX_INTENSITY, MAX_ITERATIONS, MIN_INTENSITY, OPTIONS, REMOVE
from stepaudiod.tags import LANGUAGES

Words = dict[str, Any]

FORMATS = ("wav", "mp3", "opus", "aac", "flac")
FILLED = (
    "speak_text", "speak_voice", "speak_manner", "speak_language", "speak_speed", "speak_format",
    "speak_seed", "edit_transcript", "edit_text", "voice_name", "voice_transcript", "voice_who",
    "voice_consent", "tabs",
)  # fmt: skip

MIN_WIDTH_PX = 280
"""Narrower lists are placed below each other, as on a phone."""
CLONES = {"clone": None, "clone_emotion": "emotion", "clone_style": "style"}
"""Tasks that speak new words in the voice of a recording, and the edit whose options they use."""

Fields = dict[str, Any]


def build(say: Words) -> gr.Blocks:
    fields: Fields = {}
    with gr.Blocks(title=say["title"], analytics_enabled=False) as page:
        _place("top")
        with gr.Tabs() as tabs:
            for name, tab in (("speak", _speak), ("edit", _edit), ("voices", _voices)):
                with gr.Tab(say[name], id=name, elem_id=f"tab_{name}", render_children=True):
                    tab(say, fields)
            for name in ("history", "status"):
                with gr.Tab(say[name], id=name, elem_id=f"tab_{name}", render_children=True):
                    _place(name)
        fields["tabs"] = tabs
        fill = gr.Button("fill", elem_id="fill", visible="hidden")
        filled = [fields[name] for name in FILLED]
        fill.click(
            None, None, filled, js=f"() => stepaudiod.filling({list(FILLED)})", api_visibility="private"
        )
        page.load(None, None, None, js="() => { stepaudiod.start() }", api_visibility="private")
    return page  # type: ignore[no-any-return]


def _place(name: str) -> None:
    """An element that the scripts fill."""
    gr.HTML(f'<div id="{name}"></div>', js_on_load=None)


def _speak(say: Words, fields: Fields) -> None:
    text = gr.Textbox(
        label=say["text"], placeholder=say["text_hint"], lines=5, max_lines=20, elem_id="speak_text"
    )
    with gr.Row():
        voice = _dropdown(say, "voice", "speak_voice", [])
        manner = _dropdown(say, "manner", "speak_manner", [(say["manner_none"], "")], say["manner_hint"])
    _place("speak_more")
    with gr.Accordion(say["more"], open=False, elem_id="speak_choices"), gr.Row():
        languages = [(say["language_auto"], ""), *((say[name], name) for name in LANGUAGES)]
        language = _dropdown(say, "language", "speak_language", languages, say["language_hint"])
        speed = gr.Slider(
            0.25, 4, 1, step=0.05, label=say["speed"], info=say["speed_hint"], elem_id="speak_speed"
        )
        formats = [(name.upper(), name) for name in FORMATS]
        format = _dropdown(say, "format", "speak_format", formats, say["format_hint"])
        seed = gr.Number(
            None, label=say["seed"], info=say["seed_hint"], precision=0, minimum=0, elem_id="speak_seed"
        )
    given: list[Any] = [text, voice, manner, language, speed, format, seed]
    fields |= dict(zip(FILLED, given, strict=False))
    _start_and_stop(say, "speak", given)
    for name, field in zip(FILLED, given, strict=False):
        _on(field.change, f"(value) => stepaudiod.keep('{name}', value)", [field])
    _place("speak_result")


def _edit(say: Words, fields: Fields) -> None:
    _place("edit_source")
    transcript = gr.Textbox(
        label=say["transcript"], info=say["transcript_hint"], lines=2, max_lines=8, elem_id="edit_transcript"
    )
    task = gr.Radio(
        [(say[f"task_{task}"], task) for task in (*OPTIONS, *CLONES)],
        value="emotion",
        label=say["task"],
        elem_id="edit_task",
    )
    _place("edit_about")
    infos = {}
    for mode, label in (("emotion", "emotion"), ("style", "style"), ("speed", "pace")):
        with gr.Column(elem_classes=["of", f"of-{mode}"]):
            infos[mode] = _dropdown(say, label, f"edit_{mode}", _choices(say, mode))
    for clone, source in CLONES.items():
        if source:
            with gr.Column(elem_classes=["of", f"of-{clone}"]):
                choices = [choice for choice in _choices(say, source) if choice[1] != REMOVE]
                infos[clone] = _dropdown(say, source, f"edit_{clone}", choices)
    of_clones = [f"of-{clone}" for clone in CLONES]
    with gr.Column(elem_classes=["of", *of_clones]):
        words = gr.Textbox(
            label=say["clone_words"], info=say["clone_words_hint"], lines=2, max_lines=8, elem_id="edit_words"
        )
    with gr.Column(elem_classes=["of", "of-paralinguistic"]):
        text = gr.Textbox(
            label=say["new_text"], info=say["new_text_hint"], lines=2, max_lines=8, elem_id="edit_text"
        )
        _place("edit_sounds")
    with gr.Row(elem_classes=["of", "of-emotion", "of-style", *of_clones[1:]]):
        intensity = gr.Slider(
            MIN_INTENSITY,
            MAX_INTENSITY,
            1,
            step=0.1,
            label=say["intensity"],
            info=say["intensity_hint"],
            elem_id="edit_intensity",
        )
    with gr.Accordion(say["more"], open=False), gr.Row():
        iterations = gr.Slider(
            1,
            MAX_ITERATIONS,
            1,
            step=1,
            label=say["iterations"],
            info=say["iterations_hint"],
            elem_id="edit_iterations",
        )
        seed = gr.Number(
            None, label=say["seed"], info=say["seed_hint"], precision=0, minimum=0, elem_id="edit_seed"
        )
    fields |= {"edit_transcript": transcript, "edit_text": text}
    _start_and_stop(
        say, "edit", [transcript, task, *infos.values(), text, words, intensity, iterations, seed]
    )
    _on(task.change, "(task) => stepaudiod.show_task(task)", [task])
    _on(transcript.change, "(text) => stepaudiod.keep_transcript(text)", [transcript])
    _place("edit_result")


def _voices(say: Words, fields: Fields) -> None:
    with gr.Row():
        with gr.Column():
            _place("voices_list")
        with gr.Column():
            _place("voice_source")
            name = gr.Textbox(label=say["voice_name"], info=say["voice_name_hint"], elem_id="voice_name")
            transcript = gr.Textbox(
                label=say["transcript"], info=say["transcript_hint"], lines=2, elem_id="voice_transcript"
            )
            speaker = gr.Textbox(label=say["consent_who"], elem_id="voice_who")
            consent = gr.Checkbox(False, label=say["consent"], elem_id="voice_consent")
            fields |= dict(zip(FILLED[-5:-1], (name, transcript, speaker, consent), strict=True))
            add = gr.Button(say["do_add"], variant="primary", elem_id="voice_add")
            _on(
                add.click,
                "(...given) => { stepaudiod.add_voice(...given) }",
                [name, transcript, speaker, consent],
            )
            _place("voice_result")


def _start_and_stop(say: Words, what: str, given: list[Any]) -> None:
    with gr.Row():
        start = gr.Button(say[f"do_{what}"], variant="primary", elem_id=f"{what}_start")
        stop = gr.Button(say["stop"], elem_id=f"{what}_stop")
    _on(start.click, f"(...given) => {{ stepaudiod.{what}(...given) }}", given)
    _on(stop.click, f"() => stepaudiod.stop_{what}()", [])


def _on(event: Any, script: str, given: list[Any]) -> None:
    """Handle an event with a script instead of gradio's server."""
    event(None, given, None, js=script, api_visibility="private")


def _dropdown(
    say: Words, label: str, elem_id: str, choices: list[tuple[str, str]], info: str | None = None
) -> gr.Dropdown:
    first = choices[0][1] if choices else None
    return gr.Dropdown(
        choices, value=first, label=say[label], info=info, elem_id=elem_id, min_width=MIN_WIDTH_PX
    )


def _choices(say: Words, mode: str) -> list[tuple[str, str]]:
    """The options of an edit, with their descriptions."""
    texts = say["options"][mode]
    return [(texts[name], name) for name in OPTIONS[mode]]
