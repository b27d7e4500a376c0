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


def build(say: Words) -> gr.Blocks:
    fields: dict[str, Any] = {}
    with gr.Blocks(title=say["title"], analytics_enabled=False) as page:
        _place("top")
        with gr.Tabs() as fields["tabs"]:
            for name, tab in (("speak", _speak), ("edit", _edit), ("voices", _voices)):
                with gr.Tab(say[name], id=name, elem_id=f"tab_{name}", render_children=True):
                    fields |= {field.elem_id: field for field in tab(say)}
            for name in ("history", "status"):
                with gr.Tab(say[name], id=name, elem_id=f"tab_{name}", render_children=True):
                    _place(name)
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


def _speak(say: Words) -> list[Any]:
    text = gr.Textbox(
        label=say["text"], placeholder=say["text_hint"], lines=5, max_lines=20, elem_id="speak_text"
    )
    with gr.Row():
        voice = _dropdown(say, "voice", "speak_voice", [])
        manner = _dropdown(say, "manner", "speak_manner", [(say["manner_none"], "")])
    _place("speak_more")
    with gr.Accordion(say["more"], open=False, elem_id="speak_choices"), gr.Row():
        languages = [(say["language_auto"], ""), *((say[name], name) for name in LANGUAGES)]
        language = _dropdown(say, "language", "speak_language", languages)
        speed = _field(gr.Slider, say, "speed", "speak_speed", 0.25, 4, 1, step=0.05)
        format = _dropdown(say, "format", "speak_format", [(name.upper(), name) for name in FORMATS])
        seed = _field(gr.Number, say, "seed", "speak_seed", None, precision=0, minimum=0)
    fields = [text, voice, manner, language, speed, format, seed]
    _start_and_stop(say, "speak", fields)
    for field in fields:
        _on(field.change, f"(value) => stepaudiod.keep('{field.elem_id}', value)", [field])
    _place("speak_result")
    return fields


def _edit(say: Words) -> list[Any]:
    _place("edit_source")
    transcript = _field(gr.Textbox, say, "transcript", "edit_transcript", lines=2, max_lines=8)
    tasks = [(say[f"task_{task}"], task) for task in (*OPTIONS, *CLONES)]
    task = _field(gr.Radio, say, "task", "edit_task", tasks, value="emotion")
    _place("edit_about")
    infos = []
    for mode, label in (("emotion", "emotion"), ("style", "style"), ("speed", "pace")):
        with gr.Column(elem_classes=["of", f"of-{mode}"]):
            infos.append(_dropdown(say, label, f"edit_{mode}", _choices(say, mode)))
    for clone, source in CLONES.items():
        if source:
            with gr.Column(elem_classes=["of", f"of-{clone}"]):
                choices = [choice for choice in _choices(say, source) if choice[1] != REMOVE]
                infos.append(_dropdown(say, source, f"edit_{clone}", choices))
    of_clones = [f"of-{clone}" for clone in CLONES]
    with gr.Column(elem_classes=["of", *of_clones]):
        words = _field(gr.Textbox, say, "clone_words", "edit_words", lines=2, max_lines=8)
    with gr.Column(elem_classes=["of", "of-paralinguistic"]):
        text = _field(gr.Textbox, say, "new_text", "edit_text", lines=2, max_lines=8)
        _place("edit_sounds")
    with gr.Row(elem_classes=["of", "of-emotion", "of-style", *of_clones[1:]]):
        bounds = (MIN_INTENSITY, MAX_INTENSITY, 1)
        intensity = _field(gr.Slider, say, "intensity", "edit_intensity", *bounds, step=0.1)
    with gr.Accordion(say["more"], open=False), gr.Row():
        iterations = _field(gr.Slider, say, "iterations", "edit_iterations", 1, MAX_ITERATIONS, 1, step=1)
        seed = _field(gr.Number, say, "seed", "edit_seed", None, precision=0, minimum=0)
    fields = [transcript, task, *infos, text, words, intensity, iterations, seed]
    _start_and_stop(say, "edit", fields)
    _on(task.change, "(task) => stepaudiod.show_task(task)", [task])
    _on(transcript.change, "(text) => stepaudiod.keep_transcript(text)", [transcript])
    _place("edit_result")
    return fields


def _voices(say: Words) -> list[Any]:
    with gr.Row():
        with gr.Column():
            _place("voices_list")
        with gr.Column():
            _place("voice_source")
            name = _field(gr.Textbox, say, "voice_name", "voice_name")
            transcript = _field(gr.Textbox, say, "transcript", "voice_transcript", lines=2)
            speaker = _field(gr.Textbox, say, "consent_who", "voice_who")
            consent = _field(gr.Checkbox, say, "consent", "voice_consent", False)
            fields = [name, transcript, speaker, consent]
            add = gr.Button(say["do_add"], variant="primary", elem_id="voice_add")
            _on(add.click, "(...given) => { stepaudiod.add_voice(...given) }", fields)
            _place("voice_result")
    return fields


def _start_and_stop(say: Words, what: str, given: list[Any]) -> None:
    with gr.Row():
        start = gr.Button(say[f"do_{what}"], variant="primary", elem_id=f"{what}_start")
        stop = gr.Button(say["stop"], elem_id=f"{what}_stop")
    _on(start.click, f"(...given) => {{ stepaudiod.{what}(...given) }}", given)
    _on(stop.click, f"() => stepaudiod.stop_{what}()", [])


def _on(event: Any, script: str, given: list[Any]) -> None:
    """Handle an event with a script instead of gradio's server."""
    event(None, given, None, js=script, api_visibility="private")


def _field(kind: type, say: Words, label: str, elem_id: str, *values: Any, **options: Any) -> Any:
    """A field with its label, and with its hint if there is one."""
    return kind(*values, label=say[label], info=say.get(f"{label}_hint"), elem_id=elem_id, **options)


def _dropdown(say: Words, label: str, elem_id: str, choices: list[tuple[str, str]]) -> Any:
    first = choices[0][1] if choices else None
    return _field(gr.Dropdown, say, label, elem_id, choices, value=first, min_width=MIN_WIDTH_PX)


def _choices(say: Words, mode: str) -> list[tuple[str, str]]:
    """The options of an edit, with their descriptions."""
    texts = say["options"][mode]
    return [(texts[name], name) for name in OPTIONS[mode]]
