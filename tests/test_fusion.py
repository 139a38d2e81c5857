import pytest
import torch

from aisle.errors import BundleError
from aisle.fusion import VARIANTS, FusionSettings, build_fusion
from aisle.fusion_net import ALONE, FEATURE, LATE


def network(variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_fusion(
        FusionSettings(variant=variant, text_dim=6, image_dim=4, hidden_dim=8, classes=3)
    ).eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("column", [0, 1])
def test_an_absent_modality_is_never_read(variant: str, column: int) -> None:
    net = network(variant)
    text, image = torch.randn(5, 6), torch.randn(5, 4)
    present = torch.ones(5, 2)
    present[:, column] = 0
    before = net(text, image, present)
    (text, image)[column].add_(100)
    assert before.shape == (5, 3)
    torch.testing.assert_close(net(text, image, present), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_seen_in_three_ways_at_once_a_product_is_answered_as_in_each(variant: str) -> None:
    net = network(variant)
    text, image = torch.randn(5, 6), torch.randn(5, 4)
    at_once = net.fuse_patterns(*net.project(text, image))
    for seen, answers in zip(([1.0, 1.0], [1.0, 0.0], [0.0, 1.0]), at_once, strict=True):
        torch.testing.assert_close(answers, net(text, image, torch.tensor(seen).repeat(5, 1)))


@pytest.mark.parametrize("variant", [*FEATURE, *LATE])
def test_both_modalities_move_the_answer(variant: str) -> None:
    net = network(variant)
    text, image, present = torch.randn(5, 6), torch.randn(5, 4), torch.ones(5, 2)
    before = net(text, image, present)
    assert (net(text + 1, image, present) - before).abs().max() > 1e-3
    assert (net(text, image + 1, present) - before).abs().max() > 1e-3


def test_standardisation_is_measured_on_the_training_vectors() -> None:
    net = network("concat")
    net.standardise(torch.tensor([[1.0] * 6, [3.0] * 6]), torch.zeros(0, 4))
    assert net.text_mean.tolist() == [2.0] * 6
    assert net.text_scale.tolist() == [1.0] * 6
    assert net.image_scale.tolist() == [1.0] * 4


def test_an_unknown_variant_names_those_there_are() -> None:
    with pytest.raises(BundleError, match=r"found 'sum', wanted one of text, image, concat, add"):
        FusionSettings(variant="sum", text_dim=6, image_dim=4, classes=3)


def test_every_name_has_a_network() -> None:
    assert list(VARIANTS) == [*ALONE, *FEATURE, *LATE]


@pytest.mark.parametrize(("variant", "read"), [("text", 0), ("image", 1)])
def test_a_baseline_reads_one_modality_alone(variant: str, read: int) -> None:
    net = network(variant)
    text, image, present = torch.randn(5, 6), torch.randn(5, 4), torch.ones(5, 2)
    before = net(text, image, present)
    moved = [net(text + 1, image, present), net(text, image + 1, present)]
    assert (moved[read] - before).abs().max() > 1e-3
    torch.testing.assert_close(moved[1 - read], before)


def test_cross_attention_names_the_width_that_it_wants() -> None:
    settings = FusionSettings(variant="cross_attention", text_dim=6, image_dim=4, hidden_dim=20, classes=3)
    with pytest.raises(BundleError, match="hidden_dim: found 20, wanted a multiple of 8"):
        build_fusion(settings)
