"""Live page: the page of the report with sections that follow the run."""

import functools
import re
from importlib import resources

from megatron_rl.report.live.feed import Feed
from megatron_rl.report.page import Drawing, figures_html, fill_page, read_asset

_BEFORE_NUMBERS = """<p id="state"></p>
<div id="trouble" class="wrong"></div>
<div id="stages"></div>
<div id="connection" class="muted">connecting</div>
<nav><a href="#plots">curves</a> <a href="#servers">servers, judge</a>
<a href="#completions">completions</a> <a href="#logs">logs</a>
<a href="#look">when it hangs</a></nav>"""
_AFTER_PLOTS = """<h2>Servers, judge and batches</h2>
<section class="columns"><div id="servers"></div><div id="queues"></div></section>"""
_AFTER_COMPLETIONS = """<p><button id="refresh">look for newer ones</button></p>
<h2>Logs</h2>
<section id="logs"></section>
<h2>When it hangs</h2>
<p class="muted">Where each process of the run on this machine is, who waits for whom. When a step
takes far longer than usual, this comes by itself.</p>
<p><button id="look">look at the stacks</button></p>
<section id="hang"></section>"""


def live_policy(nonce: str) -> str:
    """Return the Content-Security-Policy: scripts of the server, requests to it, nothing else."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def live_page(feed: Feed, *, title: str, nonce: str) -> str:
    """Return the page as the feed has it, to be kept up to date by its events.

    Args:
        nonce: that marks the page's own scripts.
    """
    attributes = f' nonce="{nonce}"'
    script = read_asset("page.js") + read_live_asset("live.js")
    drawing = Drawing(
        subtitle=feed.part("subtitle"),
        cards=feed.part("numbers"),
        scores=feed.part("scores"),
        rows=feed.part("rows"),
        plots=feed.plots,
        figures=feed.figures,
    )
    page = fill_page(
        title=title,
        policy=live_policy(nonce),
        drawing=drawing,
        style=read_asset("page.css") + read_live_asset("live.css"),
        step_choices=feed.part("filter-step"),
        completions="",
        scripts=(
            f"{figures_html(drawing.figures, attributes)}\n<script{attributes}>\n{script}</script>"
        ),
        before_numbers=_filled(_BEFORE_NUMBERS, feed),
        after_plots=_filled(_AFTER_PLOTS, feed),
        after_completions=_filled(_AFTER_COMPLETIONS, feed),
    )
    return page.replace("<body>", f'<body data-last-id="{feed.last_id}">', 1)


@functools.cache
def read_live_asset(name: str) -> str:
    """Return the text of a file beside this one."""
    return resources.files("megatron_rl.report.live").joinpath(name).read_text()


def _filled(section: str, feed: Feed) -> str:
    """Put the parts into their empty elements."""
    return re.sub(
        r'id="([a-z-]+)"[^>]*>(?=</)', lambda match: match[0] + feed.part(match[1]), section
    )
