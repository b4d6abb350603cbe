"""What the page may ask for, what it may not, and what becomes of uploads that go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serve_fakes import OURS, Client, MakeClient, Scripted, files_in


def test_the_page_and_its_parts_are_sent(client: Client) -> None:
    kinds = {
        "/": "text/html; charset=utf-8",
        "/serve.js": "text/javascript; charset=utf-8",
        "/serve.css": "text/css; charset=utf-8",
        "/page.css": "text/css; charset=utf-8",
        "/icon.svg": "image/svg+xml",
    }
    for path, kind in kinds.items():
        answer = client.ask("GET", path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert len(answer.content) > 100


def test_the_page_holds_no_script_or_style_of_its_own(client: Client) -> None:
    page = client.ask("GET", "/").text
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count('<script src="/serve.js" defer></script>') == 1


def test_the_page_learns_the_limits(make_client: MakeClient) -> None:
    told = make_client(max_upload_bytes=10, max_files=3, keep_s=60.0).ask("GET", "/api/info").json()
    assert (told["max_upload_bytes"], told["max_files"], told["keep_s"]) == (10, 3, 60.0)
    assert told["classes"] == ["liver lesion"]


def test_a_result_is_sent_as_a_file_and_the_page_is_shown(client: Client) -> None:
    job_id = client.submit()
    client.wait_for(job_id, "done")
    base = f"/api/jobs/{job_id}/results"
    mask = client.ask("GET", f"{base}/scan.nii.gz")
    assert (mask.content, mask.headers["content-disposition"]) == (b"mask", "attachment")
    assert mask.headers["content-type"] == "application/octet-stream"
    page = client.ask("GET", f"{base}/scan.html")
    assert page.headers["content-disposition"] == "inline"
    assert "sandbox allow-scripts" in page.headers["content-security-policy"]
    assert "allow-same-origin" not in page.headers["content-security-policy"]
    kept = client.ask("GET", f"{base}/scan.html?download")
    assert kept.headers["content-disposition"] == "attachment"


SNEAKY = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "scan.nii.gz%00.html",
    "%00",
    "..%5c..%5cscan.nii.gz",
    "SCAN.NII.GZ",
    ".lock",
    "",
    ".",
    "a" * 4000,
)


@pytest.mark.parametrize("name", SNEAKY)
def test_no_address_leads_out_of_the_listed_results(name: str, client: Client) -> None:
    job_id = client.submit()
    client.wait_for(job_id, "done")
    for base in (f"/api/jobs/{job_id}/results/", "/api/jobs/", "/", "/static/"):
        answer = client.ask("GET", base + name)
        # "/." is the page itself and "/api/jobs/." asks for a list, which is not to be had.
        assert answer.status_code in (404, 405) or (base == "/" and name in ("", "."))
        assert b"root:" not in answer.content


@pytest.mark.parametrize("number", ["..%2f0", "-1", "1", "0.nii", "%00", "9" * 4300, "0%2f..%2fx"])
def test_files_are_sent_by_announced_numbers_alone(
    number: str, client: Client, folder: Path
) -> None:
    job_id = client.create()
    path = f"/api/jobs/{job_id}/files/{number}?suffix=.nii.gz"
    assert client.ask("PUT", path, content=b"x").status_code == 404
    assert files_in(folder) == []


@pytest.mark.parametrize("suffix", ["/../../x.nii", ".sh", ".nii.gz%00", "%2e%2e%2f"])
def test_no_ending_but_the_known_ones_is_taken(suffix: str, client: Client, folder: Path) -> None:
    job_id = client.create()
    path = f"/api/jobs/{job_id}/files/0?suffix={suffix}"
    assert client.ask("PUT", path, content=b"x").status_code == 404
    assert files_in(folder) == []


def test_what_is_said_to_be_too_large_is_refused_before_a_byte_comes(
    make_client: MakeClient, folder: Path
) -> None:
    client = make_client(max_upload_bytes=1_000_000)
    answer = client.ask("POST", "/api/jobs?files=1&bytes=1000001")
    assert answer.status_code == 413
    assert answer.json()["error"] == "The scan is larger than 1 MB, the limit."
    job_id = client.create(total=1)
    claimed = {"content-length": "1000001"}
    path = f"/api/jobs/{job_id}/files/0?suffix=.nii"
    assert client.ask("PUT", path, content=b"x", headers=claimed).status_code == 413
    assert files_in(folder) == []


def test_what_is_larger_than_said_is_counted_and_removed(
    make_client: MakeClient, folder: Path
) -> None:
    client = make_client(max_upload_bytes=100)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 30

    job_id = client.create(total=1)
    path = f"/api/jobs/{job_id}/files/0?suffix=.nii"
    assert client.ask("PUT", path, content=endless()).status_code == 413
    assert client.status(job_id)["error"] == "The scan is larger than 0.0001 MB, the limit."
    assert list(folder.iterdir()) == []


def test_the_limit_holds_for_all_files_of_a_scan_together(make_client: MakeClient) -> None:
    client = make_client(max_upload_bytes=100)
    job_id = client.create(files=2)
    assert client.put(job_id, b"x" * 60).status_code == 204
    assert client.put(job_id, b"x" * 60, number=1).status_code == 413
    assert client.status(job_id)["state"] == "failed"


def test_more_files_than_a_scan_may_have_are_refused(make_client: MakeClient) -> None:
    client = make_client(max_files=3)
    assert client.ask("POST", "/api/jobs?files=4").status_code == 413
    assert client.ask("POST", "/api/jobs?files=3").status_code == 201


@pytest.mark.parametrize("query", ["", "?files=0", "?files=-1", "?files=x", "?files=1&bytes=1e3"])
def test_a_scan_without_a_sound_number_of_files_is_refused(query: str, client: Client) -> None:
    assert client.ask("POST", f"/api/jobs{query}").status_code == 400


def test_a_disk_without_room_is_told_before_the_upload(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert client.ask("POST", "/api/jobs?files=1&bytes=10").status_code == 507


def test_room_that_other_uploads_were_promised_is_not_promised_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, room = 1 << 28, 1000
    usage = type("Usage", (), {"free": reserve + room})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    first = client.create(total=700)
    assert client.ask("POST", "/api/jobs?files=1&bytes=400").status_code == 507
    assert client.ask("DELETE", f"/api/jobs/{first}").status_code == 204
    assert client.ask("POST", "/api/jobs?files=1&bytes=400").status_code == 201


def test_an_upload_that_stalls_is_given_up(make_client: MakeClient, folder: Path) -> None:
    client = make_client(idle_s=0.05)

    async def stalling() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    job_id = client.create()
    path = f"/api/jobs/{job_id}/files/0?suffix=.nii"
    assert client.ask("PUT", path, content=stalling()).status_code == 408
    assert client.status(job_id)["error"] == "No data came for 0.05 seconds."
    assert list(folder.iterdir()) == []


def test_a_browser_that_goes_away_takes_its_scan_with_it(client: Client, folder: Path) -> None:
    job_id = client.create()
    messages = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(_: object) -> None:
        """Nobody listens."""

    scope = {
        "type": "http",
        "method": "PUT",
        "path": f"/api/jobs/{job_id}/files/0",
        "query_string": b"suffix=.nii",
        "headers": [(b"host", b"localhost"), (b"x-samcancer", b"1")],
    }
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert client.ask("GET", f"/api/jobs/{job_id}").status_code == 404
    assert list(folder.iterdir()) == []


def test_a_scan_begins_only_with_all_its_files(client: Client, segment: Scripted) -> None:
    job_id = client.create(files=2)
    client.put(job_id, b"one")
    answer = client.ask("POST", f"/api/jobs/{job_id}/start")
    assert (answer.status_code, answer.json()["error"]) == (
        409,
        "1 files of this scan have not arrived.",
    )
    client.put(job_id, b"two", number=1)
    assert client.ask("POST", f"/api/jobs/{job_id}/start").status_code == 202
    client.wait_for(job_id, "done")
    assert [content for _, content in segment.seen[0]] == [b"one", b"two"]


def test_a_file_is_taken_once_and_none_after_the_start(client: Client) -> None:
    job_id = client.create(files=1)
    assert client.put(job_id).status_code == 204
    assert client.put(job_id).status_code == 409
    assert client.status(job_id)["state"] == "failed"
    started = client.submit()
    assert client.put(started).status_code == 409
    assert client.ask("POST", f"/api/jobs/{started}/start").status_code == 409


def test_an_unknown_scan_is_not_found_by_any_request(client: Client) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/start"),
        ("PUT", "/files/0?suffix=.nii"),
        ("GET", "/results/scan.nii.gz"),
    ):
        assert client.ask(method, "/api/jobs/" + "0" * 32 + path).status_code == 404


def test_scans_are_never_listed(client: Client) -> None:
    client.create()
    assert client.ask("GET", "/api/jobs").status_code == 405


HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "SAMEORIGIN",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.mark.parametrize("path", ["/", "/serve.js", "/api/info", "/absent", "/api/jobs/x"])
def test_every_answer_has_its_protecting_headers(path: str, client: Client) -> None:
    answer = client.ask("GET", path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost", "localhost:9000", "LOCALHOST:1", "[::1]:8000", "127.0.0.2"],
)
def test_names_of_this_machine_are_answered_at_any_port(host: str, client: Client) -> None:
    assert client.ask("GET", "/api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "192.168.1.7:8000", "127.0.0.1.evil.example", "",
     "[::1", "evil@localhost.example"],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(host: str, client: Client) -> None:
    assert client.ask("GET", "/api/info", headers={"host": host}).status_code == 421


def test_a_server_on_a_network_takes_any_address_and_the_names_it_was_given(
    make_client: MakeClient,
) -> None:
    client = make_client(host="0.0.0.0", token="t" * 16, names=("ct.hospital.example",))
    shown = {"authorization": "Bearer " + "t" * 16}
    for host, status in {
        "192.168.1.7:8000": 200,
        "CT.hospital.example": 200,
        "evil.example": 421,
    }.items():
        assert client.ask("GET", "/api/info", headers={"host": host, **shown}).status_code == status


FOREIGN = {
    "no header of ours": {"x-samcancer": ""},
    "origin elsewhere": {**OURS, "origin": "https://evil.example"},
    "origin at another port": {**OURS, "origin": "http://127.0.0.1:9999"},
    "no origin at all": {**OURS, "origin": "null"},
    "origin that is none": {**OURS, "origin": "http://[::1"},
    "origin with our name in it": {**OURS, "origin": "http://127.0.0.1:8000.evil.example"},
    "our name before another": {**OURS, "origin": "http://127.0.0.1:8000@evil.example"},
    "browser says cross-site": {**OURS, "sec-fetch-site": "cross-site"},
    "browser says same-site": {**OURS, "sec-fetch-site": "same-site"},
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_pages_cannot_change_anything(
    kind: str, method: str, client: Client, folder: Path
) -> None:
    answer = client.ask(method, "/api/jobs?files=1", headers=FOREIGN[kind])
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert list(folder.iterdir()) == []


def test_our_own_page_can(client: Client) -> None:
    headers = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.ask("POST", "/api/jobs?files=1", headers=headers).status_code == 201


TOKEN = "correct-horse-battery"


def test_with_a_token_nothing_is_answered_without_it(make_client: MakeClient) -> None:
    client = make_client(token=TOKEN)
    for method, path in (("GET", "/"), ("GET", "/serve.js"), ("POST", "/api/jobs?files=1")):
        assert client.ask(method, path).status_code == 401
    for wrong in (f"/?token={TOKEN}x", "/?token=", f"/api/info?token={TOKEN}"):
        assert client.ask("GET", wrong).status_code == 401
    wrong_header = {"authorization": f"Bearer {TOKEN}x"}
    assert client.ask("GET", "/", headers=wrong_header).status_code == 401


def test_the_address_with_the_token_is_exchanged_for_a_cookie(make_client: MakeClient) -> None:
    client = make_client(token=TOKEN)
    welcome = client.ask("GET", f"/?token={TOKEN}")
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    shown = {"cookie": cookie.split(";")[0]}
    assert client.ask("GET", "/", headers=shown).status_code == 200
    assert client.ask("POST", "/api/jobs?files=1", headers=shown).status_code == 201
    forged = {"cookie": cookie.split("=")[0] + "=0"}
    assert client.ask("GET", "/", headers=forged).status_code == 401


def test_a_cookie_opens_the_door_of_its_own_server_alone(make_client: MakeClient) -> None:
    one, other = make_client(token=TOKEN), make_client(token=TOKEN[::-1])
    cookie = one.ask("GET", f"/?token={TOKEN}").headers["set-cookie"].split(";")[0]
    assert other.ask("GET", "/", headers={"cookie": cookie}).status_code == 401
