import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import CacheStorage, Config, GatewaySettings, Nginx, Route, UpstreamSettings
from gateway.configfile.checks import notices
from gateway.configfile.load import Reader, load, load_text, read_text, schema, tomllib
from gateway.errors import ConfigError

UP = '[upstreams.a]\ninstances = ["http://a"]\n'
R = '[[routes]]\npath = "/x"\n'


@pytest.fixture(autouse=True)
def leaks():
    """Nothing here can leak, and looking for what did would take longer than the tests."""


def mistakes(text, environ=None):
    with pytest.raises(ConfigError) as caught:
        load_text(text, environ or {}, "gateway.toml")
    assert caught.value.source == "gateway.toml"
    return caught.value.problems


# -- each mistake in its own words

@pytest.mark.parametrize("text, expected", [
    ('[gateway\n',
     ["line 1, column 9: expected ']' at the end of a table declaration"]),
    ('x = \n',
     ['line 1, column 5: invalid value']),
    ('a = 1\na = 2',
     ['line 2, column 6: cannot overwrite a value']),
    ('a = 1\nx = [',
     ['line 2: the file ends in the middle of what begins here: a value is missing, or the bracket that closes one']),
    ('x = [1,\n2\n',
     ['line 1: the file ends in the middle of what begins here: unclosed array']),
    ('x = """one\ntwo\n',
     ['line 1: the file ends in the middle of what begins here: unterminated string']),
    ('[gateway]\ntrust = [\n[[routes]]\npath = "/"',
     ['line 3, column 3: invalid value; what is wrong begins on line 2']),
    ('x = """' + '\n' * 1000,
     ['end of the file: unterminated string']),
    ('[gateway]\nvia = "x" y',
     ['line 2, column 11: expected newline or end of document after a statement']),
    ('gatway = 1',
     ['gatway: unknown setting, did you mean gateway?']),
    ('[[route]]\npath="/"',
     ['route: unknown setting, did you mean routes?']),
    ('gateway = 3',
     ['gateway: 3 is not a table of settings']),
    ('upstreams = []',
     ['upstreams: [] is not a table: write [upstreams.name]']),
    ('routes = 3',
     ['routes: 3 is not a list of tables: write [[routes]], in two pairs of brackets']),
    ('[routes]\npath = "/"',
     ['routes: is one table: write [[routes]], in two pairs of brackets']),
    ('routes = ["/x"]',
     ['route number 1: "/x" is not a table of settings']),
    ('nginx = "x"',
     ['nginx: "x" is not a table of settings']),
    ('[upstreams]\na = "http://a"',
     ['upstream "a": "http://a" is not a table of settings']),
    ('[gateway]\ntimeut = "3s"',
     ['gateway: timeut: unknown setting, did you mean timeout?']),
    ('[gateway]\nzzz = 1',
     ['gateway: zzz: unknown setting; gateway schema lists what there is']),
    ('[gateway]\ntimeout = 10',
     ['gateway: timeout: 10 is not a duration: write a number and its unit, like "250ms", "30s" or "5m"']),
    ('[gateway]\ntimeout = "10"',
     ['gateway: timeout: "10" is not a duration: write a number and its unit, like "250ms", "30s" or "5m"']),
    ('[gateway]\ntimeout = "-3s"',
     ['gateway: timeout: "-3s": a duration must be more than 0']),
    ('[gateway]\ntimeout = "0s"',
     ['gateway: timeout: "0s": a duration must be more than 0']),
    ('[gateway]\ntimeout = ["1s"]',
     ['gateway: timeout: ["1s"] is not a duration: write a number and its unit, like "250ms", "30s" or "5m"']),
    ('[gateway]\nmax_body = "10XB"',
     ['gateway: max_body: "10XB" is not a size: write a number and its unit, like "10KB" or "64MB"']),
    ('[gateway]\nmax_body = -1',
     ['gateway: max_body: -1 is not a size: write a number and its unit, like "10KB" or "64MB"']),
    ('[gateway]\nmax_body = true',
     ['gateway: max_body: true is not a size: write a number and its unit, like "10KB" or "64MB"']),
    ('[gateway]\ntrust = "127.0.0.1"',
     ['gateway: trust: "127.0.0.1" is not a list: write ["127.0.0.1"]']),
    ('[gateway]\ntrust = ["localhost"]',
     ['gateway: trust[0]: "localhost" is not a network: write "10.0.0.0/8", "::1" or "unix"']),
    ('[gateway]\ntrust = ["10.1.2.3/8"]',
     ['gateway: trust[0]: "10.1.2.3/8" is an address with the mask of a network: write "10.0.0.0/8" for the '
      'network or "10.1.2.3" for the address']),
    ('[gateway]\ntrust = ["10.0.0.0/8", 7]',
     ['gateway: trust[1]: 7 is not text']),
    ('[gateway]\nadmin = "9901"',
     ['gateway: admin: "9901" has no port: write "127.0.0.1:9901"']),
    ('[gateway]\nadmin = "127.0.0.1"',
     ['gateway: admin: "127.0.0.1" has no port: write "127.0.0.1:9901"']),
    ('[gateway]\nadmin = "0.0.0.0:9901"',
     ['gateway: admin: "0.0.0.0:9901" can be reached from outside: the admin listener is for this machine only, '
      'write "127.0.0.1:9901"']),
    ('[gateway]\nadmin = "example.org:9901"',
     ['gateway: admin: "example.org:9901" can be reached from outside: the admin listener is for this machine '
      'only, write "127.0.0.1:9901"']),
    ('[gateway]\nadmin = "127.0.0.1:99999"',
     ['gateway: admin: "127.0.0.1:99999": "99999" is not a port between 1 and 65535']),
    ('[gateway]\nadmin = ":9901"',
     ['gateway: admin: ":9901" has no host']),
    ('[gateway]\nviews = ["shop/views.py"]',
     ['gateway: views[0]: "shop/views.py" is not the name of a module: write it as in an import, like "shop.views"']),
    ('[gateway]\nviews = ["a", "b", "a"]',
     ['gateway: views[2]: "a" stands twice']),
    ('[gateway]\nviews = "a"',
     ['gateway: views: "a" is not a list: write ["a"]']),
    ('[gateway]\nlog = ""',
     ['gateway: log: is empty']),
    ('[gateway]\nvia = "two words"',
     ['gateway: via: "two words" is not a token: letters, digits and !#$%&\'*+-.^_`|~ only']),
    ('[gateway]\nvia = "${NOTHING}"',
     ['gateway: via: the environment has no NOTHING: set it, or write ${NOTHING:-default}']),
    ('[gateway]\nvia = "${not a name}"',
     ['gateway: via: "${not a name}": a variable is written ${NAME} or ${NAME:-default}, and $${ where the '
      'characters themselves are meant']),
    ('[gateway]\ntrust = ["${A}", "${B:-::1}"]',
     ['gateway: trust[0]: the environment has no A: set it, or write ${A:-default}']),
    ('[gateway]\nvia = "${OPEN"',
     ['gateway: via: "${OPEN": a variable is written ${NAME} or ${NAME:-default}, and $${ where the characters '
      'themselves are meant']),
    ('[gateway]\ntimeout = "${TEN}"',
     ['gateway: timeout: "ten" is not a duration: write a number and its unit, like "250ms", "30s" or "5m"']),
    ('[upstreams.a]',
     ['upstream "a": instances: is missing']),
    ('[upstreams.a]\ninstances = []',
     ['upstream "a": instances: is empty']),
    ('[upstreams.a]\ninstances = "http://a"',
     ['upstream "a": instances: "http://a" is not a list: write ["http://a"]']),
    ('[upstreams.a]\ninstances = ["http://a", "htp://x"]',
     ['upstream "a": instances[1]: "htp://x" is not a URL: write http://host:port, https://host or unix:/path/to.sock']),
    ('[upstreams.a]\ninstances = ["http://a/api"]',
     ['upstream "a": instances[0]: "http://a/api" has a path: an instance is only scheme, host and port']),
    ('[upstreams.a]\ninstances = ["http://a?x"]',
     ['upstream "a": instances[0]: "http://a?x" has a query: an instance is only scheme, host and port']),
    ('[upstreams.a]\ninstances = ["http://user:secret@a"]',
     ['upstream "a": instances[0]: the URL has a user name: send an Authorization header instead']),
    ('[upstreams.a]\ninstances = ["http://a:0"]',
     ['upstream "a": instances[0]: "http://a:0": "0" is not a port between 1 and 65535']),
    ('[upstreams.a]\ninstances = ["http://::1"]',
     ['upstream "a": instances[0]: "http://::1": "::1" is not a host, or a host and a port (IPv6 goes in brackets)']),
    ('[upstreams.a]\ninstances = ["http://[::g]"]',
     ['upstream "a": instances[0]: "http://[::g]": "[::g]" is not a host, or a host and a port (IPv6 goes in '
      'brackets)']),
    ('[upstreams.a]\ninstances = ["http://"]',
     ['upstream "a": instances[0]: "http://" has no host']),
    ('[upstreams.a]\ninstances = ["http://a b"]',
     ['upstream "a": instances[0]: "http://a b": "a b" is not a host, or a host and a port (IPv6 goes in brackets)']),
    ('[upstreams.a]\ninstances = ["unix:run/x.sock"]',
     ['upstream "a": instances[0]: "unix:run/x.sock" needs the absolute path of a socket: unix:/path/to.sock']),
    ('[upstreams.a]\ninstances = ["http://a", "http://A:80", "HTTP://a/"]',
     ['upstream "a": instances[1]: "http://A:80" is the same as instances[0]',
      'upstream "a": instances[2]: "HTTP://a/" is the same as instances[0]']),
    ('[upstreams.A]\ninstances = ["http://a"]',
     ['upstream "A": the name of an upstream is a host name in lower case, so that http://<name>/ works: letters, '
      'digits, "-", "_" and "." only']),
    ('[upstreams."a b"]\ninstances = ["http://a"]',
     ['upstream "a b": the name of an upstream is a host name in lower case, so that http://<name>/ works: '
      'letters, digits, "-", "_" and "." only']),
    (UP + 'balance = "least-request"',
     ['upstream "a": balance: "least-request" is not one of round-robin, least-requests, did you mean least-requests?']),
    (UP + 'balance = 3',
     ['upstream "a": balance: 3 is not one of round-robin, least-requests']),
    (UP + 'host = "a b"',
     ['upstream "a": host: "a b" is not a host, or a host and a port (IPv6 goes in brackets); "upstream" and '
      '"preserve" are the other choices']),
    (UP + 'host = "presrve:x"',
     ['upstream "a": host: "presrve:x": "x" is not a port between 1 and 65535; "upstream" and "preserve" are the '
      'other choices']),
    (UP + 'max_connections = 0',
     ['upstream "a": max_connections: 0 is too small: at least 1']),
    (UP + 'max_connections = "many"',
     ['upstream "a": max_connections: "many" is not a whole number']),
    (UP + 'max_connections = 1.5',
     ['upstream "a": max_connections: 1.5 is not a whole number']),
    (UP + 'max_connections = true',
     ['upstream "a": max_connections: true is not a whole number']),
    (UP + '[upstreams.a.tls]\nverfy = false',
     ['upstream "a": tls.verfy: unknown setting, did you mean verify?']),
    (UP + 'tls.verify = "maybe"',
     ['upstream "a": tls.verify: "maybe" is neither true nor false']),
    (UP + 'tls.ca = "/no/such.pem"',
     ['upstream "a": tls.ca: there is no file "/no/such.pem"']),
    (UP + 'tls.key = "/etc/hostname"',
     ['upstream "a": tls.key: a key needs its certificate']),
    (UP + 'tls = true',
     ['upstream "a": tls: true is not a table of settings']),
    (UP + 'tls.certificate="/etc"',
     ['upstream "a": tls.certificate: there is no file "/etc"']),
    ('[[routes]]\nupstream = "a"',
     ['route number 1: path: is missing']),
    ('[[routes]]\npath = 7\nview = true',
     ['route number 1: path: 7 is not text in quotes: /exact, /{name}, /{name:int}, /{name}.json, /{rest:path} or /*']),
    (R,
     ['route "/x": a route needs a target: one of upstream, aggregate, view, respond, files, handler']),
    (R + 'view = false',
     ['route "/x": a route needs a target: one of upstream, aggregate, view, respond, files, handler']),
    (UP + R + 'upstream = "a"\nview = true\nrespond = {}',
     ['route "/x": a route has one target, this one has 3: upstream, view, respond']),
    (R + 'upstream = "b"',
     ['route "/x": upstream: there is no upstream "b"; the file declares none']),
    (UP + R + 'upstream = "aa"',
     ['route "/x": upstream: there is no upstream "aa", did you mean a?']),
    (UP + '[upstreams.users]\ninstances=["http://b"]\n[[routes]]\npath = "/x"\nupstream = "user"',
     ['route "/x": upstream: there is no upstream "user", did you mean users?']),
    (UP + '[upstreams.b]\ninstances=["http://b"]\n[[routes]]\npath = "/x"\nupstream = "zzz"',
     ['route "/x": upstream: there is no upstream "zzz"; there is a, b']),
    (R + 'view = true\ncache = { tll = "3s" }',
     ['route "/x": cache.tll: unknown setting, did you mean ttl?']),
    (R + 'view = true\ncache = { respect = "policy" }',
     ['route "/x": cache.respect: "policy" needs a ttl: it is the only freshness there is then']),
    (R + 'view = true\ncache = { respect = "stricter", ttl = "3s", methods = ["POST"] }',
     ['route "/x": cache.methods: GET must be among them']),
    (R + 'view = true\nmethods = ["POST"]\ncache = {}',
     ['route "POST /x": cache: has no effect, methods leaves out GET']),
    (R + 'view = true\ncache = { key = { query = [], ignore_query = ["utm_*"] } }',
     ['route "/x": cache.key.ignore_query: has no effect, query says which parameters count']),
    (R + 'view = true\ncache = { vary_by_caller = true, edge = "10s" }',
     ['route "/x": cache.edge: nginx knows the address alone; it must not keep what vary_by_caller keep apart']),
    (R + 'view = true\ncache = { edge = "999ms" }',
     ['route "/x": cache.edge: nginx counts in whole seconds and would keep nothing for "999ms": write "1s" or more, or leave'
      ' it out']),
    (R + 'view = true\ncache = { edge = "9s" }\nresponse_headers = { set = { Cache-Control = "max-age=9" } }',
     ['route "/x": cache.edge: nginx goes by what the cache says of each answer; response_headers must not change cache-control:'
      ' let the upstream say it, or leave edge out']),
    (R + 'view = true\nmethds = []',
     ['route "/x": methds: unknown setting, did you mean methods?']),
    (R + 'respond = 410',
     ['route "/x": respond: 410 is not a table of settings']),
    (R + 'respond = { status = 99 }',
     ['route "/x": respond.status: 99 is too small: at least 200']),
    (R + 'respond = { status = 600 }',
     ['route "/x": respond.status: 600 is too large: at most 599']),
    (R + 'respond = { status = "x", stats = 1 }',
     ['route "/x": respond.status: "x" is not a whole number',
      'route "/x": respond.stats: unknown setting, did you mean status?']),
    (R + 'respond = { text = "a", json = 1 }',
     ['route "/x": respond: has text and json; an answer has one body']),
    (R + 'respond = { status = 204, text = "a" }',
     ['route "/x": respond: an answer with status 204 has no body']),
    (R + 'respond = {}\nmax_body = "1KB"',
     ['route "/x": max_body: has no effect, respond reads no body']),
    (R + 'respond = { headers = { "A B" = "x" } }',
     ['route "/x": respond.headers: "A B" is not the name of a header field']),
    (R + 'respond = { headers = { A = "x\\ny" } }',
     ['route "/x": respond.headers.A: "x\\ny" cannot be the value of a header field: no control characters, no '
      'space at the ends']),
    (R + 'respond = { headers = { Content-Length = "3" } }',
     ['route "/x": respond.headers: "Content-Length" belongs to the connection: the gateway alone sets it']),
    (R + 'respond = { headers = { A = "1", a = "2" } }',
     ['route "/x": respond.headers: "A" and "a" are the same header field']),
    (R + 'view = true\nmethods = "GET"',
     ['route "/x": methods: "GET" is not a list: write ["GET"]']),
    (R + 'view = true\nmethods = ["get", "P ST"]',
     ['route "/x": methods[0]: "get": methods are upper case, write "GET"',
      'route "/x": methods[1]: "P ST" is not a method']),
    (R + 'view = true\nheader = { "X Y" = "1" }',
     ['route "/x": header: "X Y" is not the name of a header field']),
    (R + 'view = true\nheader = { X = 1 }',
     ['route "/x": header.X: 1 is not text: write it in quotes, "1"']),
    (R + 'view = true\nquery = "a"',
     ['route "/x": query: "a" is not a table']),
    (R + 'view = true\nstrip_prefix = "/x"\nrewrite_location = true\nrewrite_cookies = true\nwebsocket = true',
     ['route "/x": strip_prefix: works only with upstream',
      'route "/x": rewrite_location: works only with upstream',
      'route "/x": rewrite_cookies: works only with upstream',
      'route "/x": websocket: works only with upstream']),
    (R + 'view = true\nrewrite = "/y"',
     ['route "/x": rewrite: works only with upstream']),
    (UP + R + 'upstream = "a"\nstrip_prefix = "/y"',
     ['route "/x": strip_prefix: "/y" is not the beginning of the path "/x"']),
    (UP + R + 'upstream = "a"\nstrip_prefix = "x"',
     ['route "/x": strip_prefix: "x" is not a prefix: write the first segments of the path, like "/api"']),
    (UP + R + 'upstream = "a"\nstrip_prefix = "/"',
     ['route "/x": strip_prefix: "/" is not a prefix: write the first segments of the path, like "/api"']),
    (UP + R + 'upstream = "a"\nstrip_prefix = "/{y}"',
     ['route "/x": strip_prefix: "/{y}" has a parameter; only text is stripped, rewrite can do more']),
    (UP + R + 'upstream = "a"\nstrip_prefix = "/x/y"',
     ['route "/x": strip_prefix: "/x/y" is not the beginning of the path "/x"']),
    (UP + R + 'upstream = "a"\nstrip_prefix = "/x"\nrewrite = "/y"',
     ['route "/x": rewrite: already makes the whole path; strip_prefix cannot be there too']),
    (UP + R + 'upstream = "a"\nrewrite = "y"',
     ['route "/x": rewrite: "y" must start with "/"']),
    (UP + R + 'upstream = "a"\nrewrite = "/{id}"',
     ['route "/x": rewrite: the path has no parameter {id}']),
    (UP + R + 'upstream = "a"\nrewrite = "/{id"',
     ['route "/x": rewrite: a brace of "/{id" has no partner; a brace itself is written %7B or %7D']),
    (UP + R + 'upstream = "a"\nrewrite = "/y?z=1"',
     ['route "/x": rewrite: "/y?z=1" is not a path: other characters are written percent-encoded, and the query '
      'goes on by itself']),
    (UP + R + 'upstream = "a"\nrewrite = "/../y"',
     ['route "/x": rewrite: "/../y" has dot segments']),
    (UP + R + 'upstream = "a"\nrewrite = "/y/*"',
     ['route "/x": rewrite: "/y/*": what /* matched has no name; write {rest:path} in path and {rest} here']),
    (UP + '[[routes]]\npath = "/{user_id}"\nupstream = "a"\nrewrite = "/{userid}"',
     ['route "/{user_id}": rewrite: the path has no parameter {userid}, did you mean user_id?']),
    (UP + R + 'upstream = "a"\nmethods = ["PUT"]\nwebsocket = true',
     ['route "PUT /x": websocket: an upgrade is a GET request, which methods leaves out']),
    (UP + R + 'upstream = "a"\nwebsocket_idle_timeout = "1m"',
     ['route "/x": websocket_idle_timeout: has no effect without websocket = true']),
    (UP + R + 'upstream = "a"\nrequest_headers = { set = { Host = "x" } }',
     ['route "/x": request_headers.set.Host: the setting host of the upstream decides about Host']),
    (UP + R + 'upstream = "a"\nrequest_headers = { remove = ["Connection"] }',
     ['route "/x": request_headers.remove[0]: "Connection" belongs to the connection: the gateway alone sets it']),
    (UP + R + 'upstream = "a"\nresponse_headers = { ad = {} }',
     ['route "/x": response_headers.ad: unknown setting, did you mean add?']),
    (R + 'aggregate = {}',
     ['route "/x": aggregate: has no parts']),
    (UP + R + 'aggregate = { u = "a:/x/{id}" }',
     ['route "/x": aggregate.u.from: {id}: the path has no parameter \'id\'']),
    (UP + R + 'aggregate = { u = { from = "a:/", method = "POST" } }',
     ['route "/x": methods: is needed where a part does more than GET, or reads the body: say what it answers, like ["POST"]']),
    (UP + R + 'aggregate = { u = "a:/{body.x}" }',
     ['route "/x": methods: is needed where a part does more than GET, or reads the body: say what it answers, like ["POST"]']),
    (UP + R + 'aggregate = { u = "a:/{body.x}" }\nmethods = "POST"',
     ['route "/x": methods: "POST" is not a list: write ["POST"]']),
    (UP + R + 'aggregate = { u = "a:/" }\n[[routes]]\npath = "/x"\nmethods = ["GET"]\nupstream = "a"',
     ['route "/x" and route "GET /x": two routes match the same requests; remove one, or tell them apart by host, '
      'methods or a condition']),
    ('[upstreams.a]\ninstances = ["http://me:hidden@a"]',
     ['upstream "a": instances[0]: the URL has a user name: send an Authorization header instead']),
    ('[upstreams.a]\ninstances = "http://me:hid/d@en@a"',
     ['upstream "a": instances: "http://***@a" is not a list: write ["..."]']),
    (UP + R + 'aggregate = { u = "a/x" }',
     ['route "/x": aggregate.u.from: "a/x" is not an upstream and a path: write it like "orders:/by-user/{id}"']),
    (UP + R + 'aggregate = { u = "http://a/x" }',
     ['route "/x": aggregate.u.from: "http://a/x" is not an upstream and a path: write it like "orders:/by-user/{id}"']),
    (UP + R + 'aggregate = { u = "b:/x" }',
     ['route "/x": aggregate.u.from: there is no upstream "b"; there is a']),
    (UP + R + 'aggregate = { u = {} }',
     ['route "/x": aggregate.u.from: is missing']),
    (UP + R + 'aggregate = { u = 3 }',
     ['route "/x": aggregate.u: 3 is not a table of settings']),
    (UP + R + 'aggregate = { u = "a:/{v.x}", v = "a:/{w.x}", w = "a:/{u.x}" }',
     ['route "/x": aggregate: parts wait for each other in a circle: u -> v -> w -> u']),
    (UP + R + 'aggregate = { u = "a:/{u.x}" }',
     ['route "/x": aggregate.u: waits for its own answer']),
    (UP + R + 'aggregate = { user = "a:/", v = "a:/{usr.x}" }',
     ['route "/x": aggregate.v.from: {usr.x}: there is no part \'usr\', did you mean user?']),
    (UP + R + 'aggregate = { user = "a:/", v = "a:/{user}" }',
     ['route "/x": aggregate.v.from: {user} is a whole answer; write the field that is meant, {user.field}']),
    (UP + R + 'aggregate = { query = "a:/", "x y" = "a:/" }',
     ['route "/x": aggregate.query: {query.x} already means a query parameter of the request; give the part '
      'another name',
      'route "/x": aggregate."x y": the name of a part is letters, digits, "-" and "_"']),
    (UP + R + 'aggregate = { u = { from = "a:/", default = 1 } }',
     ['route "/x": aggregate.u.default: has no effect without optional = true']),
    (UP + R + 'aggregate = { u = { from = "a:/{x", headers = { X = "{z}" }, json = { k = ["{q}"] } } }',
     ['route "/x": aggregate.u.from: \'/{x\' has a { without its partner; a brace itself is written twice',
      'route "/x": aggregate.u.headers.X: {z}: the path has no parameter \'z\'',
      'route "/x": aggregate.u.json: {q}: the path has no parameter \'q\'']),
    (UP + R + 'aggregate = { u = { from = "a:/", headrs = {} } }',
     ['route "/x": aggregate.u.headrs: unknown setting, did you mean headers?']),
    (UP + R + 'aggregate = { u = { from = "a:/", forward_headers = ["Upgrade"] } }',
     ['route "/x": aggregate.u.forward_headers[0]: "Upgrade" belongs to the connection: the gateway alone sets it']),
    ('[[routes]]\npath = "/{a}"\nview = true\n[[routes]]\npath = "/{b}"\nview = true',
     ['route "/{a}" and route "/{b}": two routes match the same requests; remove one, or tell them apart by host, '
      'methods or a condition']),
    (R + 'view = true\n[[routes]]\npath = "/x"\nview = true',
     ['route "/x" (number 1) and route "/x" (number 2): two routes match the same requests; remove one, or tell '
      'them apart by host, methods or a condition']),
    ('[[routes]]\npath = "x"\nview = true',
     ['route "x": path: "x" must start with "/": write "/x"']),
    (R + 'view=true\nhost="*"',
     ['route "*/x": host: "*" is what a route without host matches; leave it out']),
    (R + 'view=true\nhost="a.test"\nheader={Host="b.test"}',
     ['route "a.test/x [header Host=b.test]": header.Host: host is "a.test", which "b.test" is not, so nothing can match']),
    (R + 'view=true\nhost="*.a.test"\nheader={host="a.test:80"}',
     ['route "*.a.test/x [header host=a.test:80]": header.Host: host is "*.a.test", which "a.test:80" is not, so nothing'
      ' can match']),
    (R + 'view=true\nhost="a..b"\nheader={Host="b.test"}',
     ['route "a..b/x [header Host=b.test]": host: "a..b" is not a host name']),
    (R + 'respond.json = { a = [99999999999999999999] }',
     ['route "/x": respond.json: cannot be written as JSON: Integer exceeds 64-bit range']),
    ('x = ' + '[' * 3000,
     ['tables and lists stand in each other, more than 100 deep']),
    ('x = ' + '[' * 3000 + ']' * 3000,
     ['tables and lists stand in each other, more than 100 deep']),
    ('x = ' + '[' * 100 + ']' * 100,
     ['tables and lists stand in each other, more than 100 deep']),
    ('x = ' + '[' * 99 + ']' * 99,
     ['x: unknown setting; there are gateway, upstreams, routes, cache, nginx']),
    (R + 'view=true\nmethods=["TRACE"]',
     ['route "TRACE /x": methods: the gateway refuses CONNECT and TRACE, so nothing can match']),
    (UP + R + 'upstream = "a"\nrewrite = "/{{x}}"',
     ['route "/x": rewrite: a brace of "/{{x}}" has no partner; a brace itself is written %7B or %7D',
      'route "/x": rewrite: the path has no parameter {x}']),
    (UP + R + 'aggregate = { u = "a:/x y" }',
     ['route "/x": aggregate.u.from: \'/x y\' is not a path with an optional query: other characters are written '
      'percent-encoded']),
    (UP + R + 'aggregate = { u = "a:/../x" }',
     ['route "/x": aggregate.u.from: \'/../x\' has dot segments']),
    (UP + R + 'aggregate = { u = "a://x" }',
     ['route "/x": aggregate.u.from: "a://x" is not an upstream and a path: write it like "orders:/by-user/{id}"']),
    (UP + R + 'aggregate = { u = { from = "a:/", json = "{q q}" } }',
     ['route "/x": aggregate.u.json: {q q} is not a reference']),
    ('[nginx]\nlisten = "80; }"',
     ['nginx: listen: "80; }" would end the nginx directive it is written into']),
    ('[nginx]\nmax_body = "x"',
     ['nginx: max_body: "x" is not a size: write a number and its unit, like "10KB" or "64MB"']),
    ('[nginx]\ninstances = "a:1"',
     ['nginx: instances: "a:1" is not a list: write ["a:1"]']),
    ('[nginx]\nserver_names=[1]',
     ['nginx: server_names[0]: 1 is not text: write it in quotes, "1"']),
])
def test_mistakes(text, expected):
    assert mistakes(text, {"TEN": "ten"}) == expected


@pytest.mark.parametrize("text, place, expected", [
    ("[gateway]\nadmin = 9901", "gateway: admin", "9901 is not text in quotes: host:port of the admin listener"),
    ("[gateway]\ntrust = 1", "gateway: trust", '1 is not a list: write ["..."]'),
    ('[gateway]\ntrust = "localhost"', "gateway: trust", '"localhost" is not a list: write ["..."]'),
    ("[upstreams.a]\ninstances = 5", 'upstream "a": instances', '5 is not a list: write ["..."]'),
    ('[upstreams.a]\ninstances = ["http://a"]\nhost = true', 'upstream "a": host', "true is not text in quotes: The Host sent"),
    ('[[routes]]\npath = "/x"\nhost = true\nrespond = {}', 'route "/x": host',
     "true is not text in quotes: shop.example.org or *.example.org"),
    ('[[routes]]\npath = "/x"\n[upstreams.a]\ninstances = ["http://a"]\n[routes.aggregate]\na = { from = "a:/", pick = 1 }',
     'route "/x": aggregate.a.pick', '1 is not a list: write ["name"]'),
    ('[[routes]]\npath = "*"\nrespond = {}', 'route "*": path', '"*" must start with "/": write "/*"'),
])
def test_what_is_suggested_is_not_the_next_mistake(text, place, expected):
    assert f"{place}: {expected}" in "\n".join(mistakes(text))


def test_all_mistakes_come_at_once_in_the_order_of_the_file():
    found = mistakes("""
        colour = "green"
        [gateway]
        timeout = "-1s"
        trust = ["nobody", "10.0.0.1/8"]
        [upstreams.legacy]
        instances = ["htp://x", "http://b", "http://b/"]
        balanc = "round-robin"
        [[routes]]
        path = "/users/{id}"
        upstream = "legcy"
        tiemout = "3s"
        strip_prefix = "/user"
        request_headers = { sett = {} }
        [[routes]]
        path = "/a{x"
        aggregate = { u = "larr:/x/{u.x}", v = { from = "legacy:/{w.x}" } }
        [[routes]]
        pth = "/b"
        [[routes]]
        path = "/a/{x}"
        view = true
        [[routes]]
        path = "/a/{y}"
        respond = {}
        [nginx]
        listn = "80"
    """)
    assert [": ".join(problem.split(": ")[:2]) for problem in found] == [
        "colour: unknown setting; there are gateway, upstreams, routes, cache, nginx",
        "gateway: timeout", "gateway: trust[0]", "gateway: trust[1]",
        'upstream "legacy": instances[0]', 'upstream "legacy": balanc',
        'route "/users/{id}": tiemout', 'route "/users/{id}": request_headers.sett', 'route "/users/{id}": upstream',
        'route "/users/{id}": strip_prefix',
        'route "/a{x": path', 'route "/a{x": aggregate.u.from', 'route "/a{x": aggregate.u',
        'route "/a{x": aggregate.v.from',
        "route number 3: path", "route number 3: pth",
        'route "/a/{x}" and route "/a/{y}": two routes match the same requests; remove one, or tell them apart by host, methods'
        ' or a condition',
        "nginx: listn"]


def test_what_cannot_be_read_causes_no_further_mistakes():
    """A target that is wrong is still a target, and a condition that is wrong makes no route equal to another."""
    assert mistakes(UP + """
        [[routes]]
        path = "/x"
        aggregate = 3
        [[routes]]
        path = "/x"
        upstream = "a"
        header = { X = 1 }
        [[routes]]
        path = "/x"
        upstream = "a"
        [[routes]]
        path = "/y"
        upstream = "${Y}"
        strip_prefix = "/y"
    """) == [
        'route "/x" (number 1): aggregate: 3 is not a table',
        'route "/x" (number 2): header.X: 1 is not text: write it in quotes, "1"',
        'route "/y": upstream: the environment has no Y: set it, or write ${Y:-default}',
        'route "/x" (number 1) and route "/x" (number 3): two routes match the same requests; remove one, or tell them apart by'
        ' host, methods or a condition']


def test_an_upstream_that_cannot_be_read_is_still_there():
    assert mistakes('[upstreams.a]\ninstances = [""]\n' + R + 'upstream = "a"') == [
        'upstream "a": instances[0]: "" is not a URL: write http://host:port, https://host or unix:/path/to.sock']


def test_a_password_is_not_repeated():
    assert "geheim" not in str(mistakes('[upstreams.a]\ninstances = ["http://u:geheim@a", "htp://u:geheim@a", "u:geheim@a:80"]'))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name in ("ca", "key"):
        (tmp_path / name).write_text("")
    text = UP + f'tls = {{ ca = "{tmp_path}/ca", certificate = "{tmp_path}", key = "{tmp_path}/key" }}'
    assert mistakes(text) == [f'upstream "a": tls.certificate: there is no file "{tmp_path}"']
    good = UP + f'tls = {{ ca = "{tmp_path}/ca", certificate = "{tmp_path}/key", key = "{tmp_path}/key" }}'
    assert load_text(good, {}).upstreams["a"].tls.ca == f"{tmp_path}/ca"


# -- what is right

@pytest.mark.parametrize("host, field", [
    ("a.test", "*"), ("a.test", "A.test."), ("a.test", "a.test:8080"), ("*.test", "b.a.test"), ("[::1]", "[::1]:80")])
def test_a_host_and_the_field_that_says_it(host, field):
    load_text(R + f'host = "{host}"\nheader = {{ Host = "{field}" }}\nrespond = {{}}', {})


def test_a_trusted_proxy_may_say_another_host_than_its_own():
    load_text('[gateway]\ntrust = ["unix"]\n' + R + 'host = "a.test"\nheader = { Host = "b.test" }\nrespond = {}', {})


@pytest.mark.parametrize("section, setting, path, expected", [
    ("gateway", "log", "{here}/new.log", None), ("gateway", "log", "{here}/old.log", None), ("gateway", "log", "off", None),
    ("gateway", "log", "{here}", '"{here}" is a folder'), ("gateway", "log", "{here}/no/x.log", 'there is no folder "{here}/no"'),
    ("gateway", "log", "{here}/old.log/x.log", 'there is no folder "{here}/old.log"'),
    ("cache", "file", "{here}", None), ("cache", "file", "{here}/is/made", None),
    ("cache", "file", "{here}/old.log", '"{here}/old.log" is not a folder'),
    ("cache", "file", "{here}/old.log/x/y", '"{here}/old.log" is not a folder'),
])
def test_files_that_are_written_to(tmp_path, section, setting, path, expected):
    (tmp_path / "old.log").touch()
    text = f'[{section}]\n{setting} = "{path.format(here=tmp_path)}"'
    assert expected is None and load_text(text, {}) or mistakes(text) == [f"{section}: {setting}: {expected.format(here=tmp_path)}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.log"]


def test_a_whole_file():
    config = load_text("""
        [gateway]
        views = ["shop.views"]
        trust = ["127.0.0.1/32", "::1", "unix"]
        timeout = "2.5s"
        max_body = "64MB"
        admin = "localhost:9901"
        [upstreams.laravel]
        instances = ["http://10.0.0.5:8000", "https://[::1]", "unix:/run/laravel.sock"]
        balance = "least-requests"
        connect_timeout = "300ms"
        tls = { verify = false }
        [[routes]]
        path = "/*"
        upstream = "laravel"
        [[routes]]
        path = "/users/{id:int}"
        methods = ["GET"]
        aggregate.user = "laravel:/api/users/{id}?v={query.v:-1}"
        aggregate.team = { from = "laravel:/teams/{user.team.0.id}", json = { a = "{header.X-A}" }, optional = true, default = [] }
        [[routes]]
        path = "/old/{rest:path}"
        upstream = "laravel"
        rewrite = "/new/{rest}"
        request_headers = { set = { X-Name = "Zoë" }, remove = ["Cookie"] }
        [[routes]]
        path = "/gone"
        respond = { status = 410, json = { message = "moved" } }
        [nginx]
        max_body = 0
    """, {})
    assert (config.gateway.timeout, config.gateway.max_body, config.gateway.trust[2]) == (2.5, 64 * 1024 ** 2, "unix")
    assert (config.upstreams["laravel"].connect_timeout, config.upstreams["laravel"].tls.verify) == (0.3, False)
    assert [route.name for route in config.routes] == ["/*", "GET /users/{id:int}", "/old/{rest:path}", "/gone"]
    assert config.routes[1].aggregate["user"].from_ == "laravel:/api/users/{id}?v={query.v:-1}"
    assert config.routes[2].request_headers.set["X-Name"] == "Zo\xc3\xab"      # as it is sent, one character per byte
    assert config.routes[3].respond.json_ == {"message": "moved"}


def test_an_empty_file_is_a_configuration():
    assert load_text("", {}) == Config()


def test_the_repository_s_own_file_has_no_mistakes():
    config = load(Path(__file__).parent.parent.parent / "gateway.toml", {})
    assert {"/*", "GET /api/dashboard/{id:int}"} <= {route.name for route in config.routes}


# -- the environment

@pytest.mark.parametrize("written, environ, expected", [
    ("${NAME}", {"NAME": "x"}, "x"),
    ("a-${NAME}-${NAME}", {"NAME": "x"}, "a-x-x"),
    ("${NAME:-y}", {}, "y"),
    ("${NAME:-y}", {"NAME": ""}, "y"),
    ("${NAME:-y}", {"NAME": "x"}, "x"),
    ("a${NAME:-}b", {}, "ab"),
    ("a${NAME}b", {"NAME": ""}, "ab"),
    ("${A:-a}${B:-b}", {"A": "${B}"}, "${B}b"),          # what a variable holds is not looked at again
    ("$${NAME}", {}, "${NAME}"),
    ("$NAME", {}, "$NAME"),
    ("$$", {}, "$$"),
    ("${NAME:-a:-b}", {}, "a:-b"),
])
def test_variables(written, environ, expected):
    config = load_text(f"[[routes]]\npath = '/'\nrespond.text = '{written}'", environ)
    assert config.routes[0].respond.text == expected


def test_variables_stand_for_every_kind_of_value():
    environ = {"VERIFY": "false", "MANY": "7", "SOON": "3s", "SIZE": "1KB", "URL": "http://a", "BALANCE": "least-requests"}
    config = load_text("""
        gateway = { timeout = "${SOON}", max_body = "${SIZE}" }
        [upstreams.a]
        instances = ["${URL}"]
        balance = "${BALANCE}"
        max_connections = "${MANY}"
        tls.verify = "${VERIFY}"
        [[routes]]
        path = "/"
        respond = { json = { deep = ["${URL}"] } }
    """, environ)
    upstream = config.upstreams["a"]
    assert (config.gateway.timeout, config.gateway.max_body, upstream.max_connections, upstream.tls.verify, upstream.balance) == (
        3.0, 1024, 7, False, "least-requests")
    assert config.routes[0].respond.json_ == {"deep": ["http://a"]}


def test_every_missing_variable_is_named_with_its_place():
    assert mistakes('[upstreams.a]\ninstances = ["${ONE}", "http://${TWO}:${THREE}"]\ntls.server_name = "${FOUR}"') == [
        f'upstream "a": {place}: the environment has no {name}: set it, or write ${{{name}:-default}}'
        for place, name in [("instances[0]", "ONE"), ("instances[1]", "TWO"), ("instances[1]", "THREE"),
                            ("tls.server_name", "FOUR")]]


def test_overrides():
    environ = {"GATEWAY_ADMIN": "127.0.0.1:1", "GATEWAY_LOG": "off", "GATEWAY_TIMEOUT": "1s"}
    file = '[gateway]\nadmin = "127.0.0.1:2"\nlog = "stderr"\ntimeout = "2s"\nvia = "me"'
    assert load_text(file, environ).gateway == GatewaySettings(admin="127.0.0.1:1", log="off", timeout="1s", via="me")
    assert load_text(file, {}).gateway == GatewaySettings(admin="127.0.0.1:2", log="stderr", timeout="2s", via="me")
    assert load_text("", environ).gateway == GatewaySettings(admin="127.0.0.1:1", log="off", timeout="1s")
    unset = dict.fromkeys(environ, "")
    assert load_text(file, unset) == load_text(file, {})
    assert load_text("", {"GATEWAY_LOG": "/tmp/${x}"}).gateway.log == "/tmp/${x}"


def test_a_wrong_override_is_named_by_its_variable():
    assert mistakes("", {"GATEWAY_LOG": "/proc/none/x"}) == ['gateway: GATEWAY_LOG: there is no folder "/proc/none"']
    assert mistakes('[gateway]\ntimeout = "2s"', {"GATEWAY_TIMEOUT": "2", "GATEWAY_ADMIN": "0.0.0.0:1"}) == [
        'gateway: GATEWAY_ADMIN: "0.0.0.0:1" can be reached from outside: the admin listener is for this machine only, write'
        ' "127.0.0.1:1"',
        'gateway: GATEWAY_TIMEOUT: "2" is not a duration: write a number and its unit, like "250ms", "30s" or "5m"']


# -- the file

def test_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gateway.toml", "other.toml", "third.toml"):
        (tmp_path / name).write_text(f'[gateway]\nvia = "{name}"')
    assert load(None, {}).gateway.via == "gateway.toml"
    assert load(None, {"GATEWAY_CONFIG": "other.toml"}).gateway.via == "other.toml"
    assert load("third.toml", {"GATEWAY_CONFIG": "other.toml"}).gateway.via == "third.toml"
    assert load(tmp_path / "third.toml", {}).gateway.via == "third.toml"
    assert read_text(None, {}) == ('[gateway]\nvia = "gateway.toml"', "gateway.toml")


@pytest.mark.parametrize("make, expected", [
    (lambda path: None, "there is no file {path}: create it, or name another with --config or GATEWAY_CONFIG"),
    (lambda path: path.write_bytes(b'via = "\xff"'), "byte 7 is not UTF-8, the encoding of TOML"),
    (lambda path: path.mkdir(), "the file cannot be read: Is a directory"),
    (lambda path: path.symlink_to("/dev/zero"), "the file is larger than 16 MB: is it a configuration?"),
], ids=["missing", "not UTF-8", "a folder", "without end"])
def test_files_that_cannot_be_read(tmp_path, make, expected):
    path = tmp_path / "gateway.toml"
    make(path)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert caught.value.problems == [expected.format(path=path)]
    assert caught.value.source == str(path)


# -- anything at all

scalars = (st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.dates() | st.text()
           | st.sampled_from(["", "/", "/x", "1s", "GET", "a", "${X}", "a:/{b.c}", "*", "http://a", "\x00", "é"]))
junk = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["a", "b", "x y", "", "from"]), inner, max_size=3), max_leaves=6)


def table_like(model):
    names = [field.alias or name for name, field in model.model_fields.items()]
    return st.dictionaries(st.sampled_from([*names, "unknown"]), junk, max_size=6) | junk


anything = st.fixed_dictionaries({}, optional={
    "gateway": table_like(GatewaySettings), "nginx": table_like(Nginx), "cache": table_like(CacheStorage),
    "upstreams": st.dictionaries(st.sampled_from(["a", "b"]), table_like(UpstreamSettings), max_size=2) | junk,
    "routes": st.lists(table_like(Route), max_size=3) | junk})


@given(anything)
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_the_file_becomes_a_configuration_or_sentences(data):
    reader = Reader({})
    config = reader.config(data)
    assert (config is None) == bool(reader.problems)
    assert all(isinstance(problem, str) and ": " in problem for problem in reader.problems)


# -- what is worth knowing

def test_notices():
    config = load_text("""
        [upstreams.a]
        instances = ["http://a"]
        timeout = "20s"
        tls.verify = false
    """, {})
    assert notices(config) == [
        'no route takes everything (path = "/*"): what no route matches is answered 404',
        "gateway.admin is not set: there is no listener for health, readiness and metrics",
        "gateway.trust is empty: X-Forwarded-* is believed from nobody, also not from an nginx in front",
        'upstream "a": no route uses it',
        'upstream "a": certificates are not verified (tls.verify = false)',
        'upstream "a": tls has no effect, no instance is https://',
        'upstream "a": timeout is longer than the deadline of any request',
        "max_connections, connection pools and balancing count in each worker process for itself"]
    quiet = load_text("""
        [gateway]
        admin = "127.0.0.1:9901"
        trust = ["127.0.0.1"]
        views = ["v"]
        [[routes]]
        path = "/*"
        view = true
    """, {})
    assert notices(quiet) == ["the cache for views (from gateway import cache) is kept by each worker process for itself"]


# -- the schema

def test_the_schema_is_one_and_accepts_the_repository_s_file():
    made = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(made)
    jsonschema.validate(tomllib.loads((Path(__file__).parent.parent.parent / "gateway.toml").read_text()), made)


@pytest.mark.parametrize("text, place", [
    ('[gateway]\ntimeut = "1s"', ["gateway"]),
    ('[gateway]\ntimeout = 3', ["gateway", "timeout"]),
    ('[gateway]\ntimeout = "3"', ["gateway", "timeout"]),
    ('[gateway]\nmax_body = -1', ["gateway", "max_body"]),
    ('[upstreams.a]', ["upstreams", "a"]),
    ('[upstreams.a]\ninstances = []', ["upstreams", "a", "instances"]),
    (UP + 'balance = "best"', ["upstreams", "a", "balance"]),
    (UP + 'tls.verify = 1', ["upstreams", "a", "tls", "verify"]),
    (R, ["routes", 0]),
    (R + 'view = true\nupstream = "a"', ["routes", 0]),
    (R + 'view = false', ["routes", 0]),
    (R + 'aggregate = { a = { form = "a:/" } }', ["routes", 0, "aggregate", "a"]),
    (R + 'respond = { status = 99 }', ["routes", 0, "respond", "status"]),
])
def test_the_schema_finds_mistakes_of_single_values(text, place):
    errors = list(jsonschema.Draft202012Validator(schema()).iter_errors(tomllib.loads(text)))
    assert [list(error.absolute_path) for error in errors] == [place]


@pytest.mark.parametrize("text", [
    '[gateway]\ntimeout = "${T:-3s}"\nmax_body = "${M}"', UP + 'tls.verify = "${V}"\nmax_connections = "${N}"', R + 'view = true',
    '[gateway]\nmax_body = 7', '[gateway]\nmax_body = "64mb"', R + 'aggregate = { a = "b:/" }', R + 'upstream = "a"\nview = false',
])
def test_the_schema_accepts_what_can_be_written(text):
    jsonschema.validate(tomllib.loads(text), schema())


def test_every_setting_is_described():
    def undescribed(node, place):
        for name, setting in node.get("properties", {}).items():
            if "$ref" not in setting and "description" not in setting:
                yield f"{place}.{name}"
    made = schema()
    tables = {**made["$defs"], "": made, "Part": made["$defs"]["Part"]["anyOf"][1]}
    assert [name for place, node in tables.items() for name in undescribed(node, place)] == []
    assert made["$defs"]["GatewaySettings"]["properties"]["timeout"]["default"] == "10s"


PAGE = (Path(__file__).parent.parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_example_of_the_documentation_has_no_mistakes():
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    assert [route.path for route in load_text(example, {}).routes] == ["/*", "/api/dashboard/{id:int}", "/old-shop/*"]


def test_the_documentation_lists_every_setting():
    listed = set(re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE))
    made = schema()
    tables = {**made["$defs"], "Part": made["$defs"]["Part"]["anyOf"][1]}
    for name, node in tables.items():
        assert set(node["properties"]) <= listed, name


@pytest.mark.parametrize("cache, said", [
    ("", "stored answers are kept by each worker process for itself: cache.redis, cache.memcached and cache.file are not set"),
    ('memcached = "a:1"', "cache.memcached carries no purges to other machines, and none over a restart; cache.redis does"),
    ('redis = "redis://a"', None), ('file = "/tmp/x"', None)])
def test_notices_about_the_storage_of_the_cache(cache, said):
    text = f'[cache]\n{cache}\n[[routes]]\npath = "/*"\nview = true\ncache = {{}}\n'
    found = [notice for notice in notices(load_text(text, {})) if "cache" in notice or "stored" in notice]
    assert found == ([said] if said else [])


def test_a_notice_about_what_may_be_flasks_notation():
    """It may be text too, which comes percent-encoded; with a converter it is a mistake (test_routing.py)."""
    routes = [{"path": "/u/<id>/<name>.json", "respond": {}}, {"path": "/u/{id}", "respond": {}}]
    assert [notice for notice in notices(Config.model_validate({"routes": routes})) if "did you mean" in notice] == [
        'route "/u/<id>/<name>.json": <...> is taken as text; did you mean /u/{id}/{name}.json?']
