"""The loop that tunes encoders: its arithmetic, and that it goes on where it was."""

from __future__ import annotations

import copy
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from sklearn.metrics import f1_score
from torch import nn
from tuning_program import IMAGE, TEXT, WordLesson, drawn_pictures, weights_of

from aisle.backbone import build_backbone
from aisle.errors import EncoderError, SettingError, StoppedError
from training.checkpoints import Checkpoints
from training.depth import blocks_of, parameter_groups, recomputed
from training.image_encoder import ImageTraining, PictureLesson, train_image_encoder
from training.interrupt import Interrupt
from training.lesson import TuneSettings
from training.loss import balanced_weights, weighted_cross_entropy
from training.moving_average import MovingAverage
from training.overrides import overridden
from training.precision import resolve_precision
from training.processes import Processes
from training.tuning import rate_factor, tune
from training.tuning_state import History

CPU = torch.device("cpu")
LABELS = np.array([0, 0, 0, 2])


class Stopping(Progress):
    """Ctrl-C, noted by nobody, after so many examples."""

    def __init__(self, after: int) -> None:
        super().__init__(disable=True)
        self.left = after

    def advance(self, task_id, advance=1):  # type: ignore[no-untyped-def]
        self.left -= advance
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Layers this small are slower on two, and sums have one order on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tuned(
    settings: TuneSettings, *, dropout: float = 0.2, work: Path | None = None, after: int = 10**9
) -> tuple[str, History, WordLesson]:
    lesson = WordLesson(dropout)
    history = tune(lesson, settings, work=work, save_every_s=0.0, progress=Stopping(after))
    return weights_of(lesson.network), history, lesson


# --- the loss


def test_the_loss_is_torchs_own_for_one_answer_each() -> None:
    torch.manual_seed(0)
    logits_BC, label_B, weight_C = torch.randn(7, 5), torch.randint(5, (7,)), torch.rand(5)
    found = weighted_cross_entropy(logits_BC, torch.eye(5)[label_B], weight_C, 0.1) / weight_C[label_B].sum()
    wanted = nn.CrossEntropyLoss(weight_C, label_smoothing=0.1)(logits_BC, label_B)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("balance", "wanted"),
    [
        (0.0, [1.0, 0.0, 1.0]),
        (1.0, [2 / 3, 0.0, 2.0]),  # each class counts 2
        (0.5, [16 / 19, 0.0, 28 / 19]),  # 1 / 1.75 and 1 / 1, scaled
    ],
)
def test_classes_are_weighed_by_their_effective_numbers(balance: float, wanted: list[float]) -> None:
    torch.testing.assert_close(balanced_weights(LABELS, 3, balance), torch.tensor(wanted))


# --- the path of the weights


def test_tuning_learns() -> None:
    _, history, _ = tuned(replace(TEXT, epochs=10, learning_rate=0.02, ema=0.0))
    assert max(epoch["validation_macro_f1"] for epoch in history) > 0.95


def test_the_weights_of_the_best_epoch_are_left_in_the_network() -> None:
    lesson = WordLesson()
    lesson.validation.label_N = np.random.default_rng(0).integers(0, 3, 150)  # nothing to be learned
    settings = replace(TEXT, epochs=6, learning_rate=0.02, ema=0.0)
    history = tune(lesson, settings, progress=Progress(disable=True))
    tokens, label_N = next(lesson.validation.read([np.arange(150)], None))
    with torch.inference_mode():
        answer_N = lesson.network.eval()(tokens).argmax(1)
    scores = [epoch["validation_macro_f1"] for epoch in history]
    assert max(scores) > scores[-1]
    assert f1_score(label_N, answer_N, average="macro") == pytest.approx(max(scores))


def test_micro_batches_add_up_to_their_step() -> None:
    curves = [
        [epoch["train_loss"] for epoch in tuned(replace(TEXT, micro_batch=size), dropout=0.0)[1]]
        for size in (0, 3)
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_bits_give_nearly_the_same_curve(precision: str) -> None:
    whole, half = (
        [epoch["train_loss"] for epoch in tuned(replace(TEXT, precision=name), dropout=0.0)[1]]
        for name in ("fp32", precision)
    )
    assert half != whole
    np.testing.assert_allclose(half, whole, rtol=0.02)


def test_a_gradient_is_cut_to_its_longest() -> None:
    weights = {clip: tuned(replace(TEXT, clip=clip, epochs=1))[0] for clip in (0.0, 1e-3, 1e9)}
    assert weights[0.0] == weights[1e9] != weights[1e-3]


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(EncoderError, match="precision: found 'int8', wanted one of auto, fp32, bf16, fp16"):
        resolve_precision("int8", CPU, nn.Identity())


def test_grouped_convolutions_stay_in_fp32_on_a_cpu() -> None:
    able = torch.cpu.get_capabilities()
    plain = "bf16" if any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"
    assert resolve_precision("auto", CPU, nn.Conv2d(4, 4, 3)) == plain
    assert resolve_precision("auto", CPU, nn.Conv2d(4, 4, 3, groups=4)) == "fp32"


@pytest.mark.parametrize(("share", "factor"), [(0.0, 0.05), (0.1, 0.525), (0.2, 1.0), (0.6, 0.5), (1.0, 0.0)])
def test_the_learning_rate_rises_and_falls(share: float, factor: float) -> None:
    assert rate_factor(share, 0.2) == pytest.approx(factor)


# --- by depth


def test_each_block_learns_slower_than_the_one_behind_it() -> None:
    torch.manual_seed(0)
    model, dim = build_backbone("resnet18")
    groups = parameter_groups(model, nn.Linear(dim, 2), rate=1.0, decay=0.5, weight_decay=0.1)
    found = {(round(group["rate"], 4), group["weight_decay"]): len(group["params"]) for group in groups}
    named = dict(model.named_parameters())
    layers = {n: [p for name, p in named.items() if name.startswith(f"layer{n}.")] for n in (1, 2, 3, 4)}
    matrices = {n: sum(p.ndim > 1 for p in layer) for n, layer in layers.items()}
    wanted = {(1.0, 0.1): 1, (1.0, 0.0): 1}  # the head
    for n, rate in ((4, 0.5), (3, 0.25), (2, 0.125)):
        wanted |= {(rate, 0.1): matrices[n], (rate, 0.0): len(layers[n]) - matrices[n]}
    # What lies before the first block learns with it: a convolution, a norm of two.
    wanted |= {(0.0625, 0.1): matrices[1] + 1, (0.0625, 0.0): len(layers[1]) - matrices[1] + 2}
    assert found == wanted


def test_a_transformer_is_stacked_of_its_layers(tiny_text_encoder) -> None:  # type: ignore[no-untyped-def]
    assert blocks_of(tiny_text_encoder.model) == list(tiny_text_encoder.model.encoder.layer)


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 4), ("small_cnn", 8), ("convnext_tiny", 8)])
def test_a_backbone_is_stacked_of_its_stages(name: str, blocks: int) -> None:
    with torch.device("meta"):
        model, _ = build_backbone(name)
    assert len(blocks_of(model)) == blocks


def test_recomputing_changes_neither_gradients_nor_running_statistics() -> None:
    torch.manual_seed(0)
    plain, _ = build_backbone("resnet18")
    again = copy.deepcopy(plain)
    pixels = torch.randn(4, 3, 32, 32)
    plain(pixels).square().sum().backward()
    with recomputed(blocks_of(again)):
        again(pixels).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    for (name, one), other in zip(plain.named_buffers(), again.named_buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(one, other[1], msg=name)
    assert all(m.momentum == 0.1 for m in again.modules() if isinstance(m, nn.BatchNorm2d))


def test_recomputing_keeps_the_path_of_the_weights() -> None:
    curves = [
        train_image_encoder(
            drawn_pictures(24, 0),
            drawn_pictures(8, 1),
            replace(IMAGE, epochs=2, recompute=recompute),
            classes=2,
            progress=Progress(disable=True),
        )[1]
        for recompute in (False, True)
    ]
    losses = [[epoch["train_loss"] for epoch in curve] for curve in curves]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# --- the moving average


def test_the_average_follows_and_lends_itself() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    average = MovingAverage(layer, 0.5)
    layer.weight.data.fill_(2.0)
    average.update(0)  # of the first step a tenth of what was is kept: min(0.5, 1 / 10)
    assert average.mean["weight"].item() == pytest.approx(1.9)
    layer.weight.data.fill_(4.0)
    average.update(100)
    assert average.mean["weight"].item() == pytest.approx(2.95)
    with average.applied():
        assert layer.weight.item() == pytest.approx(2.95)
    assert layer.weight.item() == 4.0


# --- going on


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_that_was_stopped_in_an_epoch_goes_on_to_the_same_weights(
    precision: str, tmp_path: Path
) -> None:
    settings = replace(TEXT, precision=precision)
    weights, history, _ = tuned(settings)
    with pytest.raises(KeyboardInterrupt):
        tuned(settings, work=tmp_path, after=42 + 25)  # in the third step of the second epoch
    again, resumed, _ = tuned(settings, work=tmp_path, after=2 * 42 - 20)  # what was left
    assert (again, resumed) == (weights, history)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    weights, history, _ = tuned(TEXT, work=tmp_path)
    assert tuned(TEXT, work=tmp_path, after=0)[:2] == (weights, history)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path: Path) -> None:
    weights, history, _ = tuned(TEXT)
    with pytest.raises(KeyboardInterrupt):
        tuned(TEXT, work=tmp_path, after=42 + 25)
    _, newest = sorted(tmp_path.glob("*/step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert tuned(TEXT, work=tmp_path, after=2 * 42 - 10)[:2] == (weights, history)


def test_the_newest_two_checkpoints_of_one_run_are_kept(tmp_path: Path) -> None:
    tuned(replace(TEXT, epochs=1), work=tmp_path / "work")
    first = {path.parent.name for path in tmp_path.glob("work/*/*")}
    tuned(replace(TEXT, epochs=1, seed=1), work=tmp_path / "work")
    kept = sorted(tmp_path.glob("work/*/*"))
    assert [path.name for path in kept] == ["step-000000004.safetensors", "step-000000005.safetensors"]
    assert first.isdisjoint({path.parent.name for path in kept})


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "this run")
    checkpoints.write(1, {"a": torch.zeros(1)}, {})
    [folder] = tmp_path.iterdir()
    (folder / ".tmp8ehtpD").write_bytes(b"half")
    checkpoints.write(2, {"a": torch.zeros(1)}, {})
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-000000001.safetensors",
        "step-000000002.safetensors",
    ]


def test_facts_come_back_to_the_last_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "work", "this run")
    assert checkpoints.newest() is None
    checkpoints.write(3, {"a": torch.arange(4.0)}, {"loss": 0.1 + 0.2})
    tensors, facts = checkpoints.newest() or ({}, {})
    assert (tensors["a"].tolist(), facts) == ([0.0, 1.0, 2.0, 3.0], {"loss": 0.30000000000000004})
    assert Checkpoints(tmp_path / "work", "another").newest() is None


def test_two_runs_beside_each_other_leave_each_other_alone(tmp_path: Path) -> None:
    ours, theirs, gone = (Checkpoints(tmp_path, name) for name in ("ours", "theirs", "gone"))
    gone.write(1, {"a": torch.zeros(1)}, {})
    with ours.held():
        ours.write(1, {"a": torch.zeros(1)}, {})
        with theirs.held():
            theirs.write(7, {"a": torch.ones(1)}, {})
            assert [found is None for found in (ours.newest(), theirs.newest(), gone.newest())] == [
                False,
                False,
                True,
            ]
            with (
                pytest.raises(SettingError, match="found another process at this very run, wanted none"),
                Checkpoints(tmp_path, "theirs").held(),
            ):
                pass
    with theirs.held():
        assert theirs.newest() is not None


def test_each_epoch_is_told_when_it_ends_and_again_after_a_kill(tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, float]]] = []

    def run(after: int) -> History:
        return tune(
            WordLesson(),
            TEXT,
            work=tmp_path,
            save_every_s=0.0,
            told=lambda epoch, numbers: told.append((epoch, dict(numbers))),
            progress=Stopping(after),
        )

    with pytest.raises(KeyboardInterrupt):
        run(42 + 25)
    assert [epoch for epoch, _ in told] == [0]
    history = run(10**9)
    assert [epoch for epoch, _ in told] == [0, 0, 1, 2]
    assert [{"epoch": epoch, **numbers} for epoch, numbers in told[1:]] == history


# --- what cannot be learned from


def test_weights_that_leave_the_numbers_are_an_error() -> None:
    message = r"found no finite answer about 150 of 150 validation texts after step 5, .*\(found 1e\+30\)"
    with pytest.raises(EncoderError, match=message):
        tuned(replace(TEXT, learning_rate=1e30, ema=0.0, clip=0.0))


@pytest.mark.parametrize("change", [{"micro_batch": 1}, {"batch_size": 16, "micro_batch": 0}])
def test_micro_batches_of_one_picture_are_refused(change: dict[str, int]) -> None:
    settings, processes = replace(IMAGE, **change), Processes(count=16 if "batch_size" in change else 1)
    train, validation = drawn_pictures(4, 0), drawn_pictures(4, 1)
    head = nn.Linear(3_072, 2)
    lesson = PictureLesson(nn.Flatten(), head, train, validation, settings.augmentation, 2)
    with pytest.raises(EncoderError, match="image encoder: found micro-batches of 1 pictures .* wanted 2"):
        tune(lesson, settings, processes=processes, progress=Progress(disable=True))


# --- signals


def test_a_signal_is_noted_and_the_next_is_the_processs_own() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Interrupt() as interrupt:
            assert interrupt.asked == ""
            os.kill(os.getpid(), signal.SIGTERM)
            assert (interrupt.asked, heard) == ("SIGTERM", [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interrupted_run_stops_at_a_step_and_goes_on(tmp_path: Path) -> None:
    sent: list[None] = []

    class Interrupting(Progress):
        def advance(self, task_id, advance=1):  # type: ignore[no-untyped-def]
            if advance == 10 and not sent:
                sent.append(os.kill(os.getpid(), signal.SIGINT))

    weights, history, _ = tuned(TEXT)
    with pytest.raises(StoppedError, match="stopped by SIGINT after step 1 of 15; a rerun goes on there"):
        tune(WordLesson(), TEXT, work=tmp_path, save_every_s=1e9, progress=Interrupting(disable=True))
    assert tuned(TEXT, work=tmp_path)[:2] == (weights, history)


# --- settings


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "1 or more"),
        ("ema", 1.0, "less than 1"),
        ("layer_decay", 0.0, "more than 0"),
        ("seed", -1, "0 or more"),
        ("clip", math.inf, "0 or more"),
        ("learning_rate", math.nan, "0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, value: float, wanted: str) -> None:
    with pytest.raises(EncoderError, match=f"tuning {name}: found {value}, wanted .*{wanted}"):
        TuneSettings(**{name: value})  # type: ignore[arg-type]


def test_settings_are_taken_from_words() -> None:
    words = ["epochs=3", "layer_decay=0.8", "recompute=true", "precision=fp32", "rotation=15", "mix=mixup"]
    found = overridden(ImageTraining(), words)
    assert (found.epochs, found.layer_decay, found.recompute, found.precision) == (3, 0.8, True, "fp32")
    assert (found.augmentation.rotation, found.augmentation.mix) == (15.0, "mixup")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epoch=3", "found 'epoch=3', wanted NAME=VALUE, with a NAME of epochs, patience"),
        ("epochs", "found 'epochs', wanted NAME=VALUE"),
        ("epochs=3.5", "--set epochs: found '3.5', wanted a whole number"),
        ("flip=yes", "--set flip: found 'yes', wanted true or false"),
    ],
)
def test_words_that_set_nothing_are_named(word: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        overridden(ImageTraining(), [word])
