from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from aisle.errors import KeysError
from service.__main__ import check_doors, cli
from service.keys import MAX_KEYS, Key, KeyBook, KeyRing, Scope, read_keys, split_key
from service.settings import Settings

ROOT = Path(__file__).parents[1]
CLASSIFY = [Scope.CLASSIFY]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Ring:
    """A ring, what it said, and the clock it looks at."""

    def __init__(self, file: Path) -> None:
        self.clock = Clock()
        self.said: list[tuple[int, str]] = []
        self.ring = KeyRing(
            file, on_change=lambda count, fault: self.said.append((count, str(fault))), clock=self.clock
        )


# The file.


def test_a_key_is_its_id_and_256_random_bits(file: Path) -> None:
    key, text = KeyBook(file).add("shop", CLASSIFY)
    assert re.fullmatch(r"aisle_[0-9a-f]{12}_[0-9a-f]{64}", text)
    assert text.split("_")[1] == key.id


def test_two_keys_have_nothing_in_common(file: Path) -> None:
    (one, first), (other, second) = (KeyBook(file).add("shop", CLASSIFY) for _ in range(2))
    assert one.id != other.id
    assert first.split("_")[2] != second.split("_")[2]


def test_the_file_holds_the_hash_and_not_the_secret(file: Path) -> None:
    _, text = KeyBook(file).add("shop", [Scope.LABEL, Scope.CLASSIFY], rate=100, expires_s=4e9)
    secret = text.split("_")[2]
    [held] = json.loads(file.read_text())["keys"]
    assert held.pop("created_s") == pytest.approx(time.time(), abs=5)
    assert held == {
        "id": text.split("_")[1],
        "name": "shop",
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "scopes": ["classify", "label"],
        "rate": 100,
        "expires_s": 4e9,
        "revoked_s": None,
    }
    assert secret not in file.read_text()


def test_nobody_else_may_read_the_file(file: Path) -> None:
    KeyBook(file).add("shop", CLASSIFY)
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_written_is_read_again(file: Path) -> None:
    made = [KeyBook(file).add(name, [Scope.ADMIN], rate=0.5)[0] for name in ("a", "b")]
    assert read_keys(file) == made


def test_a_revoked_key_stays_in_the_file_in_its_place(file: Path) -> None:
    book = KeyBook(file)
    first, second = (book.add(name, CLASSIFY)[0] for name in ("a", "b"))
    revoked = book.revoke(first.id)
    assert revoked.state(time.time()) == "revoked"
    assert [key.id for key in book.read()] == [first.id, second.id]


def test_a_key_is_revoked_once(file: Path) -> None:
    book = KeyBook(file)
    key, _ = book.add("a", CLASSIFY)
    assert book.revoke(key.id) == book.revoke(key.id)


def test_a_key_that_is_not_there_cannot_be_revoked(file: Path) -> None:
    with pytest.raises(KeysError, match="key: found no '123456789abc' in .*keys.json, wanted an id that"):
        KeyBook(file).revoke("123456789abc")


@pytest.mark.parametrize(("now_s", "state"), [(99.9, "live"), (100.0, "expired"), (101.0, "expired")])
def test_a_key_ends_with_its_time(file: Path, now_s: float, state: str) -> None:
    key, _ = KeyBook(file).add("a", CLASSIFY, expires_s=100.0)
    assert key.state(now_s) == state


@pytest.mark.parametrize("name", ["", " shop", "shop\n", "a" * 65, 'x"}', "\u202eshop"])
def test_a_name_that_could_forge_a_line_is_refused(file: Path, name: str) -> None:
    with pytest.raises(KeysError, match="wanted 1 to 64 letters"):
        KeyBook(file).add(name, CLASSIFY)


def test_a_file_of_before_may_hold_a_rate_that_is_refused_now(file: Path) -> None:
    KeyBook(file).add("shop", CLASSIFY, rate=0.5)
    file.write_text(file.read_text().replace("0.5", "1e-06"))
    assert [key.rate for key in KeyBook(file).read()] == [1e-6]


@pytest.mark.parametrize("rate", [0, -1, 1e-18, float("nan"), float("inf"), 1e9])
def test_a_rate_is_one_that_a_client_can_live_with(file: Path, rate: float) -> None:
    with pytest.raises(KeysError, match=r"wanted 0\.001 to 999,999,999 products a second"):
        KeyBook(file).add("shop", CLASSIFY, rate=rate)


def test_two_writers_lose_no_key(file: Path) -> None:
    write = """
import sys
from pathlib import Path
from service.keys import KeyBook, Scope
for number in range(20):
    KeyBook(Path(sys.argv[1])).add(f"{sys.argv[2]}{number}", [Scope.CLASSIFY])
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", write, str(file), name], cwd=ROOT) for name in ("a", "b")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert sorted(key.name for key in read_keys(file)) == sorted(f"{x}{i}" for x in "ab" for i in range(20))


def test_what_a_killed_writer_left_is_written_over(file: Path) -> None:
    file.with_name("keys.json.part").write_text("half a f")
    key, _ = KeyBook(file).add("shop", CLASSIFY)
    assert read_keys(file) == [key]


GOOD = Key(id="0" * 12, name="shop", sha256="0" * 64, scopes=frozenset(CLASSIFY), created_s=1.0)


def written(file: Path, **changes: object) -> Path:
    """A file with one key, some of whose fields are others."""
    key = {**dataclasses.asdict(GOOD), "scopes": ["classify"], **changes}
    file.write_text(json.dumps({"version": 1, "keys": [key]}))
    file.chmod(0o600)
    return file


def test_a_file_by_hand_is_read(file: Path) -> None:
    assert read_keys(written(file)) == [GOOD]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "short"},
        {"sha256": "0" * 63},
        {"scopes": []},
        {"scopes": ["root"]},
        {"rate": "10"},
        {"rate": True},
        {"created_s": None},
        {"more": 1},
        {"expires_s": float("nan")},
        {"expires_s": float("inf")},
        {"expires_s": -1},
        {"revoked_s": "no"},
        {"name": "a\nb"},
        {"name": None},
    ],
)
def test_a_key_that_makes_no_sense_damages_the_file(file: Path, changes: dict[str, object]) -> None:
    with pytest.raises(KeysError):
        read_keys(written(file, **changes))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 2, "keys": []}', '{"version": 1}', "\x00", "[" * 100_000]
)
def test_a_damaged_file_is_told(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(KeysError, match=r"keys.json: found (a damaged file|version 2)"):
        read_keys(file)


def test_a_damaged_file_is_not_written_over(file: Path) -> None:
    file.write_text("{")
    file.chmod(0o600)
    with pytest.raises(KeysError):
        KeyBook(file).add("shop", CLASSIFY)
    assert file.read_text() == "{"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(file: Path, mode: int) -> None:
    written(file).chmod(mode)
    with pytest.raises(KeysError, match=f"found mode {mode:04o}, wanted a file that nobody else may write"):
        read_keys(file)


def test_there_is_an_end_to_keys(file: Path) -> None:
    keys = [
        {**dataclasses.asdict(GOOD), "scopes": ["classify"], "id": f"{i:012x}"} for i in range(MAX_KEYS + 1)
    ]
    file.write_text(json.dumps({"version": 1, "keys": keys}))
    file.chmod(0o600)
    with pytest.raises(KeysError, match="found 10,001 keys, wanted at most 10,000"):
        read_keys(file)


@pytest.mark.parametrize(
    "text",
    ["", "aisle__", "aisle_0_0", "AISLE_" + "0" * 12 + "_" + "0" * 64, "aisle_" + "0" * 12 + "_" + "g" * 64],
)
def test_what_has_not_the_shape_of_a_key_is_none(text: str) -> None:
    assert split_key(text) is None


# The ring.


def test_a_ring_finds_keys_by_id_with_their_numbers(file: Path) -> None:
    made = [KeyBook(file).add(name, CLASSIFY)[0] for name in ("a", "b")]
    assert Ring(file).ring.find(made[1].id) == (1, made[1])


def test_a_ring_follows_the_file_after_a_second(file: Path) -> None:
    key, _ = KeyBook(file).add("a", CLASSIFY)
    held = Ring(file)
    KeyBook(file).revoke(key.id)
    held.clock.now += 0.99
    assert held.ring.find(key.id) == (0, key)
    held.clock.now += 0.01
    found = held.ring.find(key.id)
    assert found is not None
    assert found[1].revoked_s is not None


@pytest.mark.parametrize("text", [None, "{"])
def test_a_file_that_is_gone_or_damaged_lets_nobody_in(file: Path, text: str | None) -> None:
    key, _ = KeyBook(file).add("a", CLASSIFY)
    held = Ring(file)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    held.clock.now += 1
    assert held.ring.find(key.id) is None
    assert held.ring.is_damaged == (text is not None)
    assert held.said[0] == (1, "None")
    assert held.said[1][0] == 0
    assert ("damaged" in held.said[1][1]) == (text is not None)


def test_a_damaged_file_is_told_once(file: Path) -> None:
    written(file, id="x")
    held = Ring(file)
    for _ in range(5):
        held.clock.now += 1
        held.ring.find("0" * 12)
    assert len(held.said) == 1


def test_a_mended_file_lets_its_keys_in(file: Path) -> None:
    written(file, id="x")
    held = Ring(file)
    written(file)
    held.clock.now += 1
    assert held.ring.find(GOOD.id) == (0, GOOD)
    assert not held.ring.is_damaged


# The command line.


def run(file: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *words], env={"AISLE_KEYS": str(file)})


def test_the_key_alone_is_on_stdout(file: Path) -> None:
    words = "add prometheus --scope metrics --scope label --rate 100 --expires 90d"
    done = run(file, *words.split())
    assert done.exit_code == 0
    [key] = read_keys(file)
    assert re.fullmatch(rf"aisle_{key.id}_[0-9a-f]{{64}}\n", done.stdout)
    assert (key.name, key.scopes, key.rate) == ("prometheus", {Scope.METRICS, Scope.LABEL}, 100)
    assert key.expires_s == pytest.approx(time.time() + 90 * 86_400, abs=5)


def test_the_list_shows_no_secret_and_no_hash(file: Path) -> None:
    key, text = KeyBook(file).add("shop", CLASSIFY, rate=2.5)
    KeyBook(file).add("old", [Scope.ADMIN], expires_s=1.0)
    KeyBook(file).revoke(key.id)
    shown = run(file, "list").stdout
    first, second = (next(line for line in shown.splitlines() if name in line) for name in ("shop", "old"))
    assert [word for word in ("classify", "2.5", "revoked", "never") if word in first] == [
        "classify",
        "2.5",
        "revoked",
        "never",
    ]
    assert "expired" in second
    assert text.split("_")[2] not in shown
    assert key.sha256 not in shown


def test_a_key_is_revoked_by_its_id(file: Path) -> None:
    key, _ = KeyBook(file).add("shop", CLASSIFY)
    assert run(file, "revoke", key.id).stdout == f"key {key.id} of shop is revoked\n"
    assert read_keys(file)[0].revoked_s is not None


def settings(file: Path) -> Settings:
    return Settings.from_environment({"AISLE_AUTH": "keys", "AISLE_KEYS": str(file)})


def test_serving_without_a_key_is_told_and_goes_on(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_doors(settings(file), "0.0.0.0") == ("0.0.0.0", [])
    assert "nobody gets in: found no key in" in " ".join(capsys.readouterr().out.split())


def test_serving_with_a_key_says_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KeyBook(file).add("shop", CLASSIFY)
    assert check_doors(settings(file), "localhost") == ("127.0.0.1", [])
    assert capsys.readouterr().out == ""


def test_serving_with_a_damaged_file_does_not_start(file: Path) -> None:
    with pytest.raises(typer.BadParameter, match="found a damaged file"):
        check_doors(settings(written(file, id="x")), "0.0.0.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("add shop", "Missing option '--scope'"),
        ("add shop --scope root", "'root' is not one of"),
        ("add shop --scope admin --expires soon", "--expires: found 'soon', wanted a number of d, h, m or s"),
        ("revoke nobody", "key: found no 'nobody'"),
    ],
)
def test_a_wrong_word_is_told(file: Path, words: str, message: str) -> None:
    done = run(file, *words.split())
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
