"""ST-MoE-BERT for human mobility. Importing the package makes the Auto classes of transformers know its models."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_mobility_bert import MobilityBertConfig
from .configuration_stmoe_bert import STMoEBertConfig
from .modeling_mobility_bert import MobilityBERT, MobilityBERTMoE
from .modeling_stmoe_bert import STMoEBertForMobility, STMoEBertModel
from .pipeline_stmoe_bert import TASK, MobilityPipeline
from .processing_stmoe_bert import MobilityProcessor
from .spacetime import Calendar, Grid

AutoConfig.register(STMoEBertConfig.model_type, STMoEBertConfig)
AutoModel.register(STMoEBertConfig, STMoEBertForMobility)
AutoProcessor.register(STMoEBertConfig, MobilityProcessor)
AutoConfig.register(MobilityBertConfig.model_type, MobilityBertConfig)
AutoModel.register(MobilityBertConfig, (MobilityBERTMoE, MobilityBERT))  # `architectures` of a checkpoint says which
AutoProcessor.register(MobilityBertConfig, MobilityProcessor)
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=MobilityPipeline, pt_model=AutoModel)

# A checkpoint carries its code, so that it also loads, with trust_remote_code, where this package is not installed.
STMoEBertConfig.register_for_auto_class()
STMoEBertForMobility.register_for_auto_class("AutoModel")
MobilityBertConfig.register_for_auto_class()
MobilityBERT.register_for_auto_class("AutoModel")
MobilityBERTMoE.register_for_auto_class("AutoModel")
MobilityProcessor.register_for_auto_class()

__all__ = [
    "Calendar",
    "Grid",
    "MobilityBERT",
    "MobilityBERTMoE",
    "MobilityBertConfig",
    "MobilityPipeline",
    "MobilityProcessor",
    "STMoEBertConfig",
    "STMoEBertForMobility",
    "STMoEBertModel",
]
