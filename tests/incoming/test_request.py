"""The Request of an environ."""

import io

from gateway.incoming.request import RequestFactory
from tests.incoming.environs import environ


def test_without_the_workers_list_the_environ_serves():
    request = RequestFactory((), 5)(environ(HTTP_X_A="1", CONTENT_TYPE="text/plain", CONTENT_LENGTH="3",
                                            **{"wsgi.input": io.BytesIO(b"abc")}))
    assert ("X-A", "1") in request.headers and ("Content-Type", "text/plain") in request.headers
    assert request.body is not None and request.body.length == 3 and request.body.read() == b"abc"


def test_without_raw_uri_the_path_is_encoded_again():
    given = environ(PATH_INFO="/a b/caf\xc3\xa9", QUERY_STRING="x=1")
    del given["RAW_URI"]
    assert RequestFactory((), 5)(given).target == "/a%20b/caf%C3%A9?x=1"
