"""A small model with random weights and the files of BGE-M3, as BGEM3FlagModel reads them from a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HIDDEN = 32
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz.,?", *"광화문은경복궁의남쪽정이다요일에닫는"]


def make(folder: Path, *, hidden: int = HIDDEN, layers: int = 2, positions: int = 130) -> Path:
    """Writes configuration, weights, a tokenizer of single letters, and the sparse and multi-vector heads."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(20)
    vocabulary = [*SPECIAL, "▁", *dict.fromkeys(LETTERS), "<mask>"]
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        max_position_embeddings=positions,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=hidden**-0.5,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    for name, width in (("colbert_linear", hidden), ("sparse_linear", 1)):
        head = torch.nn.Linear(hidden, width)
        torch.nn.init.ones_(head.bias)  # Else hardly a weight would be above 0.
        torch.save(head.state_dict(), folder / f"{name}.pt")
    _tokenizer(vocabulary).save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: list[str]) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(vocabulary)], unk_id=3))
    letters.normalizer = normalizers.NFKC()
    letters.pre_tokenizer = pre_tokenizers.Metaspace()
    letters.decoder = decoders.Metaspace()
    letters.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=letters,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=8192,
    )
