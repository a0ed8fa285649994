"""The site as `make site` left it, its pages, and a web server on this machine that shows them."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools.make_site import OUT

from ._pages import read_pages


@pytest.fixture(scope="session")
def site():
    """The folder of the built site."""
    if not (OUT / "index.html").is_file():
        pytest.fail("There is no site in build/site yet; run make site, or make site-test at once.")
    return OUT


@pytest.fixture(scope="session")
def pages(site):
    """Every page of the site by its path."""
    return read_pages(site)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    """The address of a web server that shows the site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
