"""The page: gradio draws it in the browser, and the API of this daemon does the work.

Gradio's server keeps a session and a queue for every open page, and both would be gone after an idle exit. So
none of it runs here. A child process imports gradio once, builds the page (`blocks.py`) and writes down what
gradio's server would send for it (`render.py`); the front sends these files (`routes.py`) together with
gradio's own scripts. In the browser our scripts (`static/`) call the same API as everybody else.
"""
