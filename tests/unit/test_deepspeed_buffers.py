"""Buffers of ZeRO follow the model's size."""

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.model.adapt import make_trainable
from cogvx_exp.strategies.deepspeed_config import buffer_sizes


def test_a_lora_is_reduced_in_a_buffer_of_its_own_size(make_job) -> None:
    job = make_job("model=tiny-5b")
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
        make_trainable(transformer, job.method, 0)
    trained = sum(weight.numel() for weight in transformer.parameters() if weight.requires_grad)
    block = sum(weight.numel() for weight in transformer.transformer_blocks[0].parameters())
    assert buffer_sizes(transformer, 2)["reduce_bucket_size"] == trained
    of_stage_3 = buffer_sizes(transformer, 3)
    assert of_stage_3["reduce_bucket_size"] == trained
    assert of_stage_3["stage3_max_live_parameters"] == 2 * block
