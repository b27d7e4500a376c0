"""The page: gradio's scripts show it in the browser, and the daemon's API does the work.

Gradio's server keeps a session and a queue for every open page, which an idle exit would end, so it does not
run here. A child process imports gradio once, builds the page (`blocks.py`) and saves what gradio's server
would send for it (`render.py`); the front serves these files (`routes.py`) with gradio's own scripts. In the
browser our scripts (`static/`) call the same API as any other client.
"""
