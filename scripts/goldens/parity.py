"""Makes model/testdata/parity/NAME.safetensors: what transformers computes from
a checkpoint, in float32, for the tests of package model.

    python scripts/goldens/parity.py NAME FILE.gguf TEXT.zst [TEXT.zst ...]

Tensors: tokens i32 [n], top i32 [n] (the most likely next token at each
position), rows i32 [r], columns i32 [c], logits f32 [r, c] (a sample of the
logits), norm f32 [r] (the Euclidean norm of each whole row), and for 5 prompts
prompt.I i32 and greedy.I i32 [64].
"""
import os
import sys

import numpy as np
import torch
import zstandard
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

POSITIONS, COLUMNS, NEW = 4000, 256, 64
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Once upon a time, in a village by the sea,",
    "The three laws of thermodynamics are: 1.",
    "Q: What is the boiling point of water in degrees Celsius?\nA:",
]


def main(name, path, texts):
    folder, file = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager").eval()
    ids = []
    share = POSITIONS // len(texts)
    for text in texts:
        with open(text, "rb") as f:
            decoded = zstandard.ZstdDecompressor().stream_reader(f).read().decode()
        ids += tokenizer.encode(decoded[:20 * share], add_special_tokens=not ids)[:share]
    ids = torch.tensor(ids, dtype=torch.int64)
    n = len(ids)
    rng = np.random.default_rng(0)
    rows = np.arange(n // 40 - 1, n, n // 40, dtype=np.int32)
    with torch.no_grad():
        hidden = model.model(ids[None]).last_hidden_state[0]
        top = []
        for at in range(0, n, 100):
            top.append(model.lm_head(hidden[at:at + 100]).argmax(-1).to(torch.int32))
        some = model.lm_head(hidden[rows.tolist()]).numpy()
        columns = np.sort(rng.choice(some.shape[1], COLUMNS, replace=False)).astype(np.int32)
        out = {
            "tokens": ids.to(torch.int32).numpy(), "top": torch.cat(top).numpy(), "rows": rows, "columns": columns,
            "logits": np.ascontiguousarray(some[:, columns]), "norm": np.linalg.norm(some.astype(np.float64), axis=1).astype(np.float32),
        }
        for i, prompt in enumerate(PROMPTS):
            p = tokenizer.encode(prompt, return_tensors="pt")
            made = model.generate(p, attention_mask=torch.ones_like(p), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
                                  repetition_penalty=1.0, suppress_tokens=None, eos_token_id=None)[0, p.shape[1]:]
            out[f"prompt.{i}"], out[f"greedy.{i}"] = p[0].to(torch.int32).numpy(), made.to(torch.int32).numpy()
            print(repr(tokenizer.decode(made))[:100])
    target = os.path.join(os.path.dirname(__file__), "..", "..", "model", "testdata", "parity")
    os.makedirs(target, exist_ok=True)
    save_file(out, os.path.join(target, name + ".safetensors"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
