"""ST-MoE-BERT for human mobility. Importing the package makes the Auto classes of transformers know its models."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .model.configuration_mobility_bert import MobilityBertConfig, MobilityBertMoEConfig
from .model.configuration_stmoe_bert import STMoEBertConfig
from .model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE
from .model.modeling_stmoe_bert import STMoEBertForMobility, STMoEBertModel
from .model.pipeline_stmoe_bert import TASK, MobilityPipeline
from .model.processing_stmoe_bert import MobilityProcessor
from .model.spacetime import Calendar, Grid

# A checkpoint carries its code, so that it also loads, with trust_remote_code, where this package is not installed.
for _network in (STMoEBertForMobility, MobilityBERT, MobilityBERTMoE):
    AutoConfig.register(_network.config_class.model_type, _network.config_class)
    AutoModel.register(_network.config_class, _network)
    AutoProcessor.register(_network.config_class, MobilityProcessor)
    _network.config_class.register_for_auto_class()
    _network.register_for_auto_class("AutoModel")
MobilityProcessor.register_for_auto_class()
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=MobilityPipeline, pt_model=AutoModel)

__all__ = [
    "Calendar",
    "Grid",
    "MobilityBERT",
    "MobilityBERTMoE",
    "MobilityBertConfig",
    "MobilityBertMoEConfig",
    "MobilityPipeline",
    "MobilityProcessor",
    "STMoEBertConfig",
    "STMoEBertForMobility",
    "STMoEBertModel",
]
