"""Makes the Auto classes of transformers and its `pipeline` know our classes, without importing transformers.

transformers has no entry point for models, so importing this package registers them. What takes seconds to import
waits until somebody asks for it: each module of transformers that holds a registry gets our classes when its import is
over, or at once if that was before ours.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PRETRAINED = "pretrained"  # folder of the weights that come with the package


def install() -> None:
    """Register with what is imported of transformers, and from now on with the rest as it is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        _register_what_is_ready()


def _register_configurations() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    for config_class in _configurations():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def _register_networks() -> None:
    from transformers.models.auto.modeling_auto import AutoModel

    from .model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE
    from .model.modeling_stmoe_bert import STMoEBertForMobility

    for network in (STMoEBertForMobility, MobilityBERT, MobilityBERTMoE):
        AutoModel.register(network.config_class, network, exist_ok=True)


def _register_processor() -> None:
    from transformers.models.auto.processing_auto import AutoProcessor

    from .model.processing_stmoe_bert import MobilityProcessor

    for config_class in _configurations():
        AutoProcessor.register(config_class, MobilityProcessor, exist_ok=True)


def _register_pipeline() -> None:
    from transformers.models.auto.modeling_auto import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .model.pipeline_stmoe_bert import TASK, MobilityPipeline

    default = (str(Path(__file__).parent / PRETRAINED), "main")  # the weights that come with the package
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=MobilityPipeline,
        pt_model=AutoModel,  # type: ignore[arg-type]
        default={"model": default},
    )
    # What a saved pipeline repeats of this must not name a folder of this machine.
    MobilityPipeline._registered_impl = {TASK: {"impl": MobilityPipeline, "pt": (AutoModel,)}}  # type: ignore[attr-defined]
    MobilityPipeline.days_module = f"{__package__}.prediction.day_decoding"


def _configurations() -> tuple:
    from .model.configuration_mobility_bert import MobilityBertConfig, MobilityBertMoEConfig
    from .model.configuration_stmoe_bert import STMoEBertConfig

    return STMoEBertConfig, MobilityBertConfig, MobilityBertMoEConfig


# Module of transformers with a registry -> what registers there.
_WAITING = {
    "transformers.models.auto.configuration_auto": _register_configurations,
    "transformers.models.auto.modeling_auto": _register_networks,
    "transformers.models.auto.processing_auto": _register_processor,
    "transformers.pipelines": _register_pipeline,
}
_WATCHED = ("transformers.", f"{__package__}.model.")
_under_way = threading.local()  # its `depth`: watched modules that this thread is executing, one within another


def _register_what_is_ready() -> None:
    for registry in list(_WAITING):
        if registry in sys.modules and (register := _WAITING.pop(registry, None)):
            try:
                register()
            except BaseException:  # the import fails; the next one tries again
                _WAITING[registry] = register
                raise


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of transformers and of our model as everybody else does, and registers after their import.

    Only after the outermost one: what our networks import of transformers, and transformers of itself, must not be
    in the middle of its own import.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _WAITING or not name.startswith(_WATCHED):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                depth = getattr(_under_way, "depth", 0)
                _under_way.depth = depth + 1
                try:
                    execute(module)
                finally:
                    _under_way.depth = depth
                if not depth:
                    _register_what_is_ready()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
