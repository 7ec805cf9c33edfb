"""ST-MoE-BERT for human mobility: where the people of a city will be, half-hour by half-hour.

    import stmoe_hf

    city = stmoe_hf.open_city("B", "DIR")                                   # a folder of a HuMob edition
    city = stmoe_hf.points_to_city(points, timezone="Asia/Tokyo")           # GPS points: records and a `city.json`
    results = stmoe_hf.train(city="B", data_dir="DIR", config="history")    # what `stmoe train` does
    records = stmoe_hf.predict("runs/cityB", city="B", data_dir="DIR")      # a DataFrame uid, d, t, x, y
    problems = stmoe_hf.validate(records, city="B", data_dir="DIR", edition="humob2024")
    scores = stmoe_hf.score(records, truth, edition="humob2024")

After `import stmoe_hf` the Auto classes of transformers and `pipeline("mobility-prediction")` know the networks. The
import takes a moment only: torch and transformers are imported by the first name that needs them.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .registration import install

if TYPE_CHECKING:
    from .data.city import City, open_city
    from .data.gps import points_to_city
    from .data.submission import validate
    from .metrics.score import score
    from .model.configuration_mobility_bert import MobilityBertConfig, MobilityBertMoEConfig
    from .model.configuration_stmoe_bert import STMoEBertConfig
    from .model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE
    from .model.modeling_stmoe_bert import STMoEBertForMobility, STMoEBertModel
    from .model.pipeline_stmoe_bert import MobilityPipeline
    from .model.processing_stmoe_bert import MobilityProcessor
    from .model.spacetime import Calendar, Grid
    from .prediction.forecast import forecast
    from .prediction.predict_city import predict
    from .training.train import train

__version__ = "0.2.0"

__all__ = [
    "Calendar",
    "City",
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
    "__version__",
    "forecast",
    "open_city",
    "points_to_city",
    "predict",
    "score",
    "train",
    "validate",
]

# Public name -> the module that has it.
_HOMES = {
    "Calendar": "model.spacetime",
    "City": "data.city",
    "Grid": "model.spacetime",
    "MobilityBERT": "model.modeling_mobility_bert",
    "MobilityBERTMoE": "model.modeling_mobility_bert",
    "MobilityBertConfig": "model.configuration_mobility_bert",
    "MobilityBertMoEConfig": "model.configuration_mobility_bert",
    "MobilityPipeline": "model.pipeline_stmoe_bert",
    "MobilityProcessor": "model.processing_stmoe_bert",
    "STMoEBertConfig": "model.configuration_stmoe_bert",
    "STMoEBertForMobility": "model.modeling_stmoe_bert",
    "STMoEBertModel": "model.modeling_stmoe_bert",
    "forecast": "prediction.forecast",
    "open_city": "data.city",
    "points_to_city": "data.gps",
    "predict": "prediction.predict_city",
    "score": "metrics.score",
    "train": "training.train",
    "validate": "data.submission",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f".{name}", __name__)  # a room, such as stmoe_hf.metrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


install()
