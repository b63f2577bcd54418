"""Times llama.cpp on GGUF files, alone or side by side with hashattn, and
writes the rows of `hashattn bench`, so that `hashattn report` shows them.

    pip install llama-cpp-python
    go build -o hashattn ./cmd/hashattn
    python scripts/peers/llamacpp.py smollm2.gguf qwen0.5b.gguf --hashattn ./hashattn --threads 2
    ./hashattn report runs/peers/hashattn runs/peers/llamacpp

Prefill is one evaluation of CONTEXT tokens from an empty cache; decode is the
median of single-token evaluations behind them. With --hashattn the two take
turns, context by context and round by round, the other one first in every
second round: a machine that slows down or speeds up meets both. A figure is
the median over the rounds; the spread is theirs. Rounds of later calls with the
same --out are added to those that are there (--fresh starts anew).
"""
import argparse
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
import time

import llama_cpp
from llama_cpp import Llama


def row(part, context, seconds, per_run):
    us = sorted(s * 1e6 for s in seconds)
    pick = lambda share: us[int(share * (len(us) - 1) + 0.5)]
    return {"part": part, "device": "cpu", "shape": "", "batch": 1, "context": context, "selector": "dense",
            "median_us": pick(0.5), "p10_us": pick(0.1), "p90_us": pick(0.9), "runs": len(us), "density": 1,
            "tokens_per_second": per_run / (pick(0.5) / 1e6), "checked": True}


def time_llama(model, context, a):
    """The rows of one prefill and of the decode steps behind it."""
    llm = Llama(model, n_ctx=context + a.steps + 1, n_threads=a.threads, n_threads_batch=a.threads, n_batch=512, verbose=False,
                logits_all=False)
    if a.text:
        with open(a.text, "rb") as f:
            ids = llm.tokenize(f.read(), add_bos=False)
        if len(ids) < context + a.steps:
            raise SystemExit(f"{a.text}: {len(ids)} tokens, {context + a.steps} are needed")
    else:
        ids = [100 + i % 5000 for i in range(context + a.steps)]
    seconds = []
    for _ in range(a.runs):
        llm.reset()
        start = time.perf_counter()
        llm.eval(ids[:context])
        seconds.append(time.perf_counter() - start)
    rows = [dict(row("prefill", context, seconds, context), note="llama.cpp")]
    seconds = []
    for i in range(a.steps):
        start = time.perf_counter()
        llm.eval(ids[context + i:context + i + 1])
        seconds.append(time.perf_counter() - start)
    rows.append(dict(row("decode", context, seconds[1:], 1), note="llama.cpp"))
    llm.close()
    return rows


def time_hashattn(model, context, a):
    """The same of hashattn, and what its result says of itself."""
    rows = []
    for part, runs in ("prefill", max(3, a.runs)), ("decode", a.steps):  # three are the fewest it takes
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "bench.json")
            command = [a.hashattn, "bench", part, "--model", model, "--device", "cpu", "--decode", str(context), "--runs", str(runs),
                       "--threads", str(a.threads), "--name", "peers", "--set", "output.dir=" + folder, "--out", out, "--quiet"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
            with open(out) as f:
                result = json.load(f)
        rows += [dict(r, note="hashattn") for r in result["rows"] if r["selector"] == "dense"]
    return rows, result


def merge(samples):
    """One row for the rows of all rounds: medians, and the spread of the rounds."""
    pick = lambda key: statistics.median(s[key] for s in samples)
    merged = dict(samples[0], median_us=pick("median_us"), tokens_per_second=pick("tokens_per_second"), runs=sum(s["runs"] for s in samples))
    if len(samples) > 1:
        merged["p10_us"], merged["p90_us"] = min(s["median_us"] for s in samples), max(s["median_us"] for s in samples)
    return merged


def write(path, result):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".part", "w") as f:
        json.dump(result, f, indent=1)
    os.replace(path + ".part", path)


def result_of(rounds, device, versions, config):
    """A result file of the rounds' merged rows."""
    raw = json.dumps(config, separators=(",", ":"))
    keys = list(dict.fromkeys((r["shape"], r["part"], r["context"]) for r in rounds))
    rows = [merge([r for r in rounds if (r["shape"], r["part"], r["context"]) == k]) for k in keys]
    return {"kind": "bench", "format": 1, "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "config": config, "configHash": hashlib.sha256(raw.encode()).hexdigest(), "model": {"name": ", ".join(dict.fromkeys(r["shape"] for r in rounds))},
            "device": device, "versions": versions, "rows": rows}


def table(ours, theirs):
    """Lines that set both side by side; ours may be empty."""
    line = lambda cells: "  ".join(str(c).ljust(w) if i < 2 else str(c).rjust(w) for i, (c, w) in enumerate(zip(cells, widths)))
    speed = lambda r: f"{r['tokens_per_second']:.1f}"
    spread = lambda r: "-".join(f"{r['tokens_per_second'] * r['median_us'] / r[k]:.1f}" for k in ("p90_us", "p10_us"))
    cells = [["model", "part", "tokens", "hashattn tokens/s", "spread", "llama.cpp tokens/s", "spread", "ratio"]]
    for t in theirs:
        o = next((o for o in ours if (o["shape"], o["part"], o["context"]) == (t["shape"], t["part"], t["context"])), None)
        cells.append([t["shape"], t["part"], t["context"], speed(o) if o else "-", spread(o) if o else "-", speed(t), spread(t),
                      f"{o['tokens_per_second'] / t['tokens_per_second']:.2f}" if o else "-"])
    widths = [max(len(str(c[i])) for c in cells) for i in range(len(cells[0]))]
    return [line(c) for c in cells]


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1], formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", nargs="+", metavar="FILE.gguf")
    a.add_argument("--hashattn", help="the program to time in turns with llama.cpp")
    a.add_argument("--context", default="2048,4096")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--rounds", type=int, default=1)
    a.add_argument("--runs", type=int, default=1, help="prefills of each context and round")
    a.add_argument("--steps", type=int, default=32, help="decode steps behind each context")
    a.add_argument("--text", help="a text that llama.cpp is to prefill; tokens counted up if not given")
    a.add_argument("--out", default="runs/peers", help="folder for hashattn/bench.json and llamacpp/bench.json")
    a.add_argument("--fresh", action="store_true", help="drop the rounds that --out holds")
    a.add_argument("--json", action="store_true", help="print the rows as JSON")
    a = a.parse_args()
    contexts = [int(c) for c in a.context.split(",")]
    path = {who: os.path.join(a.out, who, "bench.json") for who in ("hashattn", "llamacpp")}
    kept = os.path.join(a.out, "rounds.json")
    rounds, about = {"hashattn": [], "llamacpp": []}, None
    if os.path.exists(kept) and not a.fresh:
        with open(kept) as f:
            old = json.load(f)
        rounds, about = old["rounds"], old["about"]
    for model in a.models:
        name = os.path.splitext(os.path.basename(model))[0]
        for n in range(a.rounds):
            for context in contexts:
                for who in sorted(path, reverse=n % 2 == 1):
                    if who == "llamacpp":
                        rows = time_llama(model, context, a)
                    elif a.hashattn:
                        rows, result = time_hashattn(model, context, a)
                        about = {"device": result["device"], "versions": result["versions"]}
                    else:
                        continue
                    rounds[who] += [dict(r, shape=name) for r in rows]
                    write(kept, {"rounds": rounds, "about": about})
    config = {"models": list(dict.fromkeys(r["shape"] for r in rounds["llamacpp"])), "contexts": contexts, "threads": a.threads}
    llama = result_of(rounds["llamacpp"], {"kind": "cpu", "name": f"llama.cpp (llama-cpp-python {llama_cpp.__version__}), {a.threads} threads", "threads": a.threads},
                      {"llama-cpp-python": llama_cpp.__version__}, config)
    write(path["llamacpp"], llama)
    ours = {"rows": []}
    if rounds["hashattn"]:
        ours = result_of(rounds["hashattn"], about["device"], about["versions"], config)
        write(path["hashattn"], ours)
    if a.json:
        print(json.dumps(ours["rows"] + llama["rows"], indent=1))
        return
    print("\n".join(table(ours["rows"], llama["rows"])))
    print("tokens/s: median over the rounds, with the slowest and the fastest of several, else of the steps (10th to 90th percentile)")


if __name__ == "__main__":
    main()
