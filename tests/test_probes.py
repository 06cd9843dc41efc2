"""Probes measure a model itself, and claims compare them."""

from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from small_suite import document, planned, run_suite
from torch import nn

from adapters.segmentation.fcn_resnet import FcnResNet50
from adapters.segmentation.receptive_field import receptive_field
from adapters.translation.cells import LstmLayer, RnnLayer, StackedEncoder
from adapters.translation.probes import gradient_ratios, recurrent_parameters
from harness.adapter import Runtime
from harness.errors import UsageError
from harness.rundir.results import ClaimRecord

INPUTS, HIDDEN, STEPS = 6, 8, 9


def encoder(layer: type[RnnLayer | LstmLayer], bidirectional: bool = False) -> StackedEncoder:
    torch.manual_seed(1)
    return StackedEncoder(layer, INPUTS, HIDDEN, 1, bidirectional, dropout=0.0)


@pytest.mark.parametrize("layer", [RnnLayer, LstmLayer])
def test_the_gradient_ratio_is_that_of_the_whole_jacobian(layer: type[RnnLayer | LstmLayer]) -> None:
    model, x = encoder(layer, bidirectional=True), torch.randn(STEPS, INPUTS)
    (ratio,) = gradient_ratios(model, [x])
    torch_layer = model.double().forwards[0].weights  # computed with torch's own kernel

    def last(inputs: torch.Tensor) -> torch.Tensor:
        return torch_layer(inputs.unsqueeze(0))[0][0, -1]  # type: ignore[operator,no-any-return]

    jacobian = torch.autograd.functional.jacobian(last, x.double())  # [H, T, I]
    norms = jacobian.square().sum(dim=(0, 2)).sqrt()
    assert ratio == pytest.approx(log10(norms[0] / norms[-1]), abs=0.1)


def test_a_small_recurrent_matrix_halves_the_gradient_at_every_step() -> None:
    model = encoder(RnnLayer)
    with torch.no_grad():
        U = model.forwards[0].weights.weight_hh_l0  # type: ignore[union-attr]
        U.copy_(0.5 * torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0])
        for bias in (model.forwards[0].weights.bias_hh_l0, model.forwards[0].weights.bias_ih_l0):  # type: ignore[union-attr]
            bias.zero_()
    (ratio,) = gradient_ratios(model, [torch.zeros(STEPS, INPUTS)])  # tanh is linear at 0
    assert ratio == pytest.approx((STEPS - 1) * log10(0.5), abs=0.15)


def test_a_gradient_that_vanished_to_zero_is_finite() -> None:
    model = encoder(RnnLayer)
    with torch.no_grad():
        model.forwards[0].weights.weight_hh_l0.zero_()  # type: ignore[union-attr]
    (ratio,) = gradient_ratios(model, [torch.randn(STEPS, INPUTS)])
    assert -200 < ratio < -100


def test_an_lstm_has_four_times_the_recurrent_parameters_of_an_rnn() -> None:
    rnn, lstm = (recurrent_parameters(encoder(layer)) for layer in (RnnLayer, LstmLayer))
    assert rnn == HIDDEN * INPUTS + HIDDEN**2 + 2 * HIDDEN
    assert lstm == 4 * rnn


POOLED = [nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, padding=1)]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 5, padding=2)], 7),
        ([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=2, dilation=2)], 7),
        ([*POOLED, nn.Upsample(scale_factor=2)], 8),
        ([nn.Conv2d(3, 3, 9, padding=4) for _ in range(3)], 25),  # more than the first picture
    ],
)
def test_the_receptive_field_is_that_of_the_layers(
    layers: list[nn.Module], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.segmentation.receptive_field.FIRST_SIDE", 16)
    torch.manual_seed(0)
    assert receptive_field(nn.Sequential(*layers), "cpu") == expected


def test_a_segmentation_model_is_probed_through_its_scores() -> None:
    adapter = FcnResNet50.__new__(FcnResNet50)
    convolution = nn.Conv2d(3, 2, 3, padding=1)
    adapter.runtime, adapter.module = Runtime(), lambda pixels: {"out": convolution(pixels)}
    assert adapter.probe([]) == {"receptive_field": 3}


def test_a_field_beyond_the_largest_picture_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.segmentation.receptive_field.LARGEST_SIDE", 128)
    whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(128, 128)))
    with pytest.raises(UsageError, match="not within 128 px"):
        receptive_field(whole, "cpu")


def claims(folder: Path, *texts: str, size: int = 20, where: str | None = None) -> list[ClaimRecord]:
    adapters = {"one": {"options": {"drop": 1}}, "two": {"options": {"drop": 2}}}
    adapters["none"] = {"options": {"drop": 0}}
    adapters["mute"] = {"options": {"drop": 3, "raise_at": -1}}
    entries: dict[str, Any] = {
        str(number): {"claim": text, "benchmark": "words", **({"where": where} if where else {})}
        for number, text in enumerate(texts)
    }
    return run_suite(folder, {**document(size, **adapters), "claims": entries}).claims


def test_claims_compare_probes_by_sample_or_exactly(tmp_path: Path) -> None:
    texts = ["one.kept > two.kept", "one.kept > 2", "two.omitted > 1.5 * one.omitted", "two.omitted < 2"]
    paired, alone, exact, number = claims(tmp_path, *texts)
    assert [claim.verdict for claim in (paired, exact, number)] == ["supported", "supported", "refuted"]
    assert paired.effect is not None and exact.effect is not None and number.effect is not None
    assert (paired.effect.value, paired.effect.n, paired.effect.unit) == (1.0, 20, "words")
    assert (exact.effect.value, exact.effect.unit, exact.family) == (2.0, "times", 0)
    assert (number.effect.value, number.effect.unit) == (2.0, "words")

    data = planned(tmp_path, document(20)).trials[0].dataset.open()
    kept = np.array([len(str(data[index].input).split()) - 1.0 for index in range(20)])
    low, high = stats.t.interval(0.95, 19, kept.mean(), stats.sem(kept))
    assert alone.effect is not None
    assert (alone.effect.value, alone.effect.low, alone.effect.high) == pytest.approx(
        (kept.mean(), low, high)
    )
    stored = list(tmp_path.glob("run/trials/*/probes.json"))
    assert len(stored) == 2, "models that no claim asks about are not probed"


def test_one_sample_has_no_interval(tmp_path: Path) -> None:
    (alone,) = claims(tmp_path, "one.kept > 1", size=1)
    assert (alone.verdict, alone.reason) == ("not decided", "kept has no interval on these 1 samples")


def test_a_probe_that_fails_or_is_zero_leaves_its_claims_undecided(tmp_path: Path) -> None:
    texts = ["mute.omitted > 1", "two.omitted > 1", "two.omitted > 2 * none.omitted"]
    failed, other, ratio = claims(tmp_path, *texts)
    assert (ratio.verdict, ratio.reason) == ("not decided", "omitted of none is 0, so there is no ratio")
    assert (failed.verdict, failed.reason) == ("not decided", "mute was not probed")
    assert other.verdict == "supported"


def test_values_of_other_code_are_not_used_if_a_probe_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise UsageError("no")

    assert [claim.verdict for claim in claims(tmp_path, "two.omitted > 1")] == ["supported"]
    monkeypatch.setattr("harness.driver.probes.code_version", lambda _: "other")
    monkeypatch.setattr("harness.driver.probes.probe", fail)
    assert [claim.verdict for claim in claims(tmp_path, "two.omitted > 1")] == ["not decided"]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("one.lost > 1", None, "unknown quantity 'lost'"),
        ("one.kept > two.omitted", None, "compare kept with kept of another adapter"),
        ("one.kept > 1", "source words >= 2", "`where` does not apply to kept"),
    ],
)
def test_a_claim_about_probes_is_checked(tmp_path: Path, text: str, where: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        claims(tmp_path, text, where=where)
