"""The page: gradio's front end in the browser, which uses the API of this daemon.

Gradio's server keeps a session and a queue for every open page, which an idle exit would lose, so it does not
run here. A child process imports gradio once, builds the page (`blocks.py`) and saves the responses of
gradio's server (`render.py`); the front serves these files (`routes.py`) together with gradio's scripts. In
the browser, the scripts in `static/` call the same API as other clients.
"""

LANGUAGES = {"en": "en", "zh": "zh-CN"}
"""The page's languages, and their BCP 47 tags."""
