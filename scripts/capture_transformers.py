#!/usr/bin/env python3
"""Capture queries, keys and values of any model that transformers can run.

Writes the trace format of model/trace (index.json and one safetensors shard a
document). The attention function is wrapped through transformers' registry, so
that every architecture whose attention goes through it works; what it receives
is after RoPE, in the half-split layout.

    capture_transformers.py --model Qwen/Qwen2.5-0.5B --out traces text.jsonl
    capture_transformers.py --model DIR --gguf model.gguf --out traces a.txt b.py

A text is one document; a .jsonl (or .jsonl.zst) file holds one a line, in the
field "text". Documents that are in the folder already are skipped.

What traces say of the model, its fingerprint above all, comes from `hashattn
inspect`, so that mappings trained on them fit the model in hashattn. For an
architecture that hashattn lacks it comes from transformers, and the fingerprint
is a SHA-256 of the weights.
"""
import argparse
import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import torch
from safetensors.torch import save_file
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import cached_file

FORMAT, VERSION, BLOCK = "hashattn-trace", 2, 128
captured = {}  # layer -> (q, k, v) of the document at hand
wanted = None  # layers to keep
positions = None  # query positions to keep
scale = None  # of q.k


def capture_attention(module, query, key, value, attention_mask, **kwargs):
    """Keeps q, k and v of the wanted layers, then attends with sdpa."""
    layer = getattr(module, "layer_idx", None)
    if layer in wanted:
        used = kwargs.get("scaling") or query.shape[-1] ** -0.5  # sdpa's own default
        if abs(used - scale) > 1e-6 * scale:
            raise SystemExit(f"layer {layer} multiplies q.k by {used}, the model's config says {scale}")
        pick = lambda t: t[0].to(torch.bfloat16).contiguous()
        captured[layer] = (pick(query[:, :, positions]), pick(key), pick(value))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register("hashattn_capture", capture_attention)
AttentionMaskInterface.register("hashattn_capture", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def block_positions(context, count=24):
    """Blocks of 128 query positions, log-spaced up to the end (trace.Blocks)."""
    if context < 2 * BLOCK:
        raise SystemExit(f"a document of {context} tokens is too short, at least {2 * BLOCK} are needed")
    lo = max(BLOCK, min(1024, context // 4))
    hi = context - BLOCK
    spread = lambda i: int(math.exp(math.log(lo) + (math.log(hi) - math.log(lo)) * i / (count - 1))) // BLOCK * BLOCK
    starts = {max(BLOCK, spread(i)) for i in range(count)}
    return [p for start in sorted(starts) for p in range(start, start + BLOCK)]


def tail_positions(context, count=64, step=16):
    """Every 16th of the last 1024 positions, for evaluation."""
    return list(range(max(context - count * step, 0), context, step))


def rope_of(config):
    """The rope settings in the form of model/shape."""
    p = dict(getattr(config, "rope_parameters", None) or {})
    if "full_attention" in p:  # a set for each kind of layer; the captured ones are full
        p = dict(p["full_attention"])
    kind = p.get("rope_type", "default")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = {"base": float(p.get("rope_theta", 10000.0)), "dims": int(head * p.get("partial_rotary_factor", 1.0))}
    if kind != "default":
        rope["scaling"] = {k: v for k, v in {
            "kind": kind, "factor": p.get("factor"), "lowFreq": p.get("low_freq_factor"), "highFreq": p.get("high_freq_factor"),
            "context": p.get("original_max_position_embeddings")}.items() if v is not None}
    return rope


def scale_of(config, head_dim):
    """What attention multiplies q.k by."""
    if getattr(config, "query_pre_attn_scalar", None):  # Gemma
        return config.query_pre_attn_scalar ** -0.5
    return getattr(config, "attention_multiplier", None) or head_dim ** -0.5  # Granite's, or the usual


def sha256_file(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 24):
            h.update(chunk)
    return h.hexdigest()


def checkpoint_of(args):
    """The GGUF file, or the folder, that the weights come from."""
    if args.gguf:
        return pathlib.Path(args.model) / args.gguf
    folder = pathlib.Path(args.model)
    return folder if folder.is_dir() else pathlib.Path(cached_file(args.model, "config.json")).parent


def inspected(args, checkpoint):
    """The model and the tokenizer's hash as hashattn sees them, None if it cannot read the checkpoint."""
    if args.hashattn:
        command, where = [args.hashattn], None
    elif found := shutil.which("hashattn"):
        command, where = [found], None
    elif shutil.which("go"):
        command, where = ["go", "run", "./cmd/hashattn"], pathlib.Path(__file__).parent.parent
    else:
        raise SystemExit("neither hashattn nor go is on the path: name the program by --hashattn, or the model's fingerprint (hashattn inspect prints it) by --fingerprint")
    run = subprocess.run([*command, "inspect", "--quick", "--json", str(checkpoint.resolve())], cwd=where, capture_output=True, text=True)
    try:
        said = json.loads(run.stdout)[0]
    except (json.JSONDecodeError, IndexError):
        raise SystemExit(f"{' '.join(command)} inspect {checkpoint}: {run.stderr.strip()}")
    if "model" not in said:
        print(f"hashattn cannot read {checkpoint} ({'; '.join(said.get('problems', []))}): the trace is for training and recall alone", file=sys.stderr)
        return None
    return said["model"], next(f["value"] for f in said["facts"] if f["name"] == "tokenizer")


def sha256_weights(checkpoint):
    """SHA-256 of the file, or of a folder's safetensors files by name."""
    files = sorted(checkpoint.glob("*.safetensors")) if checkpoint.is_dir() else [checkpoint]
    if not files:
        raise SystemExit(f"{checkpoint} has no safetensors files: give --fingerprint")
    if len(files) == 1:
        return sha256_file(files[0])
    return hashlib.sha256("".join(sha256_file(f) for f in files).encode()).hexdigest()


def identity(args, config, tokenizer):
    """What the index says of the model and of the tokenizer."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own = {
        "name": pathlib.Path(args.gguf or args.model.rstrip("/")).name, "fingerprint": args.fingerprint,
        "layers": config.num_hidden_layers, "queryHeads": config.num_attention_heads,
        "kvHeads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads, "headDim": head_dim,
        "rope": rope_of(config)}
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    if args.fingerprint:
        return own, vocabulary
    checkpoint = checkpoint_of(args)
    if found := inspected(args, checkpoint):
        different = [k for k in ("layers", "queryHeads", "kvHeads", "headDim") if found[0][k] != own[k]]
        if different:
            raise SystemExit(f"{checkpoint}: hashattn and transformers differ in {', '.join(different)}")
        return found
    return {**own, "fingerprint": sha256_weights(checkpoint)}, vocabulary


def write_atomic(path, data):
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(tmp, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(tmp, path)


def documents(paths, start):
    """Yields (id, kind, text) of every document."""
    for path in paths:
        path = pathlib.Path(path)
        name = path.name.removesuffix(".zst")
        raw = path.read_bytes()
        if path.suffix == ".zst":
            import zstandard
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        if name.endswith(".jsonl"):
            for i, line in enumerate(raw.decode("utf-8").splitlines()):
                if line.strip():
                    d = json.loads(line)
                    text = d["text"]
                    yield d.get("id") or f"{name}:{i + 1}", d.get("kind", "text"), text[int(len(text) * start):]
        else:
            text = raw.decode("utf-8")
            yield name, path.suffix.lstrip(".") or "text", text[int(len(text) * start):]


def main():
    global wanted, positions, scale
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", required=True, help="hub name or folder")
    ap.add_argument("--gguf", help="GGUF file inside the model's folder")
    ap.add_argument("--hashattn", help="the program that tells the model's fingerprint; default: hashattn on the path, else go run")
    ap.add_argument("--fingerprint", help="the model's fingerprint, in place of the one that hashattn tells")
    ap.add_argument("--out", required=True, help="trace folder")
    ap.add_argument("--context", type=int, default=4096, help="tokens taken of each document")
    ap.add_argument("--documents", type=int, help="stop after that many documents")
    ap.add_argument("--skip", type=int, default=0, help="documents to skip at the start")
    ap.add_argument("--start", type=float, default=0.0, help="share of each text to skip at its start")
    ap.add_argument("--layers", help="layers to keep, e.g. 0,3,7; default: all with full attention")
    ap.add_argument("--positions", choices=["blocks", "tail"], default="blocks", help="query positions: training blocks, or the last 1024 in steps of 16")
    ap.add_argument("--dtype", default="float32", help="arithmetic of the forward pass")
    ap.add_argument("texts", nargs="+")
    args = ap.parse_args()

    load = {"gguf_file": args.gguf} if args.gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(args.model, **load)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="hashattn_capture", **load)
    model.eval()
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    wanted = [int(x) for x in args.layers.split(",")] if args.layers else [i for i, k in enumerate(kinds) if k == "full_attention"]
    shape, vocabulary = identity(args, config, tokenizer)
    header = {
        "format": FORMAT, "version": VERSION, "model": shape, "tokenizer": vocabulary,
        "context": args.context, "captured": wanted, "scale": scale_of(config, shape["headDim"]), "shards": []}
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    umask = os.umask(0)
    os.umask(umask)
    index = out / "index.json"
    if index.exists():
        old = json.loads(index.read_text())
        different = [k for k in header if k != "shards" and old.get(k) != header[k] and not (k == "scale" and math.isclose(old.get(k, 0), scale, rel_tol=1e-6))]
        if different:
            raise SystemExit(f"{index}: the trace in this folder differs in {', '.join(different)}; choose another folder")
        header = old
    present = {(s["id"], s["hash"]) for s in header["shards"]}

    for number, (doc, kind, text) in enumerate(documents(args.texts, args.start)):
        if number < args.skip:
            continue
        if args.documents is not None and number >= args.skip + args.documents:
            break
        digest = hashlib.sha256(text.encode()).hexdigest()
        if (doc, digest) in present:
            print(f"{doc}: present", file=sys.stderr)
            continue
        tokens = tokenizer(text[: args.context * 16], return_tensors="pt")["input_ids"][:, : args.context]
        n = tokens.shape[1]
        positions = block_positions(n) if args.positions == "blocks" else tail_positions(n)
        captured.clear()
        with torch.no_grad():
            model.base_model(input_ids=tokens, use_cache=False)
        missing = [l for l in wanted if l not in captured]
        if missing:
            raise SystemExit(f"layers {missing} did not call the attention interface: {type(model).__name__} cannot be captured")
        tensors = {"tokens": tokens[0].to(torch.int32), "positions": torch.tensor(positions, dtype=torch.int32)}
        for layer in wanted:
            for part, t in zip("qkv", captured[layer]):
                if not torch.isfinite(t).all():
                    raise SystemExit(f"{doc}: layer {layer} {part} has values that are not finite")
                tensors[f"layers.{layer}.{part}"] = t
        file = out / f"{hashlib.sha256(doc.encode()).hexdigest()[:8]}-{digest[:16]}.safetensors"
        tmp = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        save_file(tensors, tmp, metadata={"format": FORMAT, "version": str(VERSION), "document": doc, "hash": digest, "model": header["model"]["fingerprint"]})
        os.chmod(tmp, 0o666 & ~umask)  # safetensors makes it private
        with open(tmp, "rb") as f:
            os.fsync(f.fileno())
        shard = {"file": file.name, "id": doc, "hash": digest, "kind": kind, "tokens": n, "queries": len(positions), "bytes": tmp.stat().st_size, "sha256": sha256_file(tmp)}
        os.replace(tmp, file)
        header["shards"].append(shard)
        write_atomic(index, (json.dumps(header, indent=1) + "\n").encode())
        print(f"{doc}: {n} tokens, {len(positions)} queries, {shard['bytes'] >> 20} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
