#!/usr/bin/env python3
"""Makes configs/texts/{calibration,choice,heldout}/*.txt.zst from their sources.

    make_texts.py --books-train F --books-heldout F --goroot DIR --spanish F --chinese DIR OUT

books-*   JSON lines {author, title, text} of public-domain books (zstd)
goroot    a Go installation, for the source of its standard library (BSD-3-Clause)
spanish   `mod2imp spaRV1909eb -s`, Debian package sword-text-sparv (public domain)
chinese   folder dist of the npm package chinese-poetry 2.0.1 (MIT)

Needs the zstd program. Every document is cut at a paragraph's end.
"""
import argparse, json, pathlib, re, subprocess

SIZE = 160_000  # bytes of one document: about 32K tokens of a small model on prose


def cut(text: str, start: int = 0, size: int = SIZE) -> str:
    """The paragraphs of text from byte start on, about size bytes of UTF-8."""
    raw = text.encode()[start:]
    if start:
        raw = raw[raw.index(b"\n\n") + 2:]
    raw = raw[:size]
    end = raw.rfind(b"\n\n")
    return raw[: end if end > size // 2 else raw.rfind(b"\n")].decode(errors="strict").strip() + "\n"


def books(path):
    lines = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout.decode().splitlines()
    return {b["title"]: re.sub(r"\n{3,}", "\n\n", b["text"]) for b in map(json.loads, lines)}


def go_source(root, files):
    return "\n\n".join(f"// {f}\n\n" + (root / "src" / f).read_text() for f in files)


def spanish(path, books_):
    out, keep, chapter = [], False, None
    for line in open(path, encoding="utf-8"):
        line = line.strip()
        if line.startswith("$$$"):
            name, _, verse = line[3:].rpartition(" ")
            keep = name in books_
            if keep and verse.split(":")[0] != chapter:
                chapter = verse.split(":")[0]
                out.append("\n\n")
        elif keep and line:
            out.append(re.sub(r"<[^>]*>", "", line) + " ")
    return "".join(out).strip()


def essays(chapters):
    return "\n\n".join(c["chapter"] + "\n\n" + "\n\n".join(c["paragraphs"]) for c in chapters)


def chinese(root, volumes):
    parts = json.load(open(root / "mengxue/guwenguanzhi.json", encoding="utf-8"))["content"]
    return essays(e for v in parts[volumes] for e in v["content"])


def four_books(root):
    out = []
    for name in ("mengzi", "zhongyong", "daxue"):
        book = json.load(open(root / "sishuwujing" / (name + ".json"), encoding="utf-8"))
        out += book if isinstance(book, list) else [book]
    return essays(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("books-train", "books-heldout", "goroot", "spanish", "chinese"):
        p.add_argument("--" + name, required=True)
    p.add_argument("out")
    a = p.parse_args()
    train, held = books(a.books_train), books(a.books_heldout)
    root, poetry = pathlib.Path(a.goroot), pathlib.Path(a.chinese)
    documents = {
        "calibration/prose-frankenstein": cut(train["Frankenstein"], 60_000),
        "calibration/prose-baskervilles": cut(train["The Hound of the Baskervilles"], 60_000),
        "calibration/prose-innocence": cut(train["The Age of Innocence"], 60_000),
        "calibration/essay-liberty": cut(train["On Liberty"], 60_000),
        "calibration/code-http": cut(go_source(root, ["net/http/server.go", "net/http/request.go"])),
        "calibration/code-parser": cut(go_source(root, ["go/parser/parser.go", "encoding/json/decode.go", "encoding/json/encode.go", "text/template/exec.go"])),
        "calibration/spanish-genesis": cut(spanish(a.spanish, ["Genesis", "Exodus"])),
        "calibration/chinese-guwen-1": cut(chinese(poetry, slice(0, 6))),
        "choice/prose-lostworld": cut(train["The Lost World"], 60_000),
        "choice/memoir-truth": cut(train["The Narrative of Sojourner Truth"], 10_000),
        "choice/code-sql": cut(go_source(root, ["database/sql/sql.go", "encoding/xml/read.go", "encoding/xml/marshal.go"])),
        "choice/spanish-isaiah": cut(spanish(a.spanish, ["Isaiah", "Ezekiel"])),
        "choice/chinese-sishu": cut(four_books(poetry)),
        "heldout/prose-persuasion": cut(held["Persuasion"], 60_000),
        "heldout/prose-reef": cut(held["The Reef"], 60_000),
        "heldout/memoir-franklin": cut(held["The Autobiography of Benjamin Franklin"], 60_000),
        "heldout/memoir-equiano": cut(held["The Interesting Narrative of the Life of Olaudah Equiano"], 60_000),
        "heldout/code-types": cut(go_source(root, ["go/types/expr.go", "go/types/call.go", "go/types/builtins.go", "go/types/unify.go", "go/types/infer.go"])),
        "heldout/code-math": cut(go_source(root, ["math/big/float.go", "math/big/int.go", "math/big/nat.go", "regexp/regexp.go", "bufio/bufio.go"])),
        "heldout/spanish-acts": cut(spanish(a.spanish, ["Luke", "Acts"])),
        "heldout/chinese-guwen-2": cut(chinese(poetry, slice(6, 12))),
    }
    for name, text in documents.items():
        f = pathlib.Path(a.out) / (name + ".txt.zst")
        f.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["zstd", "-19", "-q", "-f", "-o", str(f)], input=text.encode(), check=True)
        print(f"{name}: {len(text.encode())} bytes, {f.stat().st_size} compressed")


main()
