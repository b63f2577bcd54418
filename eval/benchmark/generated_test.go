package benchmark

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/longbench/niah"
)

const haystack = "One fine day it rained. The town had a mill, a school and two bakers. Nobody asked why. " +
	"The river was high, and the bridge was closed. A boy counted the ducks. There were nine of them. "

// Needle in a haystack and RULER go through a model and come back as rows;
// their prompts fit the context that they are for.
func TestGeneratedBenchmarks(t *testing.T) {
	m := tinyModel(t)
	needle, err := NIAH(NIAHOptions{
		Tokenizer: m.Tokenizer, Haystack: haystack, Contexts: []int{400, 500}, Depths: 3,
		Needle: niah.Needle{Text: "\nThe key is under the mat.\n", Question: "Where is the key?", Answer: "under the mat"},
	})
	if err != nil {
		t.Fatal(err)
	}
	synthetic, err := Ruler(t.Context(), RulerOptions{Tokenizer: m.Tokenizer, Context: 900, Tasks: []string{"niah_single_1"}, Samples: 2, Seed: 3, Haystack: haystack})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		b    *Benchmark
		rows []string // of each setting
	}{
		{needle, []string{"niah 400 0", "niah 400 0.5", "niah 400 1", "niah 500 0", "niah 500 0.5", "niah 500 1", "average 400 0", "average 500 0", "average 0 0"}},
		{synthetic, []string{"niah_single_1 900 0", "average 900 0"}},
	} {
		t.Run(c.b.Name, func(t *testing.T) {
			p, err := newPrompter(m.Tokenizer, m.Context, 0, false)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.b.Questions {
				q := &c.b.Questions[i]
				ids, err := p.tokens(q)
				if err != nil {
					t.Fatal(err)
				}
				context := q.Rows[0].Context
				if n := len(ids) + q.MaxTokens; n > context+len("The key is under the mat")+64 || n < context*2/3 {
					t.Errorf("sample %s: prompt and answer take %d tokens of a context of %d", q.ID, n, context)
				}
				q.MaxTokens = 3
			}
			o := options(t, m)
			o.MaxLength, o.Settings, o.Budgets = 0, []eval.Setting{settingOf(t, m, "streaming")}, []kernels.Budget{{Count: 8}}
			out := mustRun(t, c.b, o)
			var got []string
			for _, r := range out.Rows {
				got = append(got, fmt.Sprintf("%s %d %g", r.Task, r.Context, r.Depth))
				if r.Benchmark != c.b.Name {
					t.Errorf("row of %s", r.Benchmark)
				}
			}
			if want := append(c.rows, c.rows...); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("rows %q, want %q", got, want)
			}
			// the right answer has the full score
			q := &c.b.Questions[0]
			if score, err := c.b.Score(q, "It is "+strings.Join(q.Answers, ", ")); err != nil || score != 1 {
				t.Errorf("the right answer scores %v (%v)", score, err)
			}
		})
	}
}

func TestRulerReadsPreparedFile(t *testing.T) {
	m := tinyModel(t)
	dir := t.TempDir()
	write(t, dir, "validation.jsonl", `{"index": 7, "input": "The magic number is 42. What is it? ", "outputs": ["42"], "length": 300, "answer_prefix": "It is"}
{"index": 8, "input": "The magic number is 43. What is it? ", "outputs": ["43"], "length": 310, "answer_prefix": "It is"}
`)
	o := RulerOptions{Tokenizer: m.Tokenizer, Tasks: []string{"niah_multikey_3"}, Prepared: filepath.Join(dir, "validation.jsonl")}
	b, err := Ruler(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Questions) != 2 || b.Questions[1].ID != "8" || b.Questions[0].Rows[0] != (Row{Task: "niah_multikey_3", Context: 310}) {
		t.Errorf("questions %+v", b.Questions)
	}
	p, err := newPrompter(m.Tokenizer, m.Context, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := p.tokens(&b.Questions[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Tokenizer.Decode(ids, false), "<user>The magic number is 42. What is it? <assistant>It is"; got != want {
		t.Errorf("prompt %q, want %q", got, want)
	}
	o.Tasks = nil
	if _, err := Ruler(t.Context(), o); err == nil || !strings.Contains(err.Error(), "name the one task") {
		t.Errorf("no task gives %v", err)
	}
	o.Prepared, o.Tasks = "", []string{"qa_1"}
	if _, err := Ruler(t.Context(), o); err == nil || !strings.Contains(err.Error(), "needs a file of questions") {
		t.Errorf("qa_1 without questions gives %v", err)
	}
}

// Long prompts lose their middle, so that prompt, chat template and answer fit
// the context.
func TestPromptsAreTruncated(t *testing.T) {
	m := tinyModel(t)
	q := Question{Task: "x", ID: "1", Text: strings.Repeat("a", 800) + strings.Repeat("z", 800), Chat: true, MaxTokens: 40}
	for _, c := range []struct{ maxLength, tokens int }{
		{100, 100 + len("<user><assistant>")},
		{0, 1024 - 40},    // as much as fits
		{2000, 1024 - 40}, // more than fits
	} {
		p, err := newPrompter(m.Tokenizer, m.Context, c.maxLength, true)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := p.tokens(&q)
		if err != nil {
			t.Fatal(err)
		}
		text := m.Tokenizer.Decode(ids, false)
		if n := c.tokens - len(ids); n < 0 || n > 1 || !strings.HasPrefix(text, "<user>aaa") || !strings.HasSuffix(text, "zzz<assistant>") {
			t.Errorf("at most %d: %d tokens, want %d: %.20q...%q", c.maxLength, len(ids), c.tokens, text, text[max(0, len(text)-20):])
		}
		if d := strings.Count(text, "a") - strings.Count(text, "z"); d < 1 || d > 9 { // letters of the template and the cut
			t.Errorf("at most %d: the cut is not in the middle: %d more a than z", c.maxLength, d)
		}
		p.truncate = false
		if _, err := p.tokens(&q); err == nil {
			t.Errorf("at most %d: 1600 tokens are accepted uncut", c.maxLength)
		}
	}
	p, err := newPrompter(m.Tokenizer, 50, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.tokens(&q); err == nil || !strings.Contains(err.Error(), "no prompt fits") {
		t.Errorf("a context of 50 gives %v", err)
	}
}
