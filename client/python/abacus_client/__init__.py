"""Python client of Abacus.

with Client("tcp://127.0.0.1:5570") as client:
    result = client.infer("minilm", {"input_ids": ids, "attention_mask": mask})
    print(result.outputs["embedding"], result.timing.total_us)
"""

from .client import Client
from .errors import AbacusError
from .leases import LeasedArray
from .messages import (
    Health,
    ModelDescription,
    Result,
    ServiceHealth,
    TensorDescription,
    Timing,
)
from .tensors import bfloat16_to_float32, float32_to_bfloat16

__all__ = [
    "AbacusError",
    "Client",
    "Health",
    "LeasedArray",
    "ModelDescription",
    "Result",
    "ServiceHealth",
    "TensorDescription",
    "Timing",
    "bfloat16_to_float32",
    "float32_to_bfloat16",
]
