"""Makes model/testdata/tiny/NAME: small random-weight checkpoints of every
supported architecture in Hugging Face's layout, with what transformers computes
from them in float32 (golden.safetensors: tokens i32 [n], logits f32 [n, vocab],
greedy i32 [32]), for the tests of package model.

    python scripts/goldens/tiny_models.py
"""
import json
import os
import shutil

import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "..", "model", "testdata", "tiny")
SIZE = dict(vocab_size=288, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=2, initializer_range=0.15)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
MODELS = {
    "llama3-rope": (LlamaForCausalLM, LlamaConfig(**SIZE, num_hidden_layers=2, rope_parameters=LLAMA3, tie_word_embeddings=False), torch.bfloat16),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZE, num_hidden_layers=2, sliding_window=None), torch.float32),
    "mistral-window": (MistralForCausalLM, MistralConfig(**SIZE, num_hidden_layers=2, sliding_window=24), torch.float16),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZE, num_hidden_layers=2), torch.float32),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZE, num_hidden_layers=2, tie_word_embeddings=True), torch.float32),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**SIZE, num_hidden_layers=7, sliding_window=24, query_pre_attn_scalar=24), torch.float32),
}


def tokenizer():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    with open(os.path.join(HERE, "..", "..", "LICENSE")) as f:
        text = f.read()
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=288, special_tokens=["<s>", "</s>", "<pad>"],
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def main():
    tok = tokenizer()
    for name, (cls, config, dtype) in MODELS.items():
        torch.manual_seed(len(name))
        config._attn_implementation = "eager"
        model = cls(config).eval()
        for key, p in model.named_parameters():
            if key.endswith("norm.weight"):  # all ones would hide a forgotten norm
                torch.nn.init.normal_(p, mean=0.0 if name == "gemma3" else 1.0, std=0.2)
            elif key.endswith("bias"):
                torch.nn.init.normal_(p, std=0.2)
        folder = os.path.join(OUT, name)
        shutil.rmtree(folder, ignore_errors=True)
        model.to(dtype).save_pretrained(folder, max_shard_size="100KB" if name == "qwen2" else "5GB")
        tok.save_pretrained(folder)
        for extra in ("generation_config.json", "special_tokens_map.json"):
            path = os.path.join(folder, extra)
            if os.path.exists(path):
                os.remove(path)
        # the stored weights, computed in float32; .float() would keep rounded rope frequencies
        model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        ids = torch.randint(3, 288, (1, 80))
        with torch.no_grad():
            logits = model(ids).logits[0]
            greedy = model.generate(ids[:, :16], attention_mask=torch.ones(1, 16), max_new_tokens=32, min_new_tokens=32, do_sample=False,
                                    eos_token_id=None)[0, 16:]
        save_file({"tokens": ids[0].int().numpy(), "logits": logits.numpy(), "greedy": greedy.int().numpy()},
                  os.path.join(folder, "golden.safetensors"))
        with open(os.path.join(folder, "config.json")) as f:
            print(name, json.load(f).get("architectures"), sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)))


if __name__ == "__main__":
    main()
