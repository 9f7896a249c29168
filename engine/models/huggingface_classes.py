"""Which transformers class a config.json asks for, and what task that is."""

from __future__ import annotations

from typing import Any

from engine.errors import ModelError

# In this order, since some classes stand in several mappings.
_TASKS = {
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "text-generation",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES": "automatic-speech-recognition",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES": "text2text-generation",
    "MODEL_FOR_CTC_MAPPING_NAMES": "automatic-speech-recognition",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "image-text-to-text",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "text-classification",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "fill-mask",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "token-classification",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "question-answering",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": "multiple-choice",
    "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES": "next-sentence-prediction",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": "image-classification",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES": "object-detection",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES": "image-segmentation",
    "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES": "image-segmentation",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES": "depth-estimation",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES": "audio-classification",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES": "video-classification",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES": "zero-shot-image-classification",
    "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES": "visual-question-answering",
    "MODEL_FOR_MASK_GENERATION_MAPPING_NAMES": "mask-generation",
    "MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING_NAMES": "time-series-forecasting",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES": "pretraining",
    "MODEL_MAPPING_NAMES": "feature-extraction",
}
_LARGEST_LAYERS = 2_000


def class_of(config: Any, told: dict[str, Any]) -> tuple[Any, str]:
    """The model class and its task: the config's architecture, else the auto class of its type.

    Args:
        config: the transformers config.
        told: config.json as it was read.

    Raises:
        ModelError: the class is not part of transformers; remote code is never run.
    """
    import transformers

    names = told.get("architectures") or [_auto_class(config)]
    name = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        remote = " Its own code (auto_map) is never run." if told.get("auto_map") else ""
        raise ModelError(
            f"{name!r} is not a model class of transformers {transformers.__version__}.{remote}",
            hint="Write a file.py with build() that makes it, or install the version that has it.",
        )
    return found, task_of(found.__name__)


def task_of(name: str) -> str:
    """The task of a class by the auto mapping that it stands in."""
    from transformers.models.auto import modeling_auto

    for mapping, task in _TASKS.items():
        for value in getattr(modeling_auto, mapping, {}).values():
            if name == value or (isinstance(value, list | tuple) and name in value):
                return task
    return "feature-extraction"


def config_of(told: dict[str, Any]) -> Any:
    """The transformers config from what config.json says.

    Raises:
        ModelError: an unknown model type, or values that it refuses.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = told.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        remote = " Its own code (auto_map) is never run." if told.get("auto_map") else ""
        raise ModelError(
            f"config.json has the model_type {kind!r}, which transformers does not know.{remote}",
            hint="Is this a Hugging Face model folder? Otherwise give file.py:build.",
        )
    _check_layers(told)
    try:
        return CONFIG_MAPPING[kind].from_dict(dict(told))
    except Exception as error:  # every config validates in its own way
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"config.json cannot be used: {first or type(error).__name__}.") from error


def _check_layers(told: dict[str, Any]) -> None:
    for key, value in told.items():
        if isinstance(value, dict):
            _check_layers(value)
        elif (
            isinstance(value, int)
            and "layer" in key
            and key.endswith(("layers", "layer"))
            and value > _LARGEST_LAYERS
        ):
            raise ModelError(f"config.json asks for {value} layers ({key}).")


def _auto_class(config: Any) -> str | None:
    from transformers.models.auto import modeling_auto

    for mapping in _TASKS:
        name = getattr(modeling_auto, mapping, {}).get(config.model_type)
        if name and mapping != "MODEL_FOR_PRETRAINING_MAPPING_NAMES":
            return name[0] if isinstance(name, list | tuple) else str(name)
    return None
