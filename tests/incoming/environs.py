"""An environ as a server gives it."""

import io


def environ(**changes):
    return {"REQUEST_METHOD": "GET", "RAW_URI": "/", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
            "REMOTE_ADDR": "10.0.0.9", "HTTP_HOST": "shop.test", "wsgi.input": io.BytesIO(b""), **changes}
