"""The report as one HTML file that needs no network: figures, tables, and the chains to read.

Everything that comes from models, problem files and folder names is untrusted. In the page's own
markup jinja2 escapes it. The chains are data: JSON inside script elements that a browser does
not execute, in which no character can end the element, shown with ``textContent`` alone. A content
security policy forbids every request and every script but the page's own.
"""

from atts.reports.html.page import render_page, render_waiting

__all__ = ["render_page", "render_waiting"]
