"""A pass on CUDA, as far as torch follows one without a card: shapes, number types, devices, the choice of kernel."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, varlen
from transformers import AutoModelForSequenceClassification
from transformers.initialization import no_init_weights

from sidecar.scoring import bert, checkpoint, hardware, loader, packing
from sidecar.scoring.base import Pair
from sidecar.scoring.padding import padded
from tests import checkpoints
from tests.checkpoints import FAMILIES

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
PAIRS = [Pair(list(range(5, 5 + tokens)), [0] * tokens) for tokens in (9, 200, 17)]
PACKED = [family for family in FAMILIES if family in packing.ENCODERS]
FLASH, CUDNN = SDPBackend.FLASH_ATTENTION.value, SDPBackend.CUDNN_ATTENTION.value


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A card that cuDNN's attention would run on, which computes nothing; the list fills with the kernels chosen."""
    chosen: list[int] = []
    choose = varlen._select_backend

    def noted(*positional: Any) -> int:
        chosen.append(choose(*positional))
        return chosen[-1]

    monkeypatch.setattr(varlen, "_select_backend", noted)
    monkeypatch.setattr(varlen, "_cudnn_version_and_major_capability", lambda _index: (92600, 9))
    monkeypatch.setattr(varlen, "_should_use_cudnn", lambda _index: True)
    monkeypatch.setattr(varlen, "_cudnn_decode_disabled", lambda _index: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        yield chosen


@pytest.fixture(autouse=True)
def as_torch_comes() -> Iterator[None]:
    """Its choice of attention is one of the whole process."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)


def model_of(family: str) -> Any:
    kind = FAMILIES[family]
    config = kind.config(**{**checkpoints._SHAPE, "vocab_size": 300, "num_labels": 1, **kind.changes})
    with CUDA, no_init_weights():
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    return model.eval()


def described(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype, str]:
    return tuple(tensor.shape), tensor.dtype, tensor.device.type


@pytest.mark.parametrize("family", PACKED)
def test_packed_logits_are_computed_on_the_card_alone_and_by_flash_attention(hopper: list[int], family: str) -> None:
    hardware.keep_from_cudnn_attention()
    model = model_of(family)
    assert packing.can_pack(model)
    assert described(packing.PackedModel(model).logits(PAIRS)) == ((3, 1), torch.bfloat16, "cuda")
    assert set(hopper) == {FLASH}


def test_left_to_itself_torch_would_take_cudnn_which_lays_a_plan_for_each_shape(hopper: list[int]) -> None:
    packing.PackedModel(model_of("bert")).logits(PAIRS)
    assert set(hopper) == {CUDNN}


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("family", PACKED)  # DeBERTa moves a constant there, which asks for a driver
def test_padded_logits_are_computed_on_the_card_alone(family: str) -> None:
    takes = FAMILIES[family].input_names
    inputs = {name: torch.from_numpy(array).to(CUDA) for name, array in padded(PAIRS, 0).items() if name in takes}
    assert described(model_of(family)(**inputs).logits) == ((3, 1), torch.bfloat16, "cuda")


@pytest.mark.parametrize(("device", "left"), [(CUDA, False), (CPU, True)])
def test_a_model_for_cuda_keeps_the_process_from_cudnns_attention(
    tmp_path: Path, device: torch.device, left: bool
) -> None:
    settings = checkpoints.settings(tmp_path, device=device.type)
    with pytest.raises(checkpoint.CheckpointError):  # there is none, and no card either
        loader.scorer_of(settings, device, torch.bfloat16)
    assert torch.backends.cuda.cudnn_sdp_enabled() == left


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_vectors_of_a_bi_encoder_are_computed_on_the_card_alone(hopper: list[int], family: str) -> None:
    hardware.keep_from_cudnn_attention()
    base = model_of(family).base_model
    layers = bert.Encoder(base, first_only=False)
    layout = layers.layout([pair.tokens for pair in PAIRS])
    hidden = layers(packing.Inputs(base)(PAIRS, layout), layout)
    assert described(packing.means(hidden.float(), layout)) == ((3, base.config.hidden_size), torch.float32, "cuda")
    assert set(hopper) == {FLASH}
