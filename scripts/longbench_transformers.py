#!/usr/bin/env python3
"""Answers LongBench with transformers, to compare with hashattn's dense path.

It does what LongBench's pred.py does (github.com/THUDM/LongBench): official
prompts, middle truncation, chat template but for few-shot and code tasks,
greedy decoding, samsum's line end. It writes hashattn's predictions, one file
TASK.jsonl a task, so that

    hashattn eval score DIR --against OTHER

lists the first difference of each sample. Prompts are hashed by their tokens,
and each token's lead over the next best one is kept: a difference where the
lead is tiny is a tie that rounding decided.

    pip install torch transformers gguf
    git clone https://github.com/THUDM/LongBench
    longbench_transformers.py --model smollm2.gguf --data DATA --prompts LongBench/config --max-length 2000 --out DIR
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import struct
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NO_CHAT = ["trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"]  # pred.py
ENDS = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>"]


def load(path):
    """The model in float32 and its tokenizer, from a GGUF file or a folder."""
    path = pathlib.Path(path)
    where = {"pretrained_model_name_or_path": str(path)}
    if path.is_file():
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if path.is_file():
        restore_pre_tokenizer(path, tokenizer)
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval(), tokenizer


def restore_pre_tokenizer(path, tokenizer):
    """transformers takes every GGUF file's words for GPT-2's; SmolLM's also split digits, as in its tokenizer.json."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def records(data, task):
    """The samples of a task's file, plain or compressed."""
    for suffix, read in [
        ("", lambda p: p.read_text()),
        (".gz", lambda p: gzip.open(p, "rt").read()),
        (".zst", lambda p: subprocess.run(["zstd", "-dcq", p], check=True, capture_output=True).stdout.decode()),
    ]:
        path = pathlib.Path(data) / (task + ".jsonl" + suffix)
        if path.exists():
            return [json.loads(line) for line in read(path).splitlines() if line]
    raise SystemExit(f"{data}: no {task}.jsonl, also not .gz or .zst")


def sample_hash(task, r):
    """The hash of longbench.Sample.Hash: of JSON as Go writes it."""
    fields = [task, r.get("input") or "", r["context"], r["answers"], r.get("all_classes")]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    for c in "<>&\u2028\u2029":
        text = text.replace(c, f"\\u{ord(c):04x}")
    return hashlib.sha256((text + "\n").encode()).hexdigest()


def prompt_tokens(tokenizer, text, chat, max_length):
    """pred.py's way from a prompt to tokens. What the chat template writes gets no second BOS."""
    ids = tokenizer(text).input_ids
    if len(ids) > max_length:
        half = max_length // 2
        text = tokenizer.decode(ids[:half], skip_special_tokens=True) + tokenizer.decode(ids[-half:], skip_special_tokens=True)
    if chat and tokenizer.chat_template:
        text = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False).input_ids
    return tokenizer(text).input_ids


def answer(model, ids, ends, max_tokens, first_line):
    """The tokens of a greedy answer and each one's lead."""
    options = {"min_length": len(ids) + 1} if first_line else {}
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=max_tokens, num_beams=1, do_sample=False,
            eos_token_id=ends, pad_token_id=ends[0], output_logits=True, return_dict_in_generate=True, **options,
        )
    best = [torch.topk(step[0], 2).values for step in out.logits]
    return out.sequences[0, len(ids):].tolist(), [round(float(b[0] - b[1]), 6) for b in best]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="GGUF file or Hugging Face folder")
    p.add_argument("--data", required=True, help="folder of TASK.jsonl, also .gz or .zst")
    p.add_argument("--prompts", required=True, help="folder of dataset2prompt.json and dataset2maxlen.json")
    p.add_argument("--tasks", required=True, help="separated by commas")
    p.add_argument("--samples", type=int, default=0, help="of each task; 0 for all")
    p.add_argument("--max-length", type=int, required=True, help="tokens of a prompt before middle truncation")
    p.add_argument("--out", required=True, help="folder of predictions")
    o = p.parse_args()

    config = pathlib.Path(o.prompts)
    prompts, limits = (json.loads((config / f"dataset2{name}.json").read_text()) for name in ("prompt", "maxlen"))
    model, tokenizer = load(o.model)
    vocabulary = tokenizer.get_vocab()
    ends = sorted({tokenizer.eos_token_id} | {vocabulary[t] for t in ENDS if t in vocabulary})
    newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
    out = pathlib.Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    for task in o.tasks.split(","):
        start = time.time()
        samples = records(o.data, task)[: o.samples or None]
        with open(out / f"{task}.jsonl", "w") as f:
            for r in samples:
                text = prompts[task].format(**{"input": "", **r})
                ids = prompt_tokens(tokenizer, text, task not in NO_CHAT, o.max_length)
                tokens, margins = answer(model, ids, ends + [newline] * (task == "samsum"), limits[task], task == "samsum")
                while tokens and tokens[-1] in ends:
                    tokens.pop()
                digest = sample_hash(task, r)
                f.write(json.dumps({
                    "pred": tokenizer.decode(tokens, skip_special_tokens=True), "answers": r["answers"], "all_classes": r.get("all_classes"),
                    "length": r.get("length", 0), "task": task, "sample": r.get("_id") or digest[:32], "hash": digest,
                    "prompt": hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()[:32], "prompt_tokens": len(ids),
                    "tokens": tokens, "margins": margins[: len(tokens) + 1],
                }, ensure_ascii=False) + "\n")
                f.flush()
        print(f"{task}: {len(samples)} samples in {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
