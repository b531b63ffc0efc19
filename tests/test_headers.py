from gateway.config import HeaderRules
from gateway.headers import EditHeaders, edit_of
from gateway.message import Request, Response


def test_remove_then_set_then_add():
    edit = edit_of(HeaderRules(add={"X-A": "3"}, set={"X-B": "new"}, remove=("x-c",)))
    assert edit([("x-a", "1"), ("X-b", "old"), ("x-B", "old"), ("X-C", "1"), ("D", "1")]) == [
        ("x-a", "1"), ("D", "1"), ("X-B", "new"), ("X-A", "3")]
    assert repr(edit) == "-x-c, X-B=new, +X-A=3"


def test_no_rules_no_edit():
    assert edit_of(HeaderRules()) is None


def test_both_directions():
    seen = []

    def target(request):
        seen.extend(request.headers)
        return Response(200, [("X-Powered-By", "PHP")])

    step = EditHeaders(target, edit_of(HeaderRules(set={"X-Team": "blue"})), edit_of(HeaderRules(remove=("X-Powered-By",))))
    assert step(Request("GET", "/", [("x-team", "red")])).headers == []
    assert seen == [("X-Team", "blue")]
    assert repr(step) == "headers: request X-Team=blue; response -X-Powered-By"
