"""Files with addresses that change with their content, and nothing that is not below the folder."""

from __future__ import annotations

import os

import pytest

from gateway import files as assets
from gateway.app import Gateway
from gateway.config import Config
from gateway.configfile.load import load_text
from gateway.errors import ConfigError, MethodNotAllowed, NoRoute
from gateway.files import IMMUTABLE, Files, Parts
from gateway.message import Request
from tests.waiting import until

CSS = b"body { color: red }"


@pytest.fixture
def folder(tmp_path):
    public = tmp_path / "public"
    (public / "css").mkdir(parents=True)
    (public / "css" / "app.css").write_bytes(CSS)
    (public / "LICENSE").write_bytes(b"MIT")
    (public / "a b\u00e9.tar.gz").write_bytes(b"z")
    (public / ".env").write_bytes(b"SECRET=1")
    (public / ".git").mkdir()
    (public / ".git" / "config").write_bytes(b"x")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "public-too").mkdir()
    (tmp_path / "public-too" / "x.txt").write_bytes(b"secret")
    return public


@pytest.fixture
def files(folder):
    return Files("/static/*", str(folder))


def get(files: Files, path: str, *headers: tuple[str, str], method: str = "GET"):
    return files(Request(method, path, list(headers)))


def test_an_address_with_a_hash_is_for_ever(files):
    url = files.url("css/app.css")
    assert url.startswith("/static/css/app.") and url.endswith(".css") and len(url) == len("/static/css/app..css") + 16
    answer = get(files, url)
    assert (answer.status, answer.body, answer.header("Cache-Control")) == (200, CSS, IMMUTABLE)
    assert answer.header("Content-Type") == "text/css; charset=utf-8" and answer.header("Content-Length") == str(len(CSS))
    assert answer.header("ETag").strip('"') in url


def test_another_content_has_another_address_and_the_old_one_leads_there(files, folder):
    old = files.url("css/app.css")
    (folder / "css" / "app.css").write_bytes(b"body { color: blue }")
    new = files.url("css/app.css")
    assert new != old
    answer = get(files, old)
    assert (answer.status, answer.header("Location"), answer.header("Cache-Control")) == (302, new, "no-cache")
    assert get(files, new).body == b"body { color: blue }"


@pytest.mark.parametrize("name", ["LICENSE", "a b\u00e9.tar.gz", "css/app.css"])
def test_an_address_is_one_that_is_answered(files, folder, name):
    url = files.url(name)
    assert url.isascii() and " " not in url
    assert get(files, url).body == (folder / name).read_bytes() and get(files, url).header("Cache-Control") == IMMUTABLE


def test_without_a_hash_it_is_validated(files):
    answer = get(files, "/static/css/app.css")
    assert (answer.status, answer.body, answer.header("Cache-Control")) == (200, CSS, "no-cache")
    tag, date = answer.header("ETag"), answer.header("Last-Modified")
    for field in (("If-None-Match", tag), ("If-None-Match", f'"x", W/{tag}'), ("If-None-Match", "*"), ("If-Modified-Since", date)):
        again = get(files, "/static/css/app.css", field)
        assert (again.status, again.body, again.header("ETag")) == (304, b"", tag)
    for fields in ([("If-None-Match", '"x"')], [("If-None-Match", '"x"'), ("If-Modified-Since", date)]):
        assert get(files, "/static/css/app.css", *fields).status == 200
    head = get(files, "/static/css/app.css", method="HEAD")
    assert (head.status, head.body, head.header("Content-Length")) == (200, b"", str(len(CSS)))


@pytest.mark.parametrize("path", [
    "", "css", "css/", "nothing.css", "/css/app.css", "css//app.css", "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt",
    "css/../../secret.txt", "css%2fapp.css", "../public-too/x.txt", "..\\secret.txt", "%5c..%5csecret.txt", "css/app.css%00",
    ".env", "%2eenv", ".git/config", "css/./app.css", "%ff", "css/app.css/", "css/app.0123456789abcdef", "link/secret.txt",
    "out.txt", "sibling/x.txt", "pipe", "self"])
def test_what_is_no_file_of_the_folder(files, folder, tmp_path, path):
    (folder / "link").symlink_to(tmp_path)
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "sibling").symlink_to(tmp_path / "public-too")
    (folder / "self").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    with pytest.raises(NoRoute):
        get(files, f"/static/{path}")
    assert files.url(path) is None or path.startswith("%")


def test_links_inside_the_folder_and_to_it(files, folder, tmp_path):
    (folder / "app.css").symlink_to(folder / "css" / "app.css")
    (tmp_path / "current").symlink_to(folder)
    assert get(files, "/static/app.css").body == get(Files("/s/*", str(tmp_path / "current")), "/s/app.css").body == CSS


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(files, method):
    with pytest.raises(MethodNotAllowed):
        get(files, "/static/LICENSE", method=method)


def test_large_files_are_streamed(folder):
    files = Files("/static/*", str(folder), in_memory=1000)
    data = os.urandom(300_000)
    (folder / "large.bin").write_bytes(data)
    answer = get(files, files.url("large.bin"))
    assert isinstance(answer.body, Parts) and answer.header("Content-Length") == "300000"
    assert b"".join(answer.body) == data
    answer.body.close()
    answer.body.close()


def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_what_its_hash_says(folder):
    files = Files("/static/*", str(folder), in_memory=1000)
    (folder / "large.bin").write_bytes(bytes(300_000))
    answer = get(files, "/static/large.bin")
    pieces = iter(answer.body)
    next(pieces)
    (folder / "large.bin").write_bytes(b"x" * 300_000)
    os.utime(folder / "large.bin", (1, 1))
    with pytest.raises(OSError, match="changed"):
        list(pieces)
    answer.body.close()


def test_a_hash_is_taken_once(files, monkeypatch):
    counted = []
    real = assets.File.hash
    monkeypatch.setattr(assets.File, "hash", lambda file: counted.append(1) or real(file))
    for _ in range(5):
        files.url("css/app.css")
        get(files, "/static/css/app.css")
    assert len(counted) == 1


def test_in_views_and_templates(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "assets_views.py").write_text(
        "from flask import Blueprint, render_template_string\nfrom gateway import static_url\n"
        "pages = Blueprint('pages', __name__)\n"
        "pages.get('/a', endpoint='a')(lambda: static_url('css/app.css'))\n"
        "pages.get('/b', endpoint='b')(lambda: render_template_string('{{ static_url(\"css/app.css\") }}'))\n")
    app = Gateway(Config.model_validate({
        "gateway": {"views": ["assets_views"]}, "routes": [{"path": "/static/*", "files": str(folder), "cache": {}}]}))
    client = app.test_client()
    url = client.get("/a").text
    assert url == client.get("/b").text == app.static_url("css/app.css")
    first, second = client.get(url), client.get(url, headers={"Range": "bytes=0-3"})
    assert (first.data, second.status_code, second.data) == (CSS, 206, CSS[:4])
    assert first.headers["Cache-Control"] == second.headers["Cache-Control"] == IMMUTABLE
    with pytest.raises(FileNotFoundError, match="nothing.css"):
        app.static_url("nothing.css")
    app.request_log.stop()
    app.pipeline.close()


@pytest.mark.parametrize("route, mistake", [
    ('path = "/static/{name}"\nfiles = "{folder}"', 'ends with "/*"'), ('path = "/static"\nfiles = "{folder}"', 'ends with "/*"'),
    ('path = "/s/*"\nfiles = "/no/such/folder"', "there is no folder"),
    ('path = "/s/*"\nfiles = "{folder}"\nrespond = {}', "one target")])
def test_mistakes(folder, route, mistake):
    with pytest.raises(ConfigError, match=mistake.replace("*", r"\*")):
        load_text("[[routes]]\n" + route.replace("{folder}", str(folder)), {})


DIGITS = b"0123456789"


@pytest.mark.parametrize("asked, parts", [
    ("bytes=0-0", [(0, 0)]), ("bytes=2-4", [(2, 4)]), ("bytes=7-", [(7, 9)]), ("bytes=-3", [(7, 9)]), ("bytes=-99", [(0, 9)]),
    ("bytes=5-99", [(5, 9)]), ("BYTES=2-4", [(2, 4)]), ("bytes=2-4, 6-7", [(2, 4), (6, 7)]),
    ("bytes=2-4,99-,,6-7", [(2, 4), (6, 7)]),
    ("bytes=0-9", [(0, 9)]), ("bytes=10-", []), ("bytes=99-100", []), ("bytes=-0", []), ("bytes=99-,100-", []),
    ("bytes=0-6,3-9", None),                                         # overlapping: together more than the whole
    ("bytes=" + ",".join(["0-0"] * 33), None), ("bytes=0-,-1", None), ("bytes=4-2", None), ("bytes=-", None), ("bytes=", None),
    ("bytes=a-b", None), ("bytes 0-1", None), ("lines=0-1", None), ("bytes=0-1;2-3", None), ("bytes=" + "1" * 40 + "-", []),
    ("bytes=2-" + "9" * 40, [(2, 9)]), ("bytes=-" + "9" * 900, [(0, 9)]), ("bytes=0-" + "9" * 1000, None),
    ("", None)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ranges(files, folder, asked, parts, method):
    (folder / "digits.txt").write_bytes(DIGITS)
    answer = get(files, "/static/digits.txt", ("Range", asked), method=method)
    kind = answer.header("Content-Type")
    if method == "HEAD" or parts is None:
        assert (answer.status, answer.header("Content-Length")) == (200, "10") and answer.header("Accept-Ranges") == "bytes"
        assert answer.body == (DIGITS if method == "GET" else b"")
    elif not parts:
        assert (answer.status, answer.header("Content-Range"), answer.body) == (416, "bytes */10", b"")
    elif len(parts) == 1:
        (first, last), = parts
        assert (answer.status, answer.body, kind) == (206, DIGITS[first:last + 1], "text/plain; charset=utf-8")
        assert answer.header("Content-Range") == f"bytes {first}-{last}/10"
    else:
        boundary = kind.removeprefix("multipart/byteranges; boundary=")
        expected = "".join(f"\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {first}-{last}/10"
                           f"\r\n\r\n{DIGITS[first:last + 1].decode()}" for first, last in parts) + f"\r\n--{boundary}--\r\n"
        assert answer.status == 206 and answer.body.decode() == expected and not answer.header("Content-Range")
    assert method == "HEAD" or len(answer.body) == int(answer.header("Content-Length"))


@pytest.mark.parametrize("condition, status", [
    (None, 206), ("{tag}", 206), ("W/{tag}", 200), ('"other"', 200), ("{date}", 206), ("Sun, 06 Nov 1994 08:49:37 GMT", 200)])
def test_a_part_only_of_the_version_that_is_meant(files, folder, condition, status):
    (folder / "digits.txt").write_bytes(DIGITS)
    os.utime(folder / "digits.txt", (1_000_000_000, 1_000_000_000))
    now = get(files, "/static/digits.txt")
    fields = [("Range", "bytes=2-4")]
    if condition is not None:
        fields.append(("If-Range", condition.format(tag=now.header("ETag"), date=now.header("Last-Modified"))))
    assert get(files, "/static/digits.txt", *fields).status == status


def test_two_lines_of_range_are_ignored(files, folder):
    (folder / "digits.txt").write_bytes(DIGITS)
    assert get(files, "/static/digits.txt", ("Range", "bytes=2-4"), ("Range", "bytes=2-4")).status == 200


@pytest.mark.parametrize("now, status", [(999.0, 200), (1000.9, 200), (1001.0, 206), (2000.0, 206)])
def test_a_date_within_the_second_of_the_change_tells_no_version_apart(folder, now, status):
    (folder / "digits.txt").write_bytes(DIGITS)
    os.utime(folder / "digits.txt", (1000, 1000))
    files = Files("/static/*", str(folder), now=lambda: now)
    date = get(files, "/static/digits.txt").header("Last-Modified")
    assert get(files, "/static/digits.txt", ("Range", "bytes=2-4"), ("If-Range", date)).status == status


def test_a_part_of_an_empty_file_is_none(files, folder):
    (folder / "empty.txt").write_bytes(b"")
    assert get(files, "/static/empty.txt", ("Range", "bytes=0-")).status == 416
    assert get(files, "/static/empty.txt").body == b""


def test_a_large_part_is_streamed(files, folder):
    content = os.urandom(3_000_000)
    (folder / "large").write_bytes(content)
    answer = get(files, "/static/large", ("Range", "bytes=100-2900000"))
    assert not isinstance(answer.body, bytes) and b"".join(answer.body) == content[100:2_900_001]
    answer.body.close()


def test_a_packed_picture_is_a_picture_that_was_encoded(files, folder):
    (folder / "logo.svgz").write_bytes(b"packed")
    answer = get(files, "/static/logo.svgz")
    assert (answer.header("Content-Type"), answer.header("Content-Encoding")) == ("image/svg+xml", "gzip")


# -- Files that are compressed beside others

BR, ZSTD, GZIP = b"brotli", b"zstandard", b"gzipped"


@pytest.fixture
def coded(folder):
    for suffix, data in ((".br", BR), (".zst", ZSTD), (".gz", GZIP)):
        (folder / "css" / f"app.css{suffix}").write_bytes(data)
    return folder


@pytest.mark.parametrize("accept, coding", [
    (None, ""), ("", ""), ("identity", ""), ("deflate", ""), ("gzip", "gzip"), ("x-gzip", "gzip"), ("GZIP", "gzip"),
    ("gzip, deflate, br, zstd", "br"), ("gzip, zstd", "zstd"), ("br;q=0.5, gzip;q=0.8", "gzip"), ("br;q=0, gzip", "gzip"),
    ("*", "br"), ("*;q=0", ""), ("gzip;q=0, *", "br"), ("gzip;q=0.5, identity;q=0.9", ""), ("gzip, identity;q=0.9", "gzip"),
    ("identity;q=0, gzip", "gzip"), ("gzip;q=x", ""), ("br;q=0,zstd;q=0,gzip;q=0", ""),
])
def test_who_gets_which_coding(files, coded, accept, coding):
    answer = get(files, "/static/css/app.css", *([("Accept-Encoding", accept)] if accept is not None else []))
    assert answer.body == {"br": BR, "zstd": ZSTD, "gzip": GZIP, "": CSS}[coding]
    assert (answer.status, answer.header("Content-Encoding"), answer.header("Vary")) == (200, coding, "Accept-Encoding")
    assert answer.header("Content-Type") == "text/css; charset=utf-8"
    assert answer.header("Content-Length") == str(len(answer.body))


def test_each_coding_is_a_representation_of_its_own(files, coded):
    plain, packed = (get(files, "/static/css/app.css", ("Accept-Encoding", name)) for name in ("identity", "gzip"))
    assert plain.header("ETag") != packed.header("ETag")
    again = get(files, "/static/css/app.css", ("Accept-Encoding", "gzip"), ("If-None-Match", packed.header("ETag")))
    assert (again.status, again.header("Vary")) == (304, "Accept-Encoding")
    assert get(files, "/static/css/app.css", ("Accept-Encoding", "gzip"), ("If-None-Match", plain.header("ETag"))).status == 200
    part = get(files, "/static/css/app.css", ("Accept-Encoding", "gzip"), ("Range", "bytes=0-3"))
    assert (part.status, part.body, part.header("Content-Range")) == (206, GZIP[:4], f"bytes 0-3/{len(GZIP)}")
    head = get(files, "/static/css/app.css", ("Accept-Encoding", "gzip"), method="HEAD")
    assert (head.body, head.header("Content-Length"), head.header("Content-Encoding")) == (b"", str(len(GZIP)), "gzip")


def test_an_address_has_the_hash_of_the_file_itself(files, coded):
    url = files.url("css/app.css")
    packed = get(files, url, ("Accept-Encoding", "br"))
    assert (packed.status, packed.body, packed.header("Cache-Control")) == (200, BR, IMMUTABLE)
    assert get(files, url).header("ETag").strip('"') in url


def test_one_that_is_older_or_no_file_or_leads_out_is_not_sent(files, folder, tmp_path):
    css = folder / "css"
    (css / "app.css.br").write_bytes(BR)
    os.utime(css / "app.css.br", (1, 1))
    (css / "app.css.zst").mkdir()
    (css / "app.css.gz").symlink_to(tmp_path / "secret.txt")
    answer = get(files, "/static/css/app.css", ("Accept-Encoding", "br, zstd, gzip"))
    assert (answer.body, answer.header("Content-Encoding"), answer.header("Vary")) == (CSS, "", "")


def test_a_packed_file_that_is_asked_for_itself_is_what_it_is(files, coded):
    answer = get(files, "/static/css/app.css.gz", ("Accept-Encoding", "gzip"))
    assert (answer.body, answer.header("Content-Type"), answer.header("Content-Encoding")) == (GZIP, "application/octet-stream", "")


def open_below(folder):
    """The files of the folder that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:                        # closed meanwhile, as is that of the listing itself
            continue
    return [path for path in found if path.startswith(str(folder))]


def test_no_descriptor_is_left_open(files, coded):
    """Closed is each once the loop has polled: gevent's close waits for that."""
    for accept in ("br", "identity", "gzip"):
        get(files, "/static/css/app.css", ("Accept-Encoding", accept))
        get(files, "/static/css/app.css", ("Accept-Encoding", accept), ("If-None-Match", "*"))
        files.url("css/app.css")
    until(lambda: not open_below(coded))
