"""Opens an address in the user's browser, where there is one."""

from __future__ import annotations

import logging
import os
import threading
import webbrowser


def open_browser(url: str) -> None:
    """Open an address in the default browser, without waiting for it; says so where none is found.

    A browser that runs in the terminal would take it from the server: only `BROWSER` in the
    environment chooses one.
    """
    try:
        browser: webbrowser.BaseBrowser | None = webbrowser.get()
    except webbrowser.Error:
        browser = None
    if type(browser) is webbrowser.GenericBrowser and not os.environ.get("BROWSER"):
        browser = None
    if browser is None:
        logging.getLogger("cullama").warning("no browser can be opened here; open %s yourself", url)
        return
    # One that is not in the background returns when it is closed.
    threading.Thread(target=browser.open, args=(url,), daemon=True).start()
