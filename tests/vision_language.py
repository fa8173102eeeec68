"""A tiny vision-language model with random weights, built in memory."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = ("a", "red", "ball", "rolls", "over", "grass", "while", "the", "camera", "follows", "it", "slowly", ".", ",")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
SIZE, PATCH = 32, 16


def save_model(folder: Path, vision: bool = True) -> Path:
    """Saves the model and its processor; without vision, only a language model with a tokenizer."""
    torch.manual_seed(0)
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left",
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    if not vision:
        from transformers import LlamaForCausalLM

        LlamaForCausalLM(text).save_pretrained(folder)
        fast.save_pretrained(folder)
        return folder
    seeing = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE,
        patch_size=PATCH, projection_dim=16,
    )  # fmt: skip
    config = LlavaConfig(vision_config=seeing, text_config=text, image_token_index=SPECIAL.index("<image>"))
    model = LlavaForConditionalGeneration(config)
    special = [index for index, _ in enumerate(SPECIAL)]
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, suppress_tokens=special)
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, do_center_crop=True
    )
    LlavaProcessor(
        image_processor=images, tokenizer=fast, patch_size=PATCH, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder
