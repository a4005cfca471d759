"""Journals as one web page: a table of runs, each opened on demand; works from a file, offline.

``sources`` finds journals and what is known of them, ``digest`` makes of one what the page shows,
``page`` puts the page together from ``page.html``, ``page.css`` and the scripts.
"""

from rlm_executor.viewer.page import write_page

__all__ = ["write_page"]
