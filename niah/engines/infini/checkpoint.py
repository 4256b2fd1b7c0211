"""An Infini-attention model in a folder: config.json (`ModelConfig`) and model.safetensors; a tokenizer may stand beside them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from niah.engines import EngineError
from niah.engines.checkpoint import first_line
from niah.engines.inference import usable
from niah.engines.infini.model import InfiniModel, ModelConfig

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def save_checkpoint(model: InfiniModel, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model's weights, as `dtype`, and its config into `folder`, which is made."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: _stored(name, tensor, dtype) for name, tensor in model.state_dict().items()}, folder / _WEIGHTS, {"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(model.config.to_json(), indent=1) + "\n", encoding="utf-8")


def load_config(folder: Path) -> ModelConfig:
    """The config of the model in `folder`; EngineError (checkpoint) where there is none."""
    if not (folder / _CONFIG).is_file():
        raise EngineError("there is no config.json in it: it is no checkpoint", kind="checkpoint")
    try:
        return ModelConfig.from_json(json.loads((folder / _CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise EngineError(f"its config.json cannot be used: {first_line(error)}", kind="checkpoint") from None


def load_checkpoint(folder: Path, device: str = "cpu") -> InfiniModel:
    """The model in `folder`, for inference, in the precision in which it is stored. EngineError (checkpoint) says what is wrong with it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = load_config(folder)
    try:
        weights = load_file(folder / _WEIGHTS)
    except FileNotFoundError:
        raise EngineError(f"there is no {_WEIGHTS} in it", kind="checkpoint") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise EngineError(f"its weights cannot be read: {first_line(error)}", kind="checkpoint") from None
    model = InfiniModel(config)
    stored = weights["embed.weight"].dtype if "embed.weight" in weights else torch.float32
    for parameter in model.parameters():  # not the frozen projections, which are part of the memory
        parameter.data = parameter.data.to(usable(stored, device))
    try:
        told = model.load_state_dict(weights, strict=False)
    except RuntimeError:
        raise EngineError("its weights have other shapes than its config.json says", kind="checkpoint") from None
    for names, how in ((told.missing_keys, "its weights lack"), (told.unexpected_keys, "its config.json does not know of")):
        if names:
            raise EngineError(f"{how} {len(names):,} tensors, such as {names[0]}", kind="checkpoint")
    return model.to(device).eval().requires_grad_(False)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A frozen projection is part of the memory and not of the weights: it keeps more digits."""
    projection = name.endswith("features.projection") and dtype == torch.bfloat16
    return tensor.detach().to("cpu", torch.float16 if projection else dtype).contiguous()
