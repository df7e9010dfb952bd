"""The forms of stored weights, as `layerhouse formats` and the docs list them: who writes each, and what is read of it.

A form names the container or layout of the registries that reads it. Tests read the checkpoints that a form names, and compare
what is read of them with what is said here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Zeros(StrEnum):
    """Whether the zeros of a form are counted, and why not."""

    COUNTED = "counted"
    OF_CODEBOOK = "null: no code of the codebook is zero"
    OF_ROTATION = "null: the weights are rotated"
    OF_ORDER = "null: an order of the codes that is not read"
    SOME = "counted for the types named, else null"
    NOT_READ = "refused"


@dataclass(frozen=True)
class Form:
    """One form. `reader` is the name of the layout or container that reads it, `shape` what tells a weight's own shape.

    `checked` are the checkpoints that it is tested with, each written by the tool that it is named after.
    """

    name: str
    written_by: str
    reader: str
    shape: str
    zeros: Zeros
    checked: tuple[str, ...] = ()


def _form(name: str, written_by: str, reader: str, shape: str, zeros: Zeros, checked: str = "") -> Form:
    return Form(name, written_by, reader, shape, zeros, tuple(checked.split()))


FILES = (
    _form("safetensors", "everyone", "safetensors", "header", Zeros.COUNTED, "base-llama dcp-hf-safetensors"),
    _form(
        "torch files, zip or older",
        "torch.save, Lightning, Composer, DeepSpeed ZeRO 1 and 2",
        "torch zip",
        "pickle, not executed",
        Zeros.COUNTED,
        "composer-pt deepspeed-zero2 lightning-ckpt",
    ),
    _form(
        "torch.distributed.checkpoint",
        "torch, FSDP",
        "dcp",
        ".metadata",
        Zeros.COUNTED,
        "dcp-single dcp-fsdp2-2ranks",
    ),
    _form("ZeRO-3 partitions", "DeepSpeed", "ZeRO-3", "param_shapes", Zeros.COUNTED, "deepspeed-zero3"),
    _form("TensorRT-LLM, one rank", "TensorRT-LLM", "safetensors", "header", Zeros.COUNTED, "trtllm-tp1"),
    _form("tensor-parallel ranks", "Megatron, TensorRT-LLM", "", "", Zeros.NOT_READ, "megatron-tp2 trtllm-tp2"),
    _form(
        "GGUF: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, TQ1_0, TQ2_0, MXFP4; others",
        "llama.cpp",
        "gguf",
        "header",
        Zeros.SOME,
        "gguf-mxfp4 gguf-q4_0-split gguf-q4_k gguf-q8_0 gguf-tq2_0",
    ),
)
"""What is read by the container alone."""

PACKINGS = (
    _form(
        "GPTQ: 2, 3, 4, 8 bits, act order, version 2",
        "AutoGPTQ, GPTQModel, AutoRound",
        "gptq and awq",
        "qweight, qzeros, scales",
        Zeros.COUNTED,
        "gptqmodel-2bit gptqmodel-4bit gptqmodel-4bit-descact gptqmodel-4bit-v2 autoround-w3g64",
    ),
    _form(
        "AWQ: GEMM, GEMV, GEMV_FAST",
        "AutoAWQ, AutoRound",
        "gptq and awq",
        "qweight, qzeros, scales",
        Zeros.COUNTED,
        "autoawq-gemm autoawq-gemv autoawq-gemv-fast",
    ),
    _form("GPTQ in Marlin's order", "AutoGPTQ", "gptq marlin", "B, s", Zeros.OF_ORDER, "gptq-marlin"),
    _form(
        "pack-quantized, int-quantized",
        "llm-compressor",
        "compressed-tensors packed",
        "weight_shape",
        Zeros.COUNTED,
        "ct-w4a16-pack ct-w4a16-asym ct-w4a16-mixtral ct-w4a16-qwen3moe",
    ),
    _form(
        "packed NVFP4, MXFP4",
        "llm-compressor, AutoRound",
        "compressed-tensors packed",
        "words",
        Zeros.COUNTED,
        "ct-nvfp4 ct-mxfp4",
    ),
    _form(
        "sparse bitmasks, also under a scale",
        "llm-compressor",
        "compressed-tensors bitmask",
        "shape, bitmask",
        Zeros.COUNTED,
        "ct-sparse-bitmask ct-sparse24-bitmask-fp8",
    ),
    _form("pruning masks", "torch.nn.utils.prune", "torch pruning mask", "weight_orig", Zeros.COUNTED),
    _form(
        "FP8 and INT8 with scales",
        "llm-compressor, ModelOpt, DeepSeek, ComfyUI",
        "scaled 8-bit",
        "words",
        Zeros.COUNTED,
        "ct-24-fp8 ct-fp8-block ct-fp8-dynamic ct-int8-w8a8 ct-mxfp8 modelopt-fp8 modelopt-fp8-pb-wo modelopt-int8-sq "
        "comfy-scaled-fp8 deepseek-fp8-block",
    ),
    _form(
        "FP4: NVFP4, MXFP4",
        "ModelOpt, Quark, DeepSeek",
        "fp4",
        "words and scales",
        Zeros.COUNTED,
        "modelopt-nvfp4 modelopt-nvfp4-qwen3moe quark-mxfp4 fp4-int8-e8m0-scale",
    ),
    _form("INT4-AWQ, W4A8", "ModelOpt", "modelopt int4", "words and scales", Zeros.COUNTED, "modelopt-int4-awq"),
    _form("INT4", "Quark", "quark int4", "words and scales", Zeros.COUNTED, "quark-int4-wo-128"),
    _form("MXFP4 experts", "gpt-oss", "gpt-oss mxfp4", "_blocks", Zeros.COUNTED, "gpt-oss-mxfp4"),
    _form("nf4, fp4, double", "bitsandbytes", "bitsandbytes 4-bit", "quant_state", Zeros.COUNTED, "bnb-nf4 bnb-nf4-double"),
    _form("int8", "bitsandbytes", "bitsandbytes int8", "words", Zeros.COUNTED, "bnb-int8"),
    _form("HQQ: 1, 2, 3, 4, 8 bits", "hqq", "hqq", "shape", Zeros.COUNTED, "hqq-1bit-g32 hqq-4bit-g64"),
    _form("quanto", "optimum-quanto", "quanto", "words, hidden size", Zeros.COUNTED, "quanto-int4 quanto-int8"),
    _form(
        "torchao: int4, int8, float8",
        "torchao, as safetensors and pickled",
        "torchao",
        "words and scales",
        Zeros.COUNTED,
        "torchao-fp8wo torchao-int8wo torchao-intx4-g32 torchao-int8-pickle",
    ),
    _form("BitNet", "transformers", "bitnet", "words", Zeros.COUNTED, "bitnet-offline"),
    _form("EETQ", "EETQ", "eetq", "words", Zeros.OF_ORDER, "eetq-int8"),
    _form(
        "MLX: affine of any bits, mxfp4, mxfp8, nvfp4",
        "mlx-lm",
        "mlx",
        "words and scales",
        Zeros.COUNTED,
        "mlx-q3-g64 mlx-q4-g64 mlx-mixed-4-6 mlx-mxfp4 mlx-mxfp8",
    ),
    _form("FP-Quant", "FP-Quant", "fp-quant", "words and scales", Zeros.OF_ROTATION, "fp-quant-mxfp4"),
    _form("AQLM", "AQLM", "aqlm", "codes, codebooks", Zeros.OF_CODEBOOK, "aqlm-1x10-g8 aqlm-2x8-g8"),
    _form("QuIP#", "quip-sharp", "quip#", "SU, SV", Zeros.OF_ROTATION, "quip-sharp-e8p"),
    _form("HIGGS", "FLUTE", "higgs", "words and scales", Zeros.OF_CODEBOOK, "higgs-4bit"),
    _form("VPTQ", "VPTQ", "vptq", "config", Zeros.OF_CODEBOOK, "vptq-v8-k256-16"),
    _form("EXL2", "ExLlamaV2", "exl2", "q_weight, q_invperm", Zeros.OF_ORDER, "exl2-4bpw"),
    _form("EXL3", "ExLlamaV3", "exl3", "suh, svh", Zeros.OF_CODEBOOK, "exl3-4bpw"),
)
"""What a layout reads, whatever the container."""

FORMS = (*FILES, *PACKINGS)
