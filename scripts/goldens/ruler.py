#!/usr/bin/env python3
"""Write the golden files of longbench/ruler with upstream's own constants.

    git clone https://github.com/NVIDIA/RULER           # Apache-2.0
    python scripts/goldens/ruler.py --ruler RULER --out longbench/ruler/testdata

templates.json: what stands before and after the context in each task's prompt.
scores.json: upstream's string matching of predictions and references made here.
"""
import argparse
import importlib.util
import json
import os
import re


def load(path):
    spec = importlib.util.spec_from_file_location("constants", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clean(pred):  # evaluate.py: postprocess_pred
    return re.compile(r"[\x00-\x1f]").sub("\n", pred.strip()).strip()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--ruler", required=True)
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    data = load(os.path.join(args.ruler, "scripts/data/synthetic/constants.py")).TASKS
    scoring = load(os.path.join(args.ruler, "scripts/eval/synthetic/constants.py"))
    os.makedirs(args.out, exist_ok=True)

    templates = []
    for name, task, fields, one in [
        ("niah_single_1", "niah", {"type_needle_v": "numbers"}, True), ("niah_single_3", "niah", {"type_needle_v": "uuids"}, True),
        ("niah_multivalue", "niah", {"type_needle_v": "numbers"}, False), ("niah_multiquery", "niah", {"type_needle_v": "numbers"}, False),
        ("vt", "variable_tracking", {"num_v": 5}, False), ("cwe", "common_words_extraction", {}, False),
        ("fwe", "freq_words_extraction", {}, False), ("qa_1", "qa", {}, False),
    ]:
        template = data[task]["template"] + data[task]["answer_prefix"]
        if one:  # niah.py: generate_input_output
            template = template.replace("Some", "A").replace("are all", "is").replace("are", "is").replace("answers", "answer")
            fields = {"type_needle_v": fields["type_needle_v"][:-1]}
        before, after = template.format(context="\0", query="{query}", **fields).split("\0")
        templates.append({"task": name, "tokens": data[task]["tokens_to_generate"], "before": before, "after": after})
    write(os.path.join(args.out, "templates.json"), templates)

    scores = []
    for pred, refs in [
        ("", ["a"]), ("7654321", ["7654321"]), ("76543210", ["7654321"]), ("The answer is A.", ["the ANSWER", "b"]), ("x\x01y\tz", ["x\ny", "y\nz", "q"]),
        ("\x1c ΟΔΟΣ \x1f", ["οδος", "οδοσ"]), ("İ", ["i̇", "i"]), ("1, 2 and 3", ["1", "2", "3", "4"]), ("VAR ABC DEF", ["ABC", "DEF", "XYZ"]), (" \n ", [""]),
    ]:
        p = clean(pred)
        scores.append({"pred": pred, "refs": refs, "all": scoring.string_match_all([p], [refs]), "part": scoring.string_match_part([p], [refs])})
    write(os.path.join(args.out, "scores.json"), scores)
    preds, refs = [clean(s["pred"]) for s in scores], [s["refs"] for s in scores]
    write(os.path.join(args.out, "means.json"), [{"all": scoring.string_match_all(preds[:n], refs[:n]), "part": scoring.string_match_part(preds[:n], refs[:n])} for n in range(1, len(preds) + 1)])


def write(path, value):
    with open(path, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n]\n")
    print(path, len(value))


if __name__ == "__main__":
    main()
