#!/usr/bin/env python3
"""Makes the golden files of model/tokenizer from Hugging Face's tokenizers and Google's sentencepiece.

    python scripts/goldens/tokenizer.py --smollm2 SmolLM2-135M-Instruct.gguf --shared ../shared/data [--gemma gemma-3-270m.gguf]

Needs: tokenizers sentencepiece protobuf gguf zstandard. Writes to model/tokenizer/testdata:
strings.json.zst   hard strings (and, base64, byte strings that are not UTF-8) and the name of each special-token string set
big.txt.zst        1 MB of mixed text
tokenizers/        tokenizers that may be redistributed: SmolLM2 and Qwen 3 (Apache-2.0), and small ones trained here
ids/               what the upstream library gives, one file a tokenizer, also for those that may not be redistributed
classes.json       what the upstream libraries take for letters, numbers and spaces, as ranges
"""
import argparse, base64, glob, hashlib, io, json, os, random, re, struct
import sentencepiece as spm
import zstandard
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../../model/tokenizer/testdata")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def write(path, data):
    path = os.path.join(OUT, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not isinstance(data, bytes):
        data = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    if path.endswith(".zst"):
        data = zstandard.ZstdCompressor(level=19).compress(data)
    with open(path, "wb") as f:
        f.write(data)


# ---- texts

BASE = [
    "", "a", " ", "  ", "   a", "a ", "\n", "\n\n\n", " \n \n", "\t\tx", "\r", "\r\n", "\r\n\r\n", " \r\n x", "a  b   c    d", "hello world",
    "Hello, World!", "Hello World", " Hello", "HELLO WORLD", "I'm you're we'll they'd I'VE IT'S 'S", "'s 't 'RE", "don’t", "DON'T WON'T I'LL HE'D WE'RE", "'ll'LL'lL'Ll",
    "x's'ss 'sx'tt''t", "'", "''", "'r", "'re", "'v", "'l", "a'", "'ſ ſ 'ſt 'ſſ", "\u212aelvin 'K", "1234567890", "1 12 123 1234 12345", "3.14159 1e-10", "1,234,567.89",
    "١٢٣ ৪৫ ²³ ½ Ⅷ", "１２３４ ①②③ 一二三", "2024-01-02T03:04:05Z", "0x1F600 0b1010", "a1b2c3 4d5e", "你好,世界!", "我来到北京清华大学。", "日本語のテスト です", "ﾊﾝｶｸ ｶﾀｶﾅ", "한국어 테스트",
    "안녕하세요 세계", "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165", "\u1100\u1161\u11a8 \uac01", "ㄱㄴㄷ ㅏㅑ", "Ελληνικά κείμενο", "кириллица ЁЖИК", "עברית שלום", "العربية مُحَمَّد", "فارسی\u200cزبان", "नमस्ते दुनिया", "বাংলা ভাষা",
    "தமிழ் மொழி", "ไทย ภาษา", "ខ្មែរ", "မြန်မာ", "ქართული", "Հայերեն", "አማርኛ", "ᏣᎳᎩ", "Tiếng Việt có dấu", "Türkçe İıŞşĞğ", "Straße ẞ ß", "Ǆǅǆ ßẞ İıIi ſ K", "ŒœÆæØøÅå", "naïve café résumé",
    "e\u0301 \u00e9 \u212b \u1e9b\u0323 ﬁ", "a\u030a\u0301 \u01fb", "x\u0300\u0301\u0302y", "a" + "\u0301" * 40 + "b", "q" + "\u0323\u0307" * 20 + " z", "\u0301start", "\u0958 \u09dc \ufb2a", "\u2126 \u00b5 ℃ ㎏ Ⅻ ﷺ",
    "👍👩‍👩‍👧‍👦🏳️‍🌈 😀😃", "👩🏽‍💻👨🏿‍🚀🧑🏻‍🤝‍🧑🏾", "🇩🇪🇫🇷🇯🇵", "1️⃣ #️⃣ *️⃣", "☺ ☺️ ❤️‍🔥", "🤷‍♀️ shrug 🤦🏼‍♂️", "\u200b\u200d\ufeff", "a\u200bb\u200cc\u200dd\u2060e", "\ufeffBOM first", "\u00a0nbsp\u3000ideographic\u2003em",
    "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f", "a\u2028b\u2029c\x85d", "line1\rline2\r\nline3\u2028line4\u2029\x85end\x0b\x0c", " \u00a0 \u00a0x", "a\u00adb soft", "\u202eright to left\u202c \u2066iso\u2069",
    "\x00\x01\x7f", "\x1b[31mred\x1b[0m", "\x00" * 5, "\x80\x9f\xa0\xad", "\ud7ff\ue000\ufffd", "\ufdd0\ufffe\uffff", "\U0010ffff\U000f0000", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠀀𪛖", "\U0002ebf0\U00010d50\U0001ccf3", "\u0378\u0379 \u1c89 \ua7cd",
    "def f(x):\n    return x**2  # sq\n\n\tif x:\r\n\t\tpass\r\n", "for(int i=0;i<n;++i){a[i]+=b[i];}", "if err != nil {\n\t\treturn nil, fmt.Errorf(\"%w\", err)\n\t}\n", "<div class=\"x\">&nbsp;</div>", "https://example.com/a?b=c&d=%20#e", "user@host.org", "C:\\Users\\x", "$$\\int_0^1 x^2 dx$$", "#!/bin/sh\nset -e; echo \"$@\" | sed 's/a/b/g'", "{\"key\": [1, 2.5, null, true]}",
    "_____-----=====", "!!!???...", "…—–“”‘’", "«»‹›„‟", "(((((((((())))))))))", "a-b_c.d,e;f:g", "///\n/\r\n", "...\n\n...", "?!\r\n\r\n", " !\n", "\n!", "( )[ ]{ }", "a"*300, "ab"*200, "abcdefghij"*60, "A"*129, "aA"*65, " "*200, " "*31, " "*32, " "*33, "x" + " "*64 + "y", "\n"*100, "\n"*31 + "x", "\t"*50, " \n"*40, "1"*100, "。"*50, "é"*80, "👍"*40, "的"*300, "ก"*100, "!"*100, "▁", "▁▁a▁b", "a▁", "Ġword Ċ", "<0x0A> <0xE4>", "<0x41>", "Ā ā Ą",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", "tab\tsep\tvals\n1\t2\t3\n", "  leading and trailing  ", "end with spaces    \n   next", "mixed中文English混合123テスト🙂end", "CamelCaseWord snake_case_word kebab-case-word SCREAMING_CASE", "HTTPServer2Go iOS17 eBay McDonald's", "ÀÉÎ ÉcoleÉCOLE ǅabc", "aʰbʰ Aʰ ʰA ªº", "AMÉLIE\u0301E \u0301A \u0301a", "Aא אA aא אa", "中A A中a aA中",
    "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\n", "<|endoftext|>x<|endoftext|>", "<|im_start|> <|im_end|>  <|im_end|>", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|im_sta", "<|im_end|", "<<|im_end|>>", "<tool_call>\n{}</tool_call>", "<think>\n\n</think>", "<s>[INST] hi [/INST]</s>", "<s> a</s> b <unk>c", "[INST]a[/INST]", "<bos><start_of_turn>user\nhi<end_of_turn>\n", "</s></s>", "<S> <|IM_END|>",
]
POOL = list("abcdefghij ABC  \n\t\r0123456789.,!?'\"-_()[]{}<>|/\\@#$%^&*+=~`") + list("你好世界的是中文日本語ひらカタ한국어éüñßøåΑβγЖшאבع्नไ๑²½Ⅷ🙂👍🏽\u200d🌈️\u0301\u00a0\u3000\u200b𠀀𝔘ſ▁") + ["'s", "'ll", "'RE", "<|im_end|>", "</s>", "  ", "\n\n", " the", " and", "\r\n", "    ", "ing"]
INVALID = [b"\xff", b"a\xffb", b"\xe4\xbd", b"\xe4\xbda", b"\xf0\x9f\x91", b"\xf0\x9f\x91\x8d\xf0\x9f", b"\xc0\x80", b"\xed\xa0\x80\xed\xb0\x80", b"\x80\x81\x82", b"caf\xe9 x", b"\xf5\x80\x80\x80", b"\xe0\x80\x80", b"ok \xf4\x90\x80\x80 end", b"\xe4\xe4\xbd\xa0\xbd", b"\xfe\xff\x00a"]
PHRASES = ["The quick brown fox jumps over the lazy dog. ", "It's 7 o'clock; they'll be late, won't they? ", "敏捷的棕色狐狸跳过懒狗。", "いろはにほへと ちりぬるを。", "다람쥐 헌 쳇바퀴에 타고파. ", "Съешь же ещё этих мягких французских булок. ", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ", "نص حكيم له سر قاطع وذو شأن عظيم. ", "דג סקרן שט בים מאוכזב. ", "Portez ce vieux whisky au juge blond qui fume. ", "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. ", "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ", "Pchnąć w tę łódź jeża lub ośm skrzyń fig. ", "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा। ", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ", "for i := range n {\n\tsum += x[i] * y[i] // dot\n}\n", "def f(x):\n    return {k: v**2 for k, v in x.items()}\n", "SELECT id, name FROM t WHERE a >= 10.5 AND b <> 'x';\n", "<p class=\"a\">x &amp; y</p>\r\n", "https://example.org/path?q=1&r=%20 ", "😀👍🏽👩‍👩‍👧 ", "x\u0301y\u0308 ", "1234567 3.14159 1e-9 ", "\t\tif (a != b) { return -1; }\n", "   \n\n", "----------\n", "| a | b |\n|---|---|\n", "「引用」、『書名』", "½ ² ① Ⅷ ", "A.B.C. U.S.A. e.g. i.e. "]


def hard_strings():
    rnd = random.Random(7)
    out = list(BASE)
    out += ["".join(rnd.choice(POOL) for _ in range(rnd.randint(1, 60))) for _ in range(150)]
    # one script or plane at a time, and every kind of character next to every other
    for lo, hi in [(0x20, 0x7f), (0xa0, 0x250), (0x300, 0x590), (0x590, 0x780), (0x900, 0xe00), (0xe00, 0x10a0), (0x1100, 0x1800), (0x1e00, 0x2070), (0x2070, 0x2c00), (0x3000, 0x3400), (0x4e00, 0x9fff), (0xac00, 0xd7a4), (0xf900, 0x10000), (0x10000, 0x11000), (0x1d400, 0x1d800), (0x1f300, 0x1fb00), (0x20000, 0x20100)]:
        for n in (3, 40):
            out.append("".join(chr(rnd.randrange(lo, hi)) for _ in range(n)))
    kinds = ["a", "Z", "é", "中", "7", "٣", " ", "\n", "\r\n", "\u00a0", "'", "!", "\u0301", "👍", "ſ"]
    out.append("".join(a + b + c for a in kinds for b in kinds for c in kinds[:6]))
    return out


def big_text(books):
    rnd = random.Random(11)
    words = "\n".join(books)[:450000]
    code = "".join(open(f, encoding="utf8").read() for f in sorted(glob.glob(os.path.join(HERE, "*.py"))))[:50000]
    mixed = []
    size = 0
    while size < 550000:
        p = rnd.choice(PHRASES) * rnd.choice([1, 1, 1, 2, 3])
        if rnd.random() < .2:
            p = "".join(rnd.choice(POOL) for _ in range(20))
        mixed.append(p)
        size += len(p.encode())
    return (words + code + "".join(mixed)).encode()[:1000000].decode("utf8", "ignore")


# ---- what upstream gives

def digest(ids):
    return {"count": len(ids), "sha256": hashlib.sha256(struct.pack("<%di" % len(ids), *ids)).hexdigest()}


def special_strings(name, contents):
    """Texts full of the tokenizer's own added tokens."""
    rnd = random.Random(name)
    contents = sorted(contents)
    pool = POOL + [" "] * 10
    out = []
    for _ in range(40):
        parts = []
        for _ in range(rnd.randint(2, 12)):
            parts.append(rnd.choice(contents) if rnd.random() < .4 else rnd.choice(pool))
        out.append("".join(parts))
    return out + [c for c in contents[:20]] + [" " + c + " " for c in contents[:20]] + ["a" + c + "b" for c in contents[:20]]


def record(name, texts, big, encode, decode, contents, ordinary=None, special=None):
    """Writes ids/<name>.json.zst. encode(text, add_special) -> ids; decode(ids, skip) -> text."""
    own = special_strings(name, contents) if contents else []
    plain = [encode(s, False) for s in texts + own]
    g = {
        "own": own,
        "ids": plain,
        "special": [encode(s, True) for s in texts[:20]],
        "invalid": [encode(b.decode("utf8", "replace"), False) for b in INVALID],
        "big": digest(encode(big, False)),
        "decoded": [decode(i, False) for i in plain],
        "skipped": [decode(i, True) for i in plain],
    }
    if ordinary:
        g["ordinary"] = [ordinary(s) for s in texts + own]
    # decoding ids that no text gives
    rnd = random.Random(3)
    top = max(max(i) for i in plain if i) + 1
    odd = [[rnd.randrange(top) for _ in range(rnd.randint(1, 12))] for _ in range(60)]
    g["odd"], g["odd_decoded"] = odd, [decode(i, False) for i in odd]
    # the texts are mostly what they came from
    for key in ("decoded", "skipped"):
        g[key] = [None if d == s else d for d, s in zip(g[key], texts + own)]
    write(f"ids/{name}.json.zst", g)
    print(name, len(texts) + len(own), "strings", g["big"]["count"], "tokens of big text")


def record_hf(name, tok, texts, big, save=None):
    if save:
        write(f"tokenizers/{name}.json.zst", tok.to_str().encode())
    added = [t.content for t in tok.get_added_tokens_decoder().values()]

    def ordinary(s):
        tok.encode_special_tokens = True
        ids = tok.encode(s, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        return ids

    record(name, texts, big, lambda s, a: tok.encode(s, add_special_tokens=a).ids, lambda i, k: tok.decode(i, skip_special_tokens=k), added, ordinary)


def record_sp(name, proto, texts, big, save=False):
    """A SentencePiece model, with transformers' treatment of control tokens: cut out first, the texts between encoded one by one."""
    data = proto.SerializeToString()
    if save:
        write(f"tokenizers/{name}.model.zst", data)
    sp = spm.SentencePieceProcessor(model_proto=data)
    control = {p.piece: i for i, p in enumerate(proto.pieces) if p.type in (2, 3)}
    cut = re.compile("(" + "|".join(re.escape(c) for c in sorted(control, key=len, reverse=True)) + ")")

    def encode(s, add):
        ids = [sp.bos_id()] if add and sp.bos_id() >= 0 else []
        for part in cut.split(s):
            if part in control:
                ids.append(control[part])
            elif part:
                ids += sp.encode(part)
        return ids

    replace = [decoders.Replace("▁", " ")]
    if proto.trainer_spec.byte_fallback:
        replace.append(decoders.ByteFallback())
    replace.append(decoders.Fuse())
    if proto.normalizer_spec.add_dummy_prefix:
        replace.append(decoders.Strip(" ", 1, 0))
    dec = decoders.Sequence(replace)

    def decode(ids, skip):
        return dec.decode([proto.pieces[i].piece for i in ids if not (skip and proto.pieces[i].piece in control)])

    user = [p.piece for p in proto.pieces if p.type == 4]
    record(name, texts, big, encode, decode, list(control)[:300] + user, ordinary=lambda s: sp.encode(s) if s else [])


# ---- tokenizers

def from_gguf(path):
    """SmolLM2's tokenizer.json from its GGUF file."""
    import gguf
    f = {k: v for k, v in gguf.GGUFReader(path).fields.items() if k.startswith("tokenizer")}
    get = lambda k: f["tokenizer.ggml." + k].contents()
    tokens, types = get("tokens"), get("token_type")
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in get("merges")]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    return tok


def train_byte_level(corpus, pre, size, **kw):
    tok = Tokenizer(models.BPE(**kw))
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|begin|>", "<|end|>", "<|im_end|>"], show_progress=False))
    return tok


def split(regex, use_regex=False):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


def small_byte_level(corpus):
    t = train_byte_level(corpus, split(LLAMA3), 1500, ignore_merges=True)
    t.post_processor = processors.TemplateProcessing(single="<|begin|> $A <|end|>", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 0), ("<|end|>", 1)])
    t.add_tokens([AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False), AddedToken("<both>", lstrip=True, rstrip=True, normalized=False), AddedToken("word", single_word=True, normalized=False), AddedToken("the cat", normalized=True), AddedToken("é", normalized=False), AddedToken("<left>x", normalized=False), AddedToken("  two", normalized=False)])
    t.add_special_tokens([AddedToken("<spec>", lstrip=True, normalized=True)])
    yield "small-llama3", t
    t = train_byte_level(corpus, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True), 1000)
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    yield "small-gpt2", t
    t = train_byte_level(corpus, split(TEKKEN), 1500)
    t.normalizer = normalizers.NFC()
    t.add_tokens([AddedToken("cafe\u0301", normalized=True), AddedToken("\u212b", normalized=False)])
    yield "small-tekken", t
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    yield "small-default", train_byte_level(corpus, pre, 1200)
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)])
    t = train_byte_level(corpus, pre, 600)
    j = json.loads(t.to_str())  # a vocabulary without some bytes, and merges in the old form
    gone = [c for c in j["model"]["vocab"] if c in "ýþÿĢ~Q"]
    for c in gone:
        del j["model"]["vocab"][c]
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"] if not any(c in m[0] + m[1] for c in gone)]
    yield "small-gaps", Tokenizer.from_str(json.dumps(j))


def small_chars(corpus, model):
    """SentencePiece-like BPE in tokenizer.json, as transformers converts it: Llama 2 (old and new form), Gemma."""
    # transformers' generate_merges: all splits of a piece, by the score of the piece
    pieces = [(p.piece, p.score) for p in model.pieces]
    vocab = {p: i for i, (p, _) in enumerate(pieces)}
    merges = []
    for p, s in pieces:
        local = [(p[:k], p[k:], s) for k in range(1, len(p)) if p[:k] in vocab and p[k:] in vocab]
        merges += sorted(local, key=lambda x: (vocab[x[0]], vocab[x[1]]))
    merges = [(a, b) for a, b, _ in sorted(merges, key=lambda x: x[2], reverse=True)]
    special = [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")]

    def build(**kw):
        t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, **kw))
        t.add_special_tokens(special)
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        return t

    t = build()
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    yield "small-llama2", t
    t = build(ignore_merges=True)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.add_tokens([AddedToken("[INST]", normalized=True), AddedToken("hello", normalized=True, single_word=True)])
    yield "small-metaspace-first", t
    t = build()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace()
    yield "small-metaspace-always", t
    t = build()
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_tokens([AddedToken("\n" * k, normalized=False) for k in (1, 2, 3, 4)] + [AddedToken("▁" * k, normalized=False) for k in (2, 3, 4)] + [AddedToken("<h1>", normalized=False)])
    yield "small-gemma", t
    # no byte tokens: what is unknown becomes <unk>, fused or not
    for fuse in (True, False):
        t = Tokenizer(models.BPE(vocab={p: i for p, i in vocab.items()}, merges=merges, unk_token="<unk>", fuse_unk=fuse))
        t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])
        t.decoder = decoders.Fuse()
        yield "small-unk-" + ("fused" if fuse else "single"), t


def train_sp(corpus, size, **kw):
    out = io.BytesIO()
    kw = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True, "byte_fallback": True, "character_coverage": .9995, **kw}
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=out, model_type="bpe", vocab_size=size, minloglevel=2, max_sentence_length=100000, **kw)
    m = pb.ModelProto()
    m.ParseFromString(out.getvalue())
    m.trainer_spec.ClearField("input")
    return m


def small_sp(corpus):
    yield "small-spm", train_sp(corpus, 1200)
    yield "small-spm-gemma", train_sp(corpus, 1100, add_dummy_prefix=False, user_defined_symbols=["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<h1>", "the"], control_symbols=["<start_of_turn>", "<end_of_turn>", "[INST]"], pad_id=3)
    yield "small-spm-plain", train_sp(corpus, 700, byte_fallback=False, remove_extra_whitespaces=True, allow_whitespace_only_pieces=False, bos_id=-1)
    m = train_sp(corpus, 900)
    rnd = random.Random(1)
    for p in m.pieces:  # pieces that encoding must take apart again
        if p.type == 1 and len(p.piece) > 2 and rnd.random() < .3:
            p.type = 5
    yield "small-spm-unused", m


# ---- Unicode classes

def classes():
    out = {}
    for name, split_by in (("letter", Regex(r"\p{L}")), ("number", Regex(r"\p{N}")), ("space", Regex(r"\s")), ("digit", None), ("upper", Regex(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]")), ("lower", Regex(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]")), ("punctuation", Regex(r"\p{P}"))):
        pre = pre_tokenizers.Split(split_by, "isolated") if split_by else pre_tokenizers.Digits(individual_digits=True)
        have = []
        sep = "a" if name == "punctuation" else "!"
        if name in ("upper", "lower"):
            sep = "7"
        for base in range(0, 0x110000, 4096):
            text = sep.join(chr(c) for c in range(base, base + 4096) if not 0xd800 <= c < 0xe000 and chr(c) != sep)
            have += [ord(x) for x, _ in pre.pre_tokenize_str(text) if len(x) == 1 and x != sep] if text else []
        ranges = []
        for c in sorted(set(have)):
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
        out[name] = ranges
    write("classes.json.zst", out)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shared", required=True, help="folder with text/ and tokenizers/")
    ap.add_argument("--smollm2", required=True, help="GGUF file of SmolLM2-135M-Instruct")
    ap.add_argument("--gemma", help="GGUF file of Gemma 3")
    ap.add_argument("--only", default="", help="names that contain this")
    a = ap.parse_args()
    read = lambda p: zstandard.ZstdDecompressor().stream_reader(open(os.path.join(a.shared, p), "rb")).read()
    books = [json.loads(l)["text"] for l in read("text/books-val.jsonl.zst").splitlines()]
    texts, big = hard_strings(), big_text(books)
    if not a.only:
        classes()
        write("strings.json.zst", {"strings": texts, "invalid": [base64.b64encode(b).decode() for b in INVALID]})
        write("big.txt.zst", big.encode())
    corpus = [l for b in books for l in b[:60000].splitlines() if l.strip()] + PHRASES * 30
    jobs = []
    jobs += [(n, lambda n=n, t=t: record_hf(n, t, texts, big, save=True)) for n, t in small_byte_level(corpus)]
    sp = list(small_sp(corpus))
    jobs += [(n, lambda n=n, m=m: record_sp(n, m, texts, big, save=True)) for n, m in sp]
    jobs += [(n, lambda n=n, t=t: record_hf(n, t, texts, big, save=True)) for n, t in small_chars(corpus, sp[0][1])]
    jobs.append(("smollm2", lambda: record_hf("smollm2", from_gguf(a.smollm2), texts, big, save=True)))
    jobs.append(("qwen3", lambda: record_hf("qwen3", Tokenizer.from_str(read("tokenizers/qwen3/tokenizer.json.zst").decode()), texts, big, save=True)))
    jobs.append(("llama-3.1", lambda: record_hf("llama-3.1", Tokenizer.from_str(read("tokenizers/llama-3.1/tokenizer.json.zst").decode()), texts, big)))
    for n, f in (("llama-2", "llama-2/tokenizer.model"), ("mistral-v3", "mistral-v3/tokenizer.model.v3")):
        m = pb.ModelProto()
        m.ParseFromString(open(os.path.join(a.shared, "tokenizers", f), "rb").read())
        jobs.append((n, lambda n=n, m=m: record_sp(n, m, texts, big)))
    if a.gemma:
        jobs.append(("gemma-3", lambda: record_sp("gemma-3", gemma_proto(a.gemma), texts, big)))
    for n, job in jobs:
        if a.only in n:
            job()


def gemma_proto(path):
    """Gemma's tokenizer.model from its GGUF file, where the converter wrote user-defined pieces with real spaces."""
    import gguf
    f = {k: v for k, v in gguf.GGUFReader(path).fields.items() if k.startswith("tokenizer")}
    get = lambda k: f["tokenizer.ggml." + k].contents()
    m = pb.ModelProto()
    m.trainer_spec.model_type, m.trainer_spec.byte_fallback = 2, True
    m.trainer_spec.unk_id, m.trainer_spec.bos_id, m.trainer_spec.eos_id, m.trainer_spec.pad_id = 3, 2, 1, 0
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = m.normalizer_spec.remove_extra_whitespaces = False
    for i, (t, s, k) in enumerate(zip(get("tokens"), get("scores"), get("token_type"))):
        if i == 3:
            k = 2  # the converter writes <unk> as a control token
        # ... and -1000 for the score of what SentencePiece gives 0
        m.pieces.add(piece=t.replace(" ", "▁") if k == 4 else t, score=0 if k in (2, 3, 4) else s, type=k)
    return m


if __name__ == "__main__":
    main()
