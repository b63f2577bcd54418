#!/usr/bin/env python3
"""Write the golden files of longbench/ with the official Python scorer.

    pip install rouge==1.0.1 jieba==0.42.1 fuzzywuzzy==0.18.0 python-Levenshtein numpy zstandard
    git clone https://github.com/THUDM/LongBench        # MIT
    python scripts/goldens/longbench.py --longbench LongBench/LongBench --out longbench [--preds DIR]

DIR, if given, holds a folder of predictions a model (TASK.jsonl.zst); only hashes
of their segmentation are written. All other texts are made here.
"""
import argparse
import hashlib
import io
import json
import os
import random
import string
import sys
import warnings

sys.modules["Levenshtein"] = None  # first without it, as the official requirements have it
warnings.filterwarnings("ignore")
import jieba  # noqa: E402
import numpy as np  # noqa: E402
from fuzzywuzzy import fuzz  # noqa: E402

jieba.setLogLevel(60)
rng = random.Random(20240917)

LATIN = ("the a an cat Cat's dog. ran, quick-brown U.S. fox 3.14 mr. Θάλασσα naïve İstanbul ΟΔΟΣ "
         "ʼn x_y the- (an) thé 12 ١٢ ² a.b").split()
CHINESE = ("中国 人民 银行 今天 天气 很好 研究生 生命 起源 南京市 长江大桥 小明 硕士 毕业 于 中科院 计算所 "
           "后在 日本 京都 大学 深造 的 了 和 是 在 我们 他 。 ， 《 》 “ ” 2012年 25.89% GDP T恤 iPhone15 ！ ？").split()

HAN = [
    "", " ", "\n", "\r\n", "\r\r\n\n", "我来到北京清华大学", "他来到了网易杭研大厦", "小明硕士毕业于中国科学院计算所，后在日本京都大学深造",
    "南京市长江大桥", "研究生命的起源", "乒乓球拍卖完了", "工信处女干事每月经过下属科室都要亲口交代24口交换机等技术性器件的安装工作",
    "永和服装饰品有限公司", "我不喜欢日本和服", "雷猴回归人间。", "“微软”的“微”字怎么写", "结过婚的和尚未结过婚的",
    "在2012年，铜仁市的财政总收入增长了25.89%。", "3.14%、100.5.6%和1.2.3", "a.b.c-d_e#f&g+h", "C++和c#是什么关系？11+122=133，是吗？PI=3.14159",
    "你认识那个和主席握手的的哥吗？他开一辆黑色的士。", "T恤B超AA制卡拉OK", "枪杆子中出政权", "张三风同学走上了不归路",
    "阿Q腰间挂着BB机手里拿着大哥大，说：我一般吃饭不AA制的。", "龘靐齉爩鱻麤龗灪吁龖", "㐀㐁㐂 𠀀𠀁 豈更", "、。，！？；：“”‘’（）【】《》", "é à ü ñ ß Ω 你é好",
    "ｆｕｌｌｗｉｄｔｈ　全角　空格", "你好\u00a0世界\u2003再\u3000见", "一" * 40, "哈哈哈哈哈哈哈哈", "这这这这是是是是", "1234567890" * 3, "a" * 60, "%%%...+++---",
    "段落１２、段落13", "马云飞龙在天涯海角", "李偲嫣（Lee See Yin Leticia，1964年8月17日）", "刘德华王菲周杰伦林俊杰", "嘟嘟囔囔支支吾吾",
    "鿕鿖龥龦", "\x1c中\x1d国\x85人", "的" * 3 + "了" * 3, "😀你好😀世界", "第2.5章.3节", "v1.0.2-beta版本_测试", "他说：\"Hello, 世界!\"", "北京\t上海\v广州\f深圳",
]


def words(vocabulary, n, sep=" "):
    return sep.join(rng.choice(vocabulary) for _ in range(n))


def bits(x):
    return float(x).hex()


def metric_cases():
    qa = [("", ""), ("", "x"), ("the", "a"), ("The cat", "a cat!"), ("An apple a day", "apple, the day"), ("U.S.A.", "usa"),
          ("İstanbul", "i̇stanbul"), ("ΟΔΟΣ ΟΔΥΣΣΕΥΣ Σ", "οδος οδυσσευς σ"), ("a\u00a0b\x1cc\u3000d", "A b c d"), ("the_cat a-b", "the_cat ab"),
          ("thé thea a\u0301", "thé the a\u0301"), ("yes yes yes", "yes"), ("one two three two", "two two two"), ("²a a² 1a", "²a a² 1a"),
          ("(the) [a] {an}", "x"), ("1,000.5", "10005"), ("\n\nParis\nLondon", "Paris"), ("“Paris” — it is", "paris it is")]
    qa += [(words(LATIN, rng.randrange(1, 12)), words(LATIN, rng.randrange(1, 9))) for _ in range(24)]
    for p, a in qa:
        yield "qa_f1", p, a, None

    zh = [("", ""), ("。", "，"), ("增长了25.89%。", "2012年，铜仁市的财政总收入增长了25.89%。"), ("《红楼梦》", "红楼梦"), ("Apple公司", "apple 公司"),
          ("南京市长江大桥", "南京长江大桥"), ("ＡＢＣ", "abc"), ("１２", "12"), ("他 他 他", "他"), ("是的", "不是")]
    zh += [(words(CHINESE, rng.randrange(1, 14), ""), words(CHINESE, rng.randrange(1, 10), "")) for _ in range(20)]
    for p, a in zh:
        yield "qa_f1_zh", p, a, None

    rouge = [("", "x"), ("x", ""), (".", "x"), (" ", "x"), (" ", " "), (" . ", "."), ("x.", "x"), ("...", "..."), ("a b c", "a b c"), ("a b c", "c b a"),
             ("a a a a", "a"), ("a. b. c", "a b c"), ("a b c d e", "e d. c b. a"), ("The U.S. grew 3.5 percent.", "U.S. growth was 3.5 percent."),
             ("x y z w", "y x w z"), ("A a", "a A"), ("one\ntwo\x1cthree", "one two three"), ("a b. . c", "a. . b c")]
    rouge += [(words(LATIN, rng.randrange(5, 60)), words(LATIN, rng.randrange(5, 60))) for _ in range(16)]
    few = list("abcdef")
    rouge += [(words(few, rng.randrange(5, 40)), words(few + ["."], rng.randrange(5, 40))) for _ in range(14)]
    for p, a in rouge:
        yield "rouge", p, a, None

    rouge_zh = [("", "中国"), ("。", "中国。"), ("中国人民银行", "中国 人民 银行"), ("增长3.5个百分点.", "增长了3.5%")]
    rouge_zh += [(words(CHINESE, rng.randrange(5, 60), ""), words(CHINESE, rng.randrange(5, 60), "")) for _ in range(16)]
    for p, a in rouge_zh:
        yield "rouge_zh", p, a, None

    classes = ["Food", "Order, rank", "Number of something", "Other number", "number", "Number", "of", "some", "Description of something", "Description of a person",
               "Definition of something", "经济", "农业、农村", "农业"]
    for p, a in [("", "Food"), ("Food", "Food"), ("food", "Food"), ("Number of something", "Number of something"), ("Number of something or Food", "Number of something"),
                 ("Other number", "Other number"), ("some of number", "Number of something"), ("Description of something and of a person", "Description of a person"),
                 ("农业、农村", "农业、农村"), ("农业", "农业"), ("农业、农村", "农业"), ("Definition of something Description of something", "Definition of something"),
                 ("of", "of"), ("all: " + " ".join(classes), "Number of something"), ("all: " + " ".join(classes), "Order, rank")]:
        yield "classification", p, a, classes

    for p, a in [("", "Paragraph 1"), ("Paragraph 1", "Paragraph 1"), ("1", "Paragraph 1"), ("Paragraph 11", "Paragraph 1"), ("1 1 2", "Paragraph 1"),
                 ("Paragraph 07", "Paragraph 7"), ("١", "Paragraph ١"), ("12.5", "Paragraph 5"), ("no", "Paragraph x Paragraph 3"), ("3x3", "Paragraph x Paragraph 3")]:
        yield "retrieval", p, a, None
    for p, a in [("", "段落1"), ("段落1", "段落1"), ("段落１", "段落１"), ("1，2，1", "段落1"), ("第3段", "段落段落3"), ("3.3.4", "段落3和段落4")]:
        yield "retrieval_zh", p, a, None
    for p, a in [("", "4"), ("4", "4"), ("There are 4 of 30, so 4", "4"), ("04", "4"), ("4.0", "4"), ("12", "1"), ("٤", "٤"), ("five", "5")]:
        yield "count", p, a, None

    code = [("", ""), ("", "x"), ("x", ""), ("x = 1", "x = 1"), ("\n\nx = 1\ny", "x = 1"), ("# c\nx = 1", "x = 1"), ("```python\nx=1", "x = 1"), ("// c\n/* d */", "d"),
            ("# only\n# comments", "x"), ("a//b\nc", "c"), ("ab", "a"), ("a", "ab"), ("abcd", "bcde"), ("abx", "abyabx"), (" \t", "x"),
            ("private Thread currentThread;", "private volatile Thread currentThread;"), ("é" * 10 + "x", "e" * 10 + "x"), ("😀x", "😀y"),
            ("return " + "a" * 8, "return " + "a" * 7 + "b" * 9), ("        if e.text == language:", "            if e.text == lang:")]
    letters = "abc (){};=_"
    for n in (3, 8, 20, 60, 150, 199, 200, 201, 260, 400):
        for _ in range(3):
            a = "".join(rng.choice(letters if n < 190 else string.ascii_letters + letters * 3) for _ in range(n))
            b = list(a)
            for _ in range(rng.randrange(1, n)):
                k = rng.randrange(len(b))
                op = rng.randrange(3)
                if op == 0 and len(b) > 2:
                    del b[k]
                elif op == 1:
                    b.insert(k, rng.choice(letters))
                else:
                    b[k] = rng.choice(letters)
            code.append((a, "".join(b)))
    for p, a in code:
        yield "code_sim", p, a, None


def score(fn, p, a, classes):
    return fn(p, a, all_classes=classes)


def write(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n]\n")
    print(path, len(value))


def folder(path, official, e):
    """A folder of predictions and the official result.json of it."""
    os.makedirs(path, exist_ok=True)
    tasks = {
        "qasper": lambda: (words(LATIN, 4), [words(LATIN, 3), words(LATIN, 4)], None),
        "gov_report": lambda: (words(LATIN, 30), [words(LATIN, 30)], None),
        "trec": lambda: ("\n" + rng.choice(["Food", "Date", "food", "Order, rank or Date"]) + "\nFood", ["Food"], ["Food", "Date", "Order, rank"]),
        "samsum": lambda: (words(LATIN, 12) + "\nDialogue: Food", [words(LATIN, 9)], None),
        "passage_count": lambda: (rng.choice(["3", "3 or 4", "", "three", "4 4 3"]), ["3"], None),
        "lcc": lambda: ("# x\nreturn " + words(list("abc"), 6, "_"), ["return " + words(list("abc"), 6, "_")], None),
    }
    if not e:
        tasks["vcsum"] = lambda: (words(CHINESE, 30, ""), [words(CHINESE, 25, "")], None)
        tasks["multifieldqa_zh"] = lambda: (words(CHINESE, 6, ""), [words(CHINESE, 5, "")], None)
        tasks["passage_retrieval_zh"] = lambda: (rng.choice(["段落3", "段落4", "3，4", ""]), ["段落3"], None)
    scores = {}
    for task, make in tasks.items():
        rows = []
        # Enough for numpy's blocked summation to differ from a plain sum.
        lengths = [rng.choice([10, 3999, 4000, 7999] + ([8000, 20000] if task != "lcc" else [])) for _ in range(40 if e else 7)]
        for n in lengths:
            p, a, c = make()
            rows.append({"pred": p, "answers": a, "all_classes": c, "length": n})
        with open(os.path.join(path, task + ".jsonl"), "w", encoding="utf-8") as f:
            for r in rows:
                f.write(json.dumps(r, ensure_ascii=False) + "\n")
        columns = [[r[k] for r in rows] for k in ("pred", "answers", "length")]
        if e:
            scores[task] = official.scorer_e(task, *columns, rows[-1]["all_classes"])
        else:
            scores[task] = official.scorer(task, columns[0], columns[1], rows[-1]["all_classes"])
    with open(os.path.join(path, "result.json"), "w") as f:
        json.dump(scores, f, ensure_ascii=False, indent=4)
    print(path, scores)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--longbench", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--preds")
    args = ap.parse_args()
    sys.path.insert(0, args.longbench)
    import eval as official
    import metrics

    # The official call chain is module, scorer, metric; here main comes on top.
    sys.setrecursionlimit(1001)
    functions = {
        "qa_f1": metrics.qa_f1_score, "qa_f1_zh": metrics.qa_f1_zh_score, "rouge": metrics.rouge_score, "rouge_zh": metrics.rouge_zh_score,
        "classification": metrics.classification_score, "retrieval": metrics.retrieval_score, "retrieval_zh": metrics.retrieval_zh_score,
        "count": metrics.count_score, "code_sim": metrics.code_sim_score,
    }
    cases = list(metric_cases())
    out = [{"metric": m, "pred": p, "answer": a, "classes": c, "score": bits(score(functions[m], p, a, c))} for m, p, a, c in cases]

    # Around the recursion limit: n equal words, or n words with m strange ones before.
    deep = []
    for m in ("rouge", "rouge_zh"):
        for n in (985, 986, 987, 988, 989, 990, 991, 992):
            for strange in (0, 1, 5):
                p = " ".join("w%d" % i for i in range(n))
                a = " ".join(["q%d" % i for i in range(strange)] + ["w%d" % i for i in range(n - strange)])
                deep.append({"metric": m, "words": n, "strange": strange, "score": bits(score(functions[m], p, a, None))})
    write(os.path.join(args.out, "testdata/deep.json"), deep)

    del sys.modules["Levenshtein"]
    from fuzzywuzzy.StringMatcher import StringMatcher
    fuzz.SequenceMatcher = StringMatcher
    for o in out:
        if o["metric"] == "code_sim":
            o["levenshtein"] = bits(score(metrics.code_sim_score, o["pred"], o["answer"], None))
    import difflib
    fuzz.SequenceMatcher = difflib.SequenceMatcher
    write(os.path.join(args.out, "testdata/metrics.json"), out)

    with open(os.path.join(args.longbench, "config/dataset2prompt.json"), encoding="utf-8") as f:
        prompts = json.load(f)
    with open(os.path.join(args.longbench, "config/dataset2maxlen.json"), encoding="utf-8") as f:
        limits = json.load(f)
    write(os.path.join(args.out, "testdata/tasks.json"),
          [{"name": t, "prompt_sha256": hashlib.sha256(p.encode()).hexdigest(), "max_tokens": limits[t], "metric": official.dataset2metric[t].__name__} for t, p in prompts.items()])

    folder(os.path.join(args.out, "testdata/pred"), official, False)
    folder(os.path.join(args.out, "testdata/pred_e"), official, True)

    texts = HAN + [words(CHINESE, rng.randrange(3, 40), "") for _ in range(25)]
    common = [chr(rng.randrange(0x4E00, 0x9FD6)) for _ in range(60)] + list("的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要")
    texts += ["".join(rng.choice(common) for _ in range(rng.randrange(2, 50))) for _ in range(40)]
    write(os.path.join(args.out, "jieba/testdata/cut.json"), [list(jieba.cut(t)) for t in texts])

    # Python's own string and rounding functions.
    strings = ["", "ΑΣ", "ΑΣ.", "Σ", "ΣΑ", "Α'Σ'", "ΑΣ Β", "Α\u0301Σ\u0301", "ΑΣ\u0301Β", "İI", "ẞß", "Ǆǅǆ", "ᏸᎠꭰ", "𐐀", "\u2160ⓐⒶ", "ʰΣ", "aʰΣ", ":Σ", "a:Σ:", "1Σ",
               " a\tb\x1cc\x1dd\x1ee\x1ff\x85g\xa0h\u1680i\u2007j\u2028k\u202fl\u205fm\u3000n\u200bo\ufeffp ", "x1٢३y²½4"]
    import re
    py = [{"s": s, "lower": s.lower(), "fields": s.split(), "numbers": re.findall(r"\d+", s)} for s in strings]
    write(os.path.join(args.out, "internal/pystr/testdata/strings.json"), py)
    numbers = [0.125, 0.375, 2.675, 1.005, 0.005, 0.015, 54.085, 99.995, 100.0, 1e-9, 33.335, 1e17, -1.005, -0.125] + [rng.randrange(10**7) / 1000 for _ in range(40)] + [rng.random() * 100 for _ in range(20)]
    write(os.path.join(args.out, "internal/pystr/testdata/round.json"),
          [{"x": bits(x), "python": bits(round(x, 2)), "numpy": bits(round(np.float64(x), 2))} for x in numbers])
    means = []
    for n in (1, 2, 7, 8, 9, 15, 16, 100, 127, 128, 129, 136, 200, 256, 300, 500, 1000):
        # Small multiples of inexact fractions; the Go test makes the same ones.
        x = [(i * 7919 % 1009) / 1009 for i in range(n)]
        means.append({"n": n, "mean": bits(np.mean(x))})
    write(os.path.join(args.out, "internal/pystr/testdata/mean.json"), means)

    if args.preds:
        import zstandard
        hashes = []
        for model in sorted(os.listdir(args.preds)):
            for task in ("dureader", "lsht", "multifieldqa_zh", "passage_retrieval_zh", "vcsum"):
                h, n = hashlib.sha256(), 0
                with open(os.path.join(args.preds, model, task + ".jsonl.zst"), "rb") as f:
                    for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(f), encoding="utf-8", newline="\n"):
                        d = json.loads(line)
                        for t in [d["pred"]] + d["answers"]:
                            h.update("\x1e".join(jieba.cut(t)).encode() + b"\x1f")
                            n += 1
                hashes.append({"model": model, "task": task, "texts": n, "sha256": h.hexdigest()})
        write(os.path.join(args.out, "jieba/testdata/preds.json"), hashes)


if __name__ == "__main__":
    main()
