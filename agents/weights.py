"""Weights in a folder: a whole model, or a LoRA adapter over one. Hu et al. 2021, arXiv 2106.09685.

    W x + scale * B A x

An adapter's folder holds A and B of every linear layer but the last, and `adapter_config.json`,
which names the folder of the model that it lies over. A model holds many adapters and speaks
through one at a time, or through none. Only safetensors are read, no code of a folder is run, and
nothing is downloaded.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from superalign.store.errors import BadInput

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What makes a folder an adapter's."""

_worn: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()
"""The adapter through which a model speaks. Changing it walks all layers, so it is remembered."""


def base_of(folder: Path) -> Path:
    """The folder of the whole model: this one, or the one that its adapter lies over."""
    folder = folder.resolve()
    if (folder / "config.json").exists() or not (folder / CONFIG).exists():
        return folder
    told = json.loads((folder / CONFIG).read_text())
    base = Path(told.get("base_model_name_or_path") or "")
    if not (base / "config.json").exists():
        raise BadInput(
            f"{folder / CONFIG}: base_model_name_or_path: {str(base)!r} is no folder of weights; "
            "put the model that the adapter lies over there, or name where it is"
        )
    if told.get("peft_type") != "LORA":
        raise BadInput(
            f"{folder / CONFIG}: peft_type: {told.get('peft_type')!r}; only LORA is read"
        )
    if not (folder / WEIGHTS).exists():
        raise BadInput(f"{folder}: no {WEIGHTS}; only safetensors are read")
    return base.resolve()


def load_model(folder: Path, device: str | torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The whole model in a folder, without dropout."""
    model = AutoModelForCausalLM.from_pretrained(
        folder.resolve(),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        dtype=dtype,
    )
    torch.nn.Module.to(model, device)
    return model.eval()


def load_adapter(model: PreTrainedModel, folder: Path, name: str, learns: bool = False) -> None:
    """Lay the adapter in a folder over its model, and let the model speak through it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
        model.load_adapter(
            str(folder),
            adapter_name=name,
            is_trainable=learns,
            adapter_kwargs={"local_files_only": True},
        )
    _worn.pop(model, None)
    wear(model, name)


def new_adapter(model: PreTrainedModel, name: str, rank: int, seed: int) -> None:
    """Lay a new adapter over a model, which changes nothing yet: B is 0. Only it learns."""
    from peft import LoraConfig

    config: Any = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(config, name)
    _worn.pop(model, None)
    wear(model, name)


def drop_adapter(model: PreTrainedModel, name: str) -> None:
    model.delete_adapter(name)
    _worn.pop(model, None)


def wear(model: PreTrainedModel, name: str | None) -> None:
    """Let a model speak through one of its adapters, or through none."""
    if not model._hf_peft_config_loaded or _worn.get(model, "") == name:
        return
    if name is None:
        model.disable_adapters()
    else:
        model.enable_adapters()
        model.set_adapter(name)
    _worn[model] = name
