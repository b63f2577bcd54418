package ruler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// count stands in for a tokenizer: one token a word or number, and one more for
// every six bytes of it.
func count(text string) int {
	n := 0
	for _, w := range strings.Fields(text) {
		n += 1 + len(w)/6
	}
	return n
}

// haystack is prose of unequal sentences.
var haystack = func() string {
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "Sentence number %d speaks of %s. ", i, strings.Repeat("things and ", i%7)+"rest")
	}
	return b.String()
}()

func questions(t *testing.T, name string) *QASet {
	t.Helper()
	dir := t.TempDir()
	squad, hotpot := filepath.Join(dir, "squad.json"), filepath.Join(dir, "hotpotqa.json")
	var articles, records []string
	for i := range 12 {
		var paragraphs, contexts []string
		for k := range 5 {
			paragraphs = append(paragraphs, fmt.Sprintf(`{"context": "Paragraph %d of article %d says blue-%d-%d.", "qas": [
				{"question": "What does paragraph %d of %d say?", "is_impossible": false, "answers": [{"text": "blue-%d-%d"}, {"text": "blue"}]},
				{"question": "Unanswerable?", "is_impossible": true, "answers": []}]}`, k, i, i, k, k, i, i, k))
			contexts = append(contexts, fmt.Sprintf(`["Title %d-%d", ["First sentence. ", "It is red-%d-%d."]]`, i, k, i, k))
		}
		articles = append(articles, `{"title": "T", "paragraphs": [`+strings.Join(paragraphs, ",")+`]}`)
		records = append(records, fmt.Sprintf(`{"question": "Which red is %d?", "answer": "red-%d-2", "context": [%s]}`, i, i, strings.Join(contexts, ",")))
	}
	write(t, squad, `{"data": [`+strings.Join(articles, ",")+`]}`)
	write(t, hotpot, `[`+strings.Join(records, ",")+`]`)
	load, path := LoadSQuAD, squad
	if name == "qa_2" {
		load, path = LoadHotpotQA, hotpot
	}
	set, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func generate(t *testing.T, task Task, length, samples int, seed uint64) []Sample {
	t.Helper()
	c := Config{Length: length, Count: count, Samples: samples, Seed: seed, Haystack: haystack}
	if task.Questions {
		c.QA = questions(t, task.Name)
	}
	s, err := task.Generate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGenerate: samples of every task are as long as asked, hold their answers,
// and are the same for the same seed.
func TestGenerate(t *testing.T) {
	if len(Tasks()) != 13 {
		t.Fatalf("%d tasks", len(Tasks()))
	}
	for _, task := range Tasks() {
		t.Run(task.Name, func(t *testing.T) {
			t.Parallel()
			for _, length := range []int{1500, 4096, 16000} {
				samples := generate(t, task, length, 3, 7)
				for i, s := range samples {
					if s.Index != i || s.Length != count(s.Prompt())+task.MaxTokens {
						t.Errorf("length %d: index %d, length %d", length, s.Index, s.Length)
					}
					if s.Length > length || s.Length < length*92/100 {
						t.Errorf("length %d: sample %d has %d tokens", length, i, s.Length)
					}
					for _, o := range s.Outputs {
						if !strings.Contains(s.Input, o) {
							t.Errorf("answer %q is not in the text", o)
						}
					}
					if score, err := task.Score(strings.Join(s.Outputs, ", "), s.Outputs); err != nil || score != 1 {
						t.Errorf("the answer scores %v, %v", score, err)
					}
					if score, err := task.Score("nothing of it", s.Outputs); err != nil || score != 0 {
						t.Errorf("a wrong answer scores %v, %v", score, err)
					}
				}
				if samples[0].Prompt() == samples[1].Prompt() {
					t.Error("two samples are the same")
				}
				again := generate(t, task, length, 2, 7)
				if again[1].Prompt() != samples[1].Prompt() {
					t.Error("the same seed gives another sample")
				}
				if other := generate(t, task, length, 1, 8); !task.Questions && other[0].Prompt() == samples[0].Prompt() {
					t.Error("another seed gives the same sample")
				}
			}
		})
	}
}

// TestPinned: samples of a seed must not change between versions of the project,
// or scores of one seed no longer compare.
func TestPinned(t *testing.T) {
	h := sha256.New()
	for _, task := range Tasks() {
		for _, s := range generate(t, task, 2048, 2, 1) {
			fmt.Fprintf(h, "%s\x00%s\x00", s.Prompt(), s.Outputs)
		}
	}
	const want = "95aa66e918413059e5ca1b22b03f156ba4b062aebb49badc978f4c001a068df1"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("samples have hash %s, pinned %s", got, want)
	}
}

// TestTemplates compares what stands around the context with upstream's templates.
func TestTemplates(t *testing.T) {
	var golden []struct {
		Task, Before, After string
		Tokens              int
	}
	readGolden(t, "templates.json", &golden)
	for _, g := range golden {
		task, ok := TaskByName(g.Task)
		if !ok {
			t.Fatalf("no task %s", g.Task)
		}
		if task.MaxTokens != g.Tokens {
			t.Errorf("%s: %d tokens, upstream %d", g.Task, task.MaxTokens, g.Tokens)
		}
		prompt := generate(t, task, 2048, 1, 3)[0].Prompt()
		after := strings.ReplaceAll(regexp.QuoteMeta(g.After), `\{query\}`, `([^\n]+)`)
		if !strings.HasPrefix(prompt, g.Before) || !regexp.MustCompile(after+"$").MatchString(prompt) {
			t.Errorf("%s: prompt\n%.200q ... %q\nupstream\n%q ... %q", g.Task, prompt, prompt[len(prompt)-300:], g.Before, g.After)
		}
	}
}

func readGolden(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

var needleText = regexp.MustCompile(`One of the special magic (numbers|uuids) for (\S+) is: (\S+)\.`)

// TestNeedles counts the needles and checks who is asked for what.
func TestNeedles(t *testing.T) {
	number, word := `^\d{7}$`, `^\S+-\S+$`
	uuid := `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`
	for name, want := range map[string]struct {
		needles, outputs int // 0 needles: many
		key, value       string
	}{
		"niah_single_1": {1, 1, word, number}, "niah_single_2": {1, 1, word, number}, "niah_single_3": {1, 1, word, uuid},
		"niah_multikey_1": {4, 1, word, number}, "niah_multikey_2": {0, 1, word, number}, "niah_multikey_3": {0, 1, uuid, uuid},
		"niah_multivalue": {4, 4, word, number}, "niah_multiquery": {4, 4, word, number},
	} {
		task, _ := TaskByName(name)
		for _, s := range generate(t, task, 3000, 5, 11) {
			found := needleText.FindAllStringSubmatch(s.Input, -1)
			if want.needles > 0 && len(found) != want.needles || want.needles == 0 && len(found) < 50 {
				t.Errorf("%s: %d needles", name, len(found))
			}
			_, question, _ := strings.Cut(s.AnswerPrefix, " for ")
			var asked []string
			for _, f := range found {
				if !regexp.MustCompile(want.key).MatchString(f[2]) || !regexp.MustCompile(want.value).MatchString(f[3]) {
					t.Errorf("%s: needle %q", name, f[0])
				}
				if strings.Contains(question, f[2]) {
					asked = append(asked, f[3])
				}
			}
			slices.Sort(asked)
			outputs := slices.Sorted(slices.Values(s.Outputs))
			if len(outputs) != want.outputs || !slices.Equal(asked, outputs) {
				t.Errorf("%s: asked for %q, outputs %q", name, asked, outputs)
			}
		}
	}
}

// TestDepths: over many samples a needle is found in all parts of the text.
func TestDepths(t *testing.T) {
	for _, name := range []string{"niah_single_1", "niah_single_2"} {
		task, _ := TaskByName(name)
		var quarters [4]int
		for _, s := range generate(t, task, 3000, 60, 5) {
			quarters[min(3, 4*strings.Index(s.Input, "One of the special")/len(s.Input))]++
		}
		if slices.Min(quarters[:]) < 5 {
			t.Errorf("%s: needles by quarter %v", name, quarters)
		}
	}
}

func TestTracking(t *testing.T) {
	task, _ := TaskByName("vt")
	for _, s := range generate(t, task, 3000, 5, 2) {
		example, text, ok := strings.Cut(s.Input, "\n\nMemorize and track")
		if !ok || count(example) > exampleTokens+20 || strings.Count(example, "VAR ") != 9 {
			t.Fatalf("example %q", example)
		}
		value := regexp.MustCompile(`VAR (\S+) = (\d{5})\n`).FindStringSubmatch(text)
		if value == nil || value[1] != s.Outputs[0] || !strings.Contains(s.AnswerPrefix, value[2]) || len(s.Outputs) != 5 {
			t.Fatalf("value %q, outputs %q, prefix %q", value, s.Outputs, s.AnswerPrefix)
		}
		last := 0
		for i := 1; i < len(s.Outputs); i++ {
			at := strings.Index(text, fmt.Sprintf("VAR %s = VAR %s \n", s.Outputs[i], s.Outputs[i-1]))
			if at < last {
				t.Errorf("assignment %d at %d, the one before at %d", i, at, last)
			}
			last = at
		}
	}
}

func TestFrequencies(t *testing.T) {
	for _, c := range []struct {
		length, common, uncommon int
	}{{2000, 6, 1}, {6000, 30, 3}} {
		task, _ := TaskByName("cwe")
		for _, s := range generate(t, task, c.length, 3, 4) {
			list := s.Input[strings.LastIndex(s.Input, "most often.\n")+len("most often.\n"):]
			list = list[:strings.Index(list, "\nQuestion")]
			number := map[string]int{}
			for _, w := range regexp.MustCompile(`\d+\. `).Split(list, -1)[1:] {
				number[strings.TrimSpace(w)]++
			}
			for w, n := range number {
				if n != c.uncommon && !slices.Contains(s.Outputs, w) {
					t.Errorf("%q comes %d times, want %d", w, n, c.uncommon)
				}
			}
			for _, o := range s.Outputs {
				if number[o] != c.common {
					t.Errorf("the common word %q comes %d times", o, number[o])
				}
			}
		}
	}

	task, _ := TaskByName("fwe")
	for _, s := range generate(t, task, 6000, 3, 4) {
		number := map[string]int{}
		for _, w := range strings.Fields(s.Input) {
			if regexp.MustCompile(`^([a-z]{6}|\.\.\.)$`).MatchString(w) {
				number[w]++
			}
		}
		words := slices.SortedFunc(maps.Keys(number), func(a, b string) int { return number[b] - number[a] })
		if words[0] != "..." || !slices.Equal(words[1:4], s.Outputs) || number[words[4]] >= number[words[3]] {
			t.Errorf("most frequent %q, outputs %q", words[:5], s.Outputs)
		}
	}
}

// TestManyWords: a list longer than the dictionary still has different words.
func TestManyWords(t *testing.T) {
	rng := Task{Name: "cwe"}.rng(1, 1)
	s, err := listWords(rng, 12000, 2, 1)
	if err != nil || strings.Count(s.Input, ". ") < 12010 {
		t.Errorf("%v, %d entries", err, strings.Count(s.Input, ". "))
	}
	if _, err := listWords(rng, 1<<40, 2, 1); err == nil {
		t.Error("more words than there are")
	}
}

func TestGenerateErrors(t *testing.T) {
	for name, c := range map[string]struct {
		task   string
		config Config
		want   string
	}{
		"no counter":    {"vt", Config{Length: 4096, Samples: 1}, "no token counter"},
		"no samples":    {"vt", Config{Length: 4096, Count: count}, "0 samples"},
		"no length":     {"vt", Config{Length: 30, Count: count, Samples: 1}, "leaves nothing"},
		"too short":     {"vt", Config{Length: 200, Count: count, Samples: 1}, "too short for vt: its smallest sample has"},
		"no essays":     {"niah_single_2", Config{Length: 4096, Count: count, Samples: 1}, "none given"},
		"no questions":  {"qa_1", Config{Length: 4096, Count: count, Samples: 1}, "none given"},
		"few questions": {"qa_1", Config{Length: 4096, Count: count, Samples: 61, QA: questions(t, "qa_1")}, "61 samples of a QA data set of 60"},
		"endless text":  {"niah_single_1", Config{Length: 4096, Count: func(string) int { return 1 }, Samples: 1}, "counter"},
	} {
		task, _ := TaskByName(c.task)
		if _, err := task.Generate(t.Context(), c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	task, _ := TaskByName("vt")
	if _, err := task.Generate(ctx, Config{Length: 4096, Count: count, Samples: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestLoadQAErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qa.json")
	for _, text := range []string{"", "[]", "{}", `{"data": [`, `[{"question": "q", "answer": "a", "context": [["only a title"]]}]`, `[{"question": "q", "answer": "a", "context": []}]`} {
		write(t, path, text)
		if _, err := LoadHotpotQA(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("HotpotQA %q: %v", text, err)
		}
		if _, err := LoadSQuAD(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("SQuAD %q: %v", text, err)
		}
	}
}

func TestScore(t *testing.T) {
	var golden []struct {
		Pred      string
		Refs      []string
		All, Part float64
	}
	var means []struct{ All, Part float64 }
	readGolden(t, "scores.json", &golden)
	readGolden(t, "means.json", &means)
	all, _ := TaskByName("vt")
	part, _ := TaskByName("qa_1")
	var alls, parts []float64
	for i, g := range golden {
		a, err1 := all.Score(g.Pred, g.Refs)
		p, err2 := part.Score(g.Pred, g.Refs)
		if err1 != nil || err2 != nil || Mean([]float64{a}) != g.All || Mean([]float64{p}) != g.Part {
			t.Errorf("%q in %q: all %v, part %v; upstream %v, %v", g.Refs, g.Pred, a, p, g.All, g.Part)
		}
		alls, parts = append(alls, a), append(parts, p)
		if Mean(alls) != means[i].All || Mean(parts) != means[i].Part {
			t.Errorf("means of %d: %v, %v; upstream %+v", i+1, Mean(alls), Mean(parts), means[i])
		}
	}
	if _, err := all.Score("x", nil); err == nil {
		t.Error("a sample without outputs scores")
	}
}

func TestReadPrepared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "validation.jsonl")
	const good = `{"index": 4, "input": "text\u00e9", "outputs": ["1", "2"], "length": 4090, "length_w_model_temp": 4090, "answer_prefix": " The", "token_position_answer": 3}`
	read := func(text string) (out []Sample, err error) {
		write(t, path, text)
		for s, err := range ReadPrepared(path) {
			if err != nil {
				return out, err
			}
			out = append(out, s)
		}
		return out, nil
	}
	samples, err := read(good + "\n" + `{"input": "old: The", "outputs": ["x"]}` + "\n")
	if err != nil || len(samples) != 2 || samples[0].Prompt() != "texté The" || samples[0].Index != 4 || samples[0].Length != 4090 || samples[1].Index != 1 {
		t.Errorf("%+v, %v", samples, err)
	}
	for text, want := range map[string]string{
		"":                                   "no samples",
		good + "\n" + good[:50]:              "validation.jsonl:2: unexpected end",
		`{"outputs": ["x"]}`:                 "validation.jsonl:1: no input",
		`{"input": "x", "outputs": []}`:      "validation.jsonl:1: no outputs",
		`{"input": "x", "outputs": "x"}`:     "validation.jsonl:1: json:",
		`{"input": "x", "outputs": ["x"]} 3`: "validation.jsonl:1: invalid character",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for _, err := range ReadPrepared(path + ".absent") {
		if err == nil {
			t.Error("an absent file has samples")
		}
	}
}
