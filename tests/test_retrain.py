"""The retrainer: when a round is due, what it does, and what the ledger remembers, killed or not.

Training is a small program with the training command's two doors, `fit` and `answers`; the last test runs
the real one.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT
from market import MODEL as CHAMPION
from market import Market

from aisle.bundle import Bundle
from aisle.errors import AisleError, SettingError
from aisle.ledger import Label, Ledger
from monitoring.retrain import FINISHED, STARTED, Retrainer, is_alive
from monitoring.settings import Settings

CHALLENGER = "aisle-classifier:challenger"

# Its plan (plan.json beside it): the challenger's gain on fresh products, its loss on the test split (both in
# products of 200), how `fit` ends, how long it takes.
TRAINING = """
import json, sys, time
from pathlib import Path
import pandas as pd
here = Path(__file__).parent
plan = json.loads((here / "plan.json").read_text())
words = sys.argv[1:]
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
option = {name: words[words.index(name) + 1] for name in words if name.startswith("--")}
if words[0] == "fit":
    (here / "began").write_text(str(__import__("os").getpid()))
    time.sleep(plan["seconds"])
    if plan["fails"]:
        sys.exit("first line\\nerror: the catalogue is on fire")
    facts = {"labels_used": 7, "labels_held_out": 3, "labels_without_vectors": 1}
    Path(option["--report"]).write_text(json.dumps({"tag": plan["tag"], **facts}))
else:
    better = words[1] == plan["tag"]
    wrong = {"fresh": 60 - better * plan["gain"], "frozen": 4 + better * plan["loss"]}
    rows = [
        {"set": name, "product_id": f"{name}-{i}", "label": "10", "confidence": 0.9,
         "answer": "10" if i >= wrong[name] else "40", "correct": i >= wrong[name]}
        for name in wrong for i in range(200)
    ]
    pd.DataFrame(rows).to_parquet(option["--out"])
"""


class Shop:
    """A ledger with a champion, a training program with a plan, and a retrainer of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
        self.ledger.create_tables()
        self.ledger.deploy(CHAMPION, "at first")
        (folder / "training.py").write_text(TRAINING)
        (folder / "catalogue").mkdir()
        self.plan()

    def plan(self, **changes: Any) -> None:
        plan = {"tag": CHALLENGER, "gain": 40, "loss": 0, "fails": False, "seconds": 0, **changes}
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def retrainer(self, bundle: Bundle | None = None, **environ: str) -> Retrainer:
        settings = Settings.from_environment(
            {
                "AISLE_HOME": str(self.home),
                "AISLE_DATABASE_URL": f"sqlite:///{self.folder / 'ledger.db'}",
                "AISLE_RETRAIN_MIN_LABELS": "10",
                "AISLE_RETRAIN_COOLDOWN_S": "0",
                **environ,
            }
        )
        return Retrainer(
            self.ledger,
            settings=settings,
            catalog=str(self.folder / "catalogue"),
            train=[sys.executable, str(self.folder / "training.py")],
            newest=lambda: CHAMPION,
            load=lambda tag: bundle or Market(1).bundle(60),
        )

    def alarm(self, model: str = CHAMPION, kind: str = "drift.alarm") -> None:
        self.ledger.record_event(kind, {"model": model})

    def label(self, count: int) -> None:
        """Of products that have none."""
        first = self.ledger.count_labels()
        self.ledger.record_labels(
            [Label(product_id=f"p{first + i}", category="10", source="audit") for i in range(count)]
        )

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def champion(self) -> str:
        deployed = self.ledger.champion()
        assert deployed is not None
        return deployed.model


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.ledger.close()


def eventually(check: Callable[[], bool], timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return False


def test_without_an_alarm_nothing_is_due(shop: Shop) -> None:
    shop.label(50)
    assert (
        shop.retrainer().once() == "nothing is due: no alarm about the champion, and the schedule is not up"
    )
    assert shop.calls() == []


@pytest.mark.parametrize("kind", ["drift.alarm", "quality.alarm"])
def test_an_alarm_and_enough_labels_train_and_promote_a_better_challenger(shop: Shop, kind: str) -> None:
    shop.alarm(kind=kind)
    shop.label(12)
    said = shop.retrainer().once()
    assert said.startswith("better on fresh products: 0.900 against 0.700 on 200 products")
    assert shop.champion() == CHALLENGER
    [finished] = shop.ledger.events(FINISHED)
    detail = finished.detail
    assert (detail["promoted"], detail["challenger"], detail["champion"]) == (True, CHALLENGER, CHAMPION)
    assert detail["reason"] == f"{kind} 1"
    assert detail["until"] == 12
    assert detail["labels"] == {"used": 7, "held_out": 3, "without_vectors": 1}
    assert (detail["fresh"]["champion"], detail["fresh"]["challenger"]) == (0.7, 0.9)
    assert (detail["frozen"]["difference"], detail["frozen"]["products"]) == (0.0, 200)
    assert detail["why"] == said


def test_training_is_asked_for_the_champions_encoders_head_and_labels(shop: Shop) -> None:
    bundle = Market(1).bundle(60)
    shop.alarm()
    shop.label(12)
    shop.retrainer(bundle).once()
    fit, first, second = shop.calls()
    catalogue = str(shop.folder / "catalogue")
    assert fit[:10] == [
        *("fit", catalogue),
        *("--text", f"aisle-text-encoder:{bundle.text_encoder.revision}"),
        *("--image", f"aisle-image-encoder:{bundle.image_encoder.revision}"),
        *("--labels-until", "12", "--start-from", CHAMPION),
    ]
    assert first[:5] == ["answers", CHAMPION, catalogue, "--labels-until", "12"]
    assert second[:5] == ["answers", CHALLENGER, catalogue, "--labels-until", "12"]


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"gain": 0}, "on fresh products the two hardly differ"),
        ({"gain": -20}, "not shown to be better on fresh products: 0.600 against 0.700"),
        ({"loss": 2}, "better on fresh products"),
    ],
)
def test_what_is_not_better_is_not_promoted_and_why_is_written_down(
    shop: Shop, plan: dict[str, int], why: str
) -> None:
    shop.plan(**plan)
    shop.alarm()
    shop.label(12)
    assert shop.retrainer().once().startswith(why)
    assert shop.champion() == CHAMPION
    [finished] = shop.ledger.events(FINISHED)
    assert (finished.detail["promoted"], finished.detail["challenger"]) == (False, CHALLENGER)
    assert ("worse on the test split" in finished.detail["why"]) == ("loss" in plan)


def test_too_few_new_labels_are_waited_for(shop: Shop) -> None:
    shop.alarm()
    shop.label(9)
    assert shop.retrainer().once() == "drift.alarm 1 waits: 9 new labels, wanted 10"
    assert shop.calls() == []


def test_labels_that_a_round_has_used_are_not_new(shop: Shop) -> None:
    shop.plan(gain=0)
    shop.alarm()
    shop.label(12)
    shop.retrainer().once()
    shop.label(4)
    assert shop.retrainer().once() == "drift.alarm 1 waits: 4 new labels, wanted 10"
    shop.label(6)
    shop.retrainer().once()
    assert [event.detail["until"] for event in shop.ledger.events(FINISHED)] == [12, 22]


def test_an_alarm_about_an_older_champion_is_no_reason(shop: Shop) -> None:
    shop.alarm()
    shop.label(12)
    shop.retrainer().once()
    shop.label(12)
    assert shop.retrainer().once().startswith("nothing is due")


def test_rounds_keep_their_distance(shop: Shop) -> None:
    shop.plan(gain=0)
    shop.alarm()
    shop.label(12)
    shop.retrainer().once()
    shop.label(12)
    said = shop.retrainer(AISLE_RETRAIN_COOLDOWN_S="3600").once()
    assert said.startswith("drift.alarm 1 waits: the last round ended too recently; 3,")


def test_a_schedule_is_a_reason(shop: Shop) -> None:
    shop.label(12)
    assert shop.retrainer(AISLE_RETRAIN_EVERY_S="3600").once().startswith("nothing is due")
    time.sleep(0.2)
    shop.retrainer(AISLE_RETRAIN_EVERY_S="0.1").once()
    [finished] = shop.ledger.events(FINISHED)
    assert finished.detail["reason"] == "schedule: 0.1 s have passed"


def test_a_round_by_hand_needs_a_reason_and_one_label(shop: Shop) -> None:
    with pytest.raises(AisleError, match="the ledger holds no label"):
        shop.retrainer().once("new season")
    [refused] = shop.ledger.events("retrain.refused")
    assert refused.detail["reason"] == "by hand: new season"
    shop.label(1)
    shop.retrainer().once("new season")
    assert shop.champion() == CHALLENGER


def test_a_failing_training_is_written_down_with_its_last_lines_and_ends_nothing(shop: Shop) -> None:
    shop.plan(fails=True)
    shop.alarm()
    shop.label(12)
    said = shop.retrainer().once()
    assert said == "failed: training fit ended with 1: first line / error: the catalogue is on fire"
    assert shop.champion() == CHAMPION
    shop.plan()
    shop.label(12)
    shop.retrainer().once()
    assert shop.champion() == CHALLENGER


def test_who_promoted_meanwhile_is_not_overruled(shop: Shop) -> None:
    shop.plan(seconds=1)
    shop.alarm()
    shop.label(12)
    threading.Timer(0.5, lambda: shop.ledger.deploy("aisle-classifier:by-hand", "mine")).start()
    said = shop.retrainer().once()
    assert said.startswith("aisle-classifier:by-hand was promoted meanwhile; better on fresh products")
    assert shop.champion() == "aisle-classifier:by-hand"


def test_a_retrainer_follows_events_until_it_is_stopped(shop: Shop) -> None:
    shop.label(12)
    retrainer = shop.retrainer()
    threading.Thread(target=retrainer.run, daemon=True).start()
    time.sleep(0.3)
    shop.alarm()
    assert eventually(lambda: shop.champion() == CHALLENGER)


def test_a_catalogue_that_is_not_there_is_refused_before_anything_else(shop: Shop) -> None:
    settings = Settings.from_environment({"AISLE_HOME": str(shop.home)})
    for catalog, said in (("", "found nothing"), ("/nowhere", "found '/nowhere'")):
        with pytest.raises(SettingError, match=f"AISLE_CATALOG: {said}"):
            Retrainer(
                shop.ledger, settings=settings, catalog=catalog, train=[], newest=str, load=lambda tag: None
            )  # type: ignore[arg-type]


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests"]
from test_retrain import Shop
shop = Shop.__new__(Shop)
shop.folder = Path(sys.argv[1])
shop.home = shop.folder / "home"
from aisle.ledger import Ledger
shop.ledger = Ledger.open(f"sqlite:///{shop.folder / 'ledger.db'}")
import signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
print(shop.retrainer().once(), flush=True)
"""


def in_a_process(shop: Shop) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(shop.folder), str(ROOT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def training_ended(shop: Shop) -> bool:
    pid = int((shop.folder / "began").read_text())
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_round_that_is_stopped_ends_its_training_and_is_written_down(shop: Shop, number: int) -> None:
    shop.plan(seconds=60)
    shop.alarm()
    shop.label(12)
    with in_a_process(shop) as process:
        assert eventually((shop.folder / "began").exists)
        assert is_alive(shop.home)
        with pytest.raises(AisleError, match="another retrainer of this shop is at work"):
            shop.retrainer().once()
        os.kill(process.pid, number)
        process.communicate(timeout=20)
    assert eventually(lambda: training_ended(shop))
    shop.plan()
    shop.retrainer().once()
    killed, after = shop.ledger.events(FINISHED)
    assert killed.detail["abandoned"] is True
    assert killed.detail["why"] == (
        "abandoned: its process was killed" if number == signal.SIGKILL else "stopped"
    )
    assert (after.detail["promoted"], after.detail["until"]) == (True, 12)
    assert len(shop.ledger.events(STARTED)) == 2


def test_nobody_is_alive_where_nobody_looked(tmp_path: Path) -> None:
    assert not is_alive(tmp_path)
    looked, lives = tmp_path / "retrain.lock", tmp_path / "retrainer.lock"
    looked.touch()
    with lives.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert is_alive(tmp_path)
        os.utime(looked, (time.time() - 100, time.time() - 100))
        assert not is_alive(tmp_path)


def test_who_has_ended_is_not_alive(shop: Shop) -> None:
    shop.retrainer().once()
    assert time.time() - (shop.home / "retrain.lock").stat().st_mtime < 60
    assert not is_alive(shop.home)


def test_the_real_command_trains_and_judges(own_tiny_home: Path) -> None:
    [tag] = [
        f"aisle-classifier:{folder.name}"
        for folder in (own_tiny_home / "bentoml/models/aisle-classifier").iterdir()
        if folder.is_dir()
    ]
    ledger = Ledger.open(f"sqlite:///{own_tiny_home / 'ledger.db'}")
    ledger.create_tables()
    ledger.deploy(tag, "at first")
    ledger.record_event("drift.alarm", {"model": tag})
    ledger.record_labels([Label(product_id=str(i), category="50", source="audit") for i in range(30)])
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AISLE_", "BENTOML_", "PROMETHEUS_"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "monitoring",
            "retrain",
            "--once",
            "--catalog",
            str(own_tiny_home / "catalogue"),
        ],
        cwd=ROOT,
        env={**environ, "AISLE_HOME": str(own_tiny_home), "AISLE_RETRAIN_MIN_LABELS": "30"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("0 fresh products are too few to show anything, wanted 30 or more")
    [finished] = ledger.events(FINISHED)
    # The labels are of products that were never answered: nothing to train on, and nothing to compare.
    assert finished.detail["labels"]["used"] == 0
    assert finished.detail["challenger"].startswith("aisle-classifier:")
    assert finished.detail["frozen"]["products"] > 10
