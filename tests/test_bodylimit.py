import io

import pytest

from gateway.bodylimit import BodyLimit
from gateway.errors import BodyTooLarge
from gateway.message import Body, Request, Response


def read_all(request):
    while request.body and request.body.read(4):
        pass
    return Response(200, [])


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("limit, size, accepted", [
    (0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False), (2, 2, True), (10, 11, False)])
def test_limit(limit, size, accepted, announced):
    body = Body(io.BytesIO(b"x" * size).read, size if announced else None)
    request = Request("POST", "/", [], body)
    if accepted:
        assert BodyLimit(read_all, limit)(request).status == 200
    else:
        with pytest.raises(BodyTooLarge):
            BodyLimit(read_all, limit)(request)
        assert body.is_started is not announced          # refused by its announcement, nothing was read


def test_no_body():
    assert BodyLimit(read_all, 0)(Request("GET", "/", [])).status == 200
