"""`harness data` and `harness weights`: what is fetched is whole, or not there."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness import downloads
from harness.cli.app import app

URL = "http://files.invalid"


class Server(ThreadingHTTPServer):
    """Serve the files of a dictionary; `cut` ends an answer after so many bytes, once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.removeprefix("/"))
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if wanted and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])
        self.server.cut = None

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


CELLS = {"cells-1/a.txt": b"a" * 50_000, "cells-1/deep/b.txt": b"b", "readme": b"not kept"}
SUMS = "".join(
    f"{hashlib.sha256(CELLS[f'cells-1/{name}']).hexdigest()}  cells/{name}\n"
    for name in ("a.txt", "deep/b.txt")
)


@pytest.fixture
def catalogue(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """Write a catalogue with an archive and a single file, and return the entries to change."""
    server.files = {"cells.tar.gz": tar(CELLS), "net.pth": b"weights"}
    base = f"http://127.0.0.1:{server.server_port}"
    entry = {"licence": "MIT", "source": URL, "megabytes": 0.1}
    cells = {"files": [{"url": f"{base}/cells.tar.gz"}], "unpack": {"cells-1": "cells"}}
    net = {"url": f"{base}/net.pth", "to": "net.pth"}
    net["checksum"] = f"sha256:{hashlib.sha256(b'weights').hexdigest()[:8]}"
    contents = hashlib.sha256(SUMS.encode()).hexdigest()
    entries = {
        "cells": {**entry, **cells, "contents": contents},
        "net": {**entry, "files": [net]},
    }
    path = tmp_path / "downloads.yaml"
    monkeypatch.setattr(downloads, "CATALOGUE", path)

    class Written(dict):  # type: ignore[type-arg]
        def write(self) -> None:
            path.write_text(yaml.safe_dump({"data": dict(self), "weights": {}}))

    written = Written(entries)
    written.write()
    return written


def harness(*arguments: str, root: Path) -> tuple[int, str]:
    """Return exit code and output of `harness data`."""
    result = CliRunner().invoke(app, ["data", *arguments, "--root", str(root)])
    return result.exit_code, result.output


def test_an_archive_is_unpacked_where_the_data_set_looks_for_it(catalogue: dict, tmp_path: Path) -> None:
    root = tmp_path / "data"
    code, output = harness("fetch", "cells", root=root)
    assert code == 0, output
    assert "2 files as published" in output
    assert "licence" not in output
    assert "MIT" in output
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert files == ["cells.sha256", "cells/a.txt", "cells/deep/b.txt"]  # nothing temporary, no readme
    subprocess.run(["sha256sum", "--check", "--strict", "cells.sha256"], cwd=root, check=True)


def test_what_is_there_is_not_downloaded_again(catalogue: dict, server: Server, tmp_path: Path) -> None:
    harness("fetch", "cells", root=tmp_path)
    server.files.clear()
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "as published" in output) == (0, True)


def test_an_interrupted_download_continues(catalogue: dict, server: Server, tmp_path: Path) -> None:
    server.cut = 100
    code, output = harness("fetch", "cells", root=tmp_path)
    assert code == 3
    assert "100 of" in output
    assert "continues" in output
    assert harness("check", "cells", root=tmp_path)[0] == 2  # absent
    assert harness("fetch", "cells", root=tmp_path)[0] == 0
    assert server.ranges == [None, "bytes=100-"]


def test_a_part_that_was_complete_is_used(catalogue: dict, server: Server, tmp_path: Path) -> None:
    part = tmp_path / ".cells.part" / "0-cells.tar.gz"
    part.parent.mkdir()
    part.write_bytes(server.files["cells.tar.gz"])
    assert harness("fetch", "cells", root=tmp_path)[0] == 0
    assert server.ranges == [f"bytes={len(server.files['cells.tar.gz'])}-"]


def test_without_any_checksum_a_download_starts_again(
    catalogue: dict, server: Server, tmp_path: Path
) -> None:
    del catalogue["cells"]["contents"]
    catalogue.write()
    server.cut = 100
    assert harness("fetch", "cells", root=tmp_path)[0] == 3
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "as fetched" in output) == (0, True)  # not "as published"
    assert server.ranges == [None, None]


def test_a_wrong_file_is_removed_and_fetched_anew(catalogue: dict, server: Server, tmp_path: Path) -> None:
    server.files["net.pth"] = b"another"
    code, output = harness("fetch", "net", root=tmp_path)
    assert code == 3
    assert "differs from its published checksum" in output
    server.files["net.pth"] = b"weights"
    assert harness("fetch", "net", root=tmp_path)[0] == 0
    assert (tmp_path / "net.pth").read_bytes() == b"weights"


def test_wrong_contents_of_an_archive_are_not_installed(
    catalogue: dict, server: Server, tmp_path: Path
) -> None:
    server.files["cells.tar.gz"] = tar({"cells-1/a.txt": b"other"})
    code, output = harness("fetch", "cells", root=tmp_path)
    assert code == 3
    assert "differ from the published ones" in output
    assert not (tmp_path / "cells").exists()
    assert harness("check", "cells", root=tmp_path)[0] == 2


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "cells-1/../../outside"])
@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_no_member_leaves_the_folder(
    catalogue: dict, server: Server, tmp_path: Path, name: str, kind: str
) -> None:
    root = tmp_path / "a" / "data"
    make = tar if kind == "tar.gz" else zipped
    server.files[f"evil.{kind}"] = make({**CELLS, name.replace("/tmp", str(tmp_path)): b"evil"})
    catalogue["cells"]["files"][0]["url"] = catalogue["net"]["files"][0]["url"].replace(
        "net.pth", f"evil.{kind}"
    )
    catalogue.write()
    code, _ = harness("fetch", "cells", root=root)
    assert not list(tmp_path.rglob("outside"))
    assert code == (0 if kind == "zip" or name.startswith("/") else 3)


def test_a_link_in_an_archive_cannot_pass_for_a_file(catalogue: dict, server: Server, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        link = tarfile.TarInfo("cells-1/a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    server.files["cells.tar.gz"] = stream.getvalue()
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "safe archive" in output) == (3, True)
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", tar(CELLS)[:-200]], ids=["empty", "page", "truncated"]
)
def test_a_damaged_archive_is_removed(
    catalogue: dict, server: Server, tmp_path: Path, content: bytes
) -> None:
    server.files["cells.tar.gz"] = content
    code, output = harness("fetch", "cells", root=tmp_path)
    assert code == 3
    assert output.count("error:") == 1
    server.files["cells.tar.gz"] = tar(CELLS)
    assert harness("fetch", "cells", root=tmp_path)[0] == 0


def test_a_server_that_lacks_the_file_or_is_gone(catalogue: dict, server: Server, tmp_path: Path) -> None:
    server.files.clear()
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "404" in output) == (3, True)
    catalogue["cells"]["files"][0]["url"] = "http://127.0.0.1:9/cells.tar.gz"
    catalogue.write()
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "refused" in output) == (3, True)


def encrypted() -> bytes:
    """Return a zip archive whose members say that they are encrypted (bit 0 of the flags)."""
    content = bytearray(zipped(CELLS))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 1)
    return bytes(content)


def member(name: str, kind: bytes, target: str = "", content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


BAD_ARCHIVES = {
    "encrypted.zip": encrypted(),
    "name-that-is-no-text.tar.gz": tar_of(member("cells-1/\udcff", tarfile.REGTYPE, content=b"x")),
    "file-and-folder.tar.gz": tar_of(
        member("cells-1", tarfile.REGTYPE, content=b"x"),
        member("cells-1/a", tarfile.REGTYPE, content=b"x"),
    ),
    "target-is-a-link.tar.gz": tar_of(
        member("other/a", tarfile.REGTYPE, content=b"x"), member("cells-1", tarfile.SYMTYPE, "other")
    ),
    "wrong-sum.tar.gz": tar(CELLS)[:-8] + b"\0\0\0\0" + tar(CELLS)[-4:],
    "cut-sum.tar.gz": tar(CELLS)[:-4],
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive_is_the_servers_fault_and_is_removed(
    catalogue: dict, server: Server, tmp_path: Path, name: str
) -> None:
    del catalogue["cells"]["contents"]  # nothing but the archive itself shows that it is bad
    base = catalogue["net"]["files"][0]["url"].removesuffix("net.pth")
    catalogue["cells"]["files"][0]["url"] = base + name
    catalogue.write()
    server.files[name] = BAD_ARCHIVES[name]
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "not a whole, safe archive" in output) == (3, True), output
    assert not (tmp_path / "cells").exists() and not (tmp_path / ".cells.part").exists()


def test_links_of_an_archive_are_not_written(catalogue: dict, server: Server, tmp_path: Path) -> None:
    del catalogue["cells"]["contents"]
    catalogue.write()
    server.files["cells.tar.gz"] = tar_of(
        member("cells-1/a", tarfile.REGTYPE, content=b"x"),
        member("cells-1/soft", tarfile.SYMTYPE, "a"),
        member("cells-1/hard", tarfile.LNKTYPE, "cells-1/a"),
    )
    assert harness("fetch", "cells", root=tmp_path)[0] == 0
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["a"]


def test_a_fetch_that_was_killed_between_two_renames_is_completed(
    catalogue: dict, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = catalogue["net"]["files"][0]
    catalogue["net"]["files"] = [{**file, "to": name} for name in ("one.pth", "two.pth")]
    catalogue.write()
    move = downloads._move

    def killed_at_the_second(source: Path, target: Path) -> None:
        if target == tmp_path / "two.pth":
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(downloads, "_move", killed_at_the_second)
        harness("fetch", "net", root=tmp_path)
    assert (tmp_path / "one.pth").exists() and not (tmp_path / "two.pth").exists()
    requests = len(server.ranges)
    code, output = harness("fetch", "net", root=tmp_path)
    assert (code, "whole" in output) == (0, True), output
    assert len(server.ranges) == requests
    assert not (tmp_path / ".net.part").exists()


def test_two_fetches_of_one_name_take_turns(catalogue: dict, server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWICE, str(downloads.CATALOGUE), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["whole", "whole"]
    assert len(server.ranges) == 1


TWICE = """
import sys
from pathlib import Path
from harness import downloads
downloads.CATALOGUE = Path(sys.argv[1])
(download,) = downloads.read_catalogue("data", ["cells"]).values()
print(downloads.fetch("cells", download, Path(sys.argv[2]), lambda **_: None).status)
"""


def test_a_part_that_is_longer_than_the_file_starts_again(
    catalogue: dict, server: Server, tmp_path: Path
) -> None:
    part = tmp_path / ".cells.part" / "0-cells.tar.gz"
    part.parent.mkdir()
    part.write_bytes(b"x" * (len(server.files["cells.tar.gz"]) + 1))
    assert harness("fetch", "cells", root=tmp_path)[0] == 3
    assert harness("fetch", "cells", root=tmp_path)[0] == 0


def test_states_and_catalogue_are_printed_as_json(catalogue: dict, tmp_path: Path) -> None:
    harness("fetch", "cells", root=tmp_path)
    code, output = harness("check", "--json", root=tmp_path)
    assert (code, json.loads(output)["cells"]["status"]) == (0, "whole")
    listed = json.loads(CliRunner().invoke(app, ["data", "list", "--json"]).output)
    assert listed["cells"]["licence"] == "MIT"


def test_check_names_what_is_damaged(catalogue: dict, tmp_path: Path) -> None:
    harness("fetch", "cells", root=tmp_path)
    (tmp_path / "cells/deep/b.txt").write_bytes(b"c")
    code, output = harness("check", root=tmp_path)
    assert code == 2
    assert "cells\tdamaged\tmissing or changed: cells/deep/b.txt (1 in all)" in output
    code, output = harness("fetch", "cells", root=tmp_path)
    assert (code, "remove it" in output) == (2, True)  # nothing of the user's is overwritten
    assert (tmp_path / "cells/deep/b.txt").read_bytes() == b"c"


def test_files_of_another_tool_are_recognised(catalogue: dict, tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.txt", ".DS_Store"):
        path = tmp_path / "cells" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CELLS.get(f"cells-1/{name}", b""))
    assert "cells\twhole\t2 files as published" in harness("check", root=tmp_path)[1]
    (tmp_path / "cells/a.txt").write_bytes(b"re-encoded")
    code, output = harness("check", root=tmp_path)
    assert (code, "cells\tnot verified\t2 files, which differ" in output) == (0, True)


def test_an_unknown_name_and_no_folder(
    catalogue: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = harness("fetch", "cels", root=tmp_path)
    assert (code, "did you mean 'cells'?" in output) == (2, True)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    result = CliRunner().invoke(app, ["data", "check"])
    assert (result.exit_code, "HARNESS_DATA" in result.output) == (2, True)


def test_a_folder_that_cannot_be_written(catalogue: dict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = harness("fetch", "cells", root=tmp_path / "file")
    assert (code, "cannot be written" in output) == (2, True)


def test_the_catalogue_that_ships_is_valid() -> None:
    data, weights = downloads.read_catalogue("data"), downloads.read_catalogue("weights")
    assert set(data) >= {"multi30k", "bccd", "camvid", "voc2007", "voc2012", "coco2017-val"}
    for download in [*data.values(), *weights.values()]:
        assert all(file.checksum or download.contents for file in download.files)
        assert any(file.to is None for file in download.files) == bool(download.unpack)
        assert not any(".." in path or path.startswith("/") for path in download.paths)
    for download in weights.values():  # torchvision's names end with the digits of the checksum
        digits = download.paths[0].removesuffix(".pth").rpartition("-")[2]
        assert download.files[0].checksum == f"sha256:{digits}"


def test_weights_are_checked_by_the_digits_in_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    result = CliRunner().invoke(app, ["weights", "check"])
    assert (result.exit_code, result.output.count("absent")) == (0, len(downloads.read_catalogue("weights")))
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"another network")
    result = CliRunner().invoke(app, ["weights", "check", "resnet50"])
    assert (result.exit_code, "damaged" in result.output) == (2, True)
