import pytest
from flask import Flask
from werkzeug.routing import Map, Rule

from gateway.config import Route
from gateway.views import covers, pattern_of, undeclared, without_view


@pytest.mark.parametrize("rule, pattern", [
    ("/", "/"), ("/users", "/users"), ("/users/<int:id>", "/users/{id:int}"), ("/users/<name>/", "/users/{name}/"),
    ("/f/<path:rest>", "/f/{rest:path}"), ("/f/<path:rest>/edit", "/f/{rest:path}"), ("/f/<uuid:id>.json", "/f/{id}"),
    ("/v<int:n>/x", "/{n}/x"), ("/a/<any(x, y):which>", "/a/{which}"), ("/a/<string(length=2):s>", "/a/{s}")])
def test_a_flask_rule_as_a_pattern(rule, pattern):
    assert pattern_of(rule) == pattern


@pytest.mark.parametrize("wide, narrow, answer", [
    ("/*", "/a", True), ("/*", "/", True), ("/a/*", "/a", False), ("/a/*", "/a/{x}/b", True), ("/a/{rest:path}", "/a/b/c", True),
    ("/{x}", "/a", True), ("/{x}", "/a/b", False), ("/{x:int}", "/7", True), ("/{x:int}", "/a", False), ("/{x:int}", "/{y}", False),
    ("/{x}", "/{y:int}", True), ("/{x}", "/{y:path}", False), ("/{x}", "/", False), ("/a", "/a", True), ("/a", "/b", False),
    ("/a/{x}", "/a/*", False), ("/a/b", "/a", False)])
def test_covers(wide, narrow, answer):
    assert covers(wide, narrow) is answer


def rules(*paths, methods=("GET",)):
    return list(Map([Rule(path, endpoint=path, methods=methods) for path in paths]).iter_rules())


def test_undeclared_views_become_routes_with_their_methods():
    routes = undeclared(rules("/users/<int:id>", "/list/"), [Route(path="/*", upstream="legacy")])
    assert {(route.path, route.methods, route.view) for route in routes} == {
        ("/users/{id:int}", ("GET", "HEAD"), True), ("/list/", ("GET", "HEAD"), True), ("/list", ("GET", "HEAD"), True)}


@pytest.mark.parametrize("declared, left", [
    (Route(path="/users/{x}", view=True), None), (Route(path="/*", view=True), None),
    (Route(path="/users/{x}", view=True, methods=("GET", "HEAD")), ("POST",)),
    (Route(path="/users/{x}", view=True, host="a.test"), ("GET", "HEAD", "POST")),
    (Route(path="/users/{x}", view=True, query={"a": "*"}), ("GET", "HEAD", "POST")),
    (Route(path="/users/{x}", upstream="legacy"), ("GET", "HEAD", "POST")),
    (Route(path="/other/*", view=True), ("GET", "HEAD", "POST"))])
def test_a_declared_view_route_takes_the_rules_it_covers(declared, left):
    routes = undeclared(rules("/users/<id>", methods=("GET", "POST")), [declared])
    assert [route.methods for route in routes] == ([] if left is None else [left])


def test_rules_that_are_one_pattern_make_one_route():
    found = undeclared(rules("/f/<name>.json", "/f/<uuid:id>", "/f/<int:n>"), [])
    assert sorted(route.path for route in found) == ["/f/{n:int}", "/f/{name}"]


def test_a_declared_view_without_a_flask_rule():
    declared = [Route(path="/reports/{name}", view=True), Route(path="/users/{id}", view=True), Route(path="/x", upstream="u")]
    assert [route.path for route in without_view(rules("/users/<id>"), declared)] == ["/reports/{name}"]


def test_flasks_own_map_is_understood():
    app = Flask("x", static_folder=None)
    app.add_url_rule("/a/<int:n>", view_func=lambda n: str(n), methods=["POST"])
    assert [(route.path, route.methods) for route in undeclared(app.url_map.iter_rules(), [])] == [
        ("/a/{n:int}", ("OPTIONS", "POST"))]
