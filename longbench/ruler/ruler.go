// Package ruler makes and scores the tasks of RULER (github.com/NVIDIA/RULER,
// arXiv 2404.06654): texts of any length with something hidden in them.
//
//	Task.Generate(Config) or ReadPrepared -> Sample -> (model) -> Task.Score -> Mean
//
// Prompts, needles, distractors, proportions and scoring are upstream's; the
// random choices are this package's own, so samples are alike but not the same
// ones. Samples prepared by upstream's scripts can be read instead.
package ruler

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
)

// Task is one of RULER's 13 tasks.
type Task struct {
	Name      string
	MaxTokens int  // a prediction has at most so many tokens
	AnyAnswer bool // one of the answers is enough (string_match_part); else all of them count (string_match_all)
	Essays    bool // needs Config.Haystack
	Questions bool // needs Config.QA

	generator func(Config) (generator, error)
}

// tasks is in the order of upstream's config_tasks.sh; the settings are those of
// its synthetic.yaml.
var tasks = []Task{
	{Name: "niah_single_1", MaxTokens: 128, generator: needles{haystack: noise, key: aWord, value: aNumber}.generator},
	{Name: "niah_single_2", MaxTokens: 128, Essays: true, generator: needles{haystack: essays, key: aWord, value: aNumber}.generator},
	{Name: "niah_single_3", MaxTokens: 128, Essays: true, generator: needles{haystack: essays, key: aWord, value: aUUID}.generator},
	{Name: "niah_multikey_1", MaxTokens: 128, Essays: true, generator: needles{haystack: essays, key: aWord, value: aNumber, keys: 4}.generator},
	{Name: "niah_multikey_2", MaxTokens: 128, generator: needles{haystack: otherNeedles, key: aWord, value: aNumber}.generator},
	{Name: "niah_multikey_3", MaxTokens: 128, generator: needles{haystack: otherNeedles, key: aUUID, value: aUUID}.generator},
	{Name: "niah_multivalue", MaxTokens: 128, Essays: true, generator: needles{haystack: essays, key: aWord, value: aNumber, values: 4}.generator},
	{Name: "niah_multiquery", MaxTokens: 128, Essays: true, generator: needles{haystack: essays, key: aWord, value: aNumber, queries: 4}.generator},
	{Name: "vt", MaxTokens: 30, generator: newTracking},
	{Name: "cwe", MaxTokens: 120, generator: newCommonWords},
	{Name: "fwe", MaxTokens: 50, generator: newFrequentWords},
	{Name: "qa_1", MaxTokens: 32, AnyAnswer: true, Questions: true, generator: newQA},
	{Name: "qa_2", MaxTokens: 32, AnyAnswer: true, Questions: true, generator: newQA},
}

// Tasks returns the 13 tasks in the official order.
func Tasks() []Task { return slices.Clone(tasks) }

// TaskByName finds a task.
func TaskByName(name string) (Task, bool) {
	i := slices.IndexFunc(tasks, func(t Task) bool { return t.Name == name })
	if i < 0 {
		return Task{}, false
	}
	return tasks[i], true
}

// Config says what samples to make.
type Config struct {
	// Length is how many tokens a sample has at most: Input, AnswerPrefix and
	// the task's MaxTokens together. Leave room for a chat template.
	Length int
	// Count gives the tokens of a text, by the tokenizer of the model to test.
	Count   func(text string) int
	Samples int
	Seed    uint64 // the same seed and Config give the same samples
	// Haystack is the text that tasks with Essays hide their needles in; it is
	// repeated where it is too short. Upstream takes Paul Graham's essays.
	Haystack string
	// QA are the questions of qa_1 (LoadSQuAD) or qa_2 (LoadHotpotQA).
	QA *QASet
}

// Sample is one generated or prepared sample.
type Sample struct {
	Index int `json:"index"`
	// Input is the user's message. AnswerPrefix begins the model's answer: it
	// follows Input or, with a chat template, the template's last token.
	Input        string   `json:"input"`
	AnswerPrefix string   `json:"answer_prefix"`
	Outputs      []string `json:"outputs"` // the answers
	Length       int      `json:"length"`  // tokens, MaxTokens included
}

// Prompt is what a model without chat template reads.
func (s Sample) Prompt() string { return s.Input + s.AnswerPrefix }

// generator makes samples of a given size: how many pieces of haystack they have.
type generator interface {
	// sample makes the index-th sample, all random choices from rng.
	sample(rng *rand.Rand, index, size int) (Sample, error)
	// smallest is the least size that works.
	smallest() int
}

// Generate makes the task's samples, each as long as Length allows.
func (t Task) Generate(ctx context.Context, c Config) ([]Sample, error) {
	switch {
	case c.Count == nil:
		return nil, errors.New("ruler: no token counter")
	case c.Samples < 1:
		return nil, fmt.Errorf("ruler: %d samples of %s", c.Samples, t.Name)
	case c.Length <= t.MaxTokens:
		return nil, fmt.Errorf("ruler: length %d leaves nothing beside the %d tokens of %s's answer", c.Length, t.MaxTokens, t.Name)
	case t.Essays && strings.TrimSpace(c.Haystack) == "":
		return nil, fmt.Errorf("ruler: %s hides its needles in essays: none given", t.Name)
	case t.Questions && c.QA == nil:
		return nil, fmt.Errorf("ruler: %s asks the questions of a QA data set: none given", t.Name)
	}
	g, err := t.generator(c)
	if err != nil {
		return nil, err
	}
	build := func(index, size int) (Sample, error) {
		if err := ctx.Err(); err != nil {
			return Sample{}, err
		}
		s, err := g.sample(t.rng(c.Seed, index), index, size)
		if err != nil {
			return Sample{}, fmt.Errorf("ruler: %s, sample %d: %w", t.Name, index, err)
		}
		s.Index, s.Length = index, c.Count(s.Prompt())+t.MaxTokens
		return s, nil
	}
	size, err := t.fit(c, g.smallest(), build)
	if err != nil {
		return nil, err
	}
	out := []Sample{}
	for i := range c.Samples {
		s, err := build(i, size)
		// Samples of one size differ by some tokens: give up as much haystack
		// as one is too long.
		for n := size; err == nil && s.Length > c.Length; s, err = build(i, n) {
			if n <= g.smallest() {
				return nil, t.tooShort(c, s.Length)
			}
			n = max(g.smallest(), n-1-n*(s.Length-c.Length)/s.Length)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// fit finds the greatest size at which the first sample is not too long.
func (t Task) fit(c Config, smallest int, build func(index, size int) (Sample, error)) (int, error) {
	fits := func(size int) (bool, error) {
		s, err := build(0, size)
		if err == nil && size == smallest && s.Length > c.Length {
			err = t.tooShort(c, s.Length)
		}
		return s.Length <= c.Length, err
	}
	lo, hi := smallest, smallest // lo fits, hi does not
	for {
		ok, err := fits(hi)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		if lo = hi; hi > 8*c.Length {
			return 0, fmt.Errorf("ruler: the token counter gives %s less than %d tokens for %d pieces of text", t.Name, c.Length, hi)
		}
		hi *= 2
	}
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		ok, err := fits(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo, nil
}

func (t Task) tooShort(c Config, need int) error {
	return fmt.Errorf("ruler: length %d is too short for %s: its smallest sample has %d tokens", c.Length, t.Name, need)
}

// rng depends on the task, so tasks of one seed do not share their words, and on
// the sample, so that more samples begin with the same ones.
func (t Task) rng(seed uint64, index int) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, t.Name, "/", index)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// pick returns n different elements of x in random order (Python's random.sample).
func pick[T any](rng *rand.Rand, x []T, n int) ([]T, error) {
	if n > len(x) {
		return nil, fmt.Errorf("%d of %d to choose from", n, len(x))
	}
	out := make([]T, n)
	for i, k := range rng.Perm(len(x))[:n] {
		out[i] = x[k]
	}
	return out, nil
}

// positions returns n different integers below limit, ascending.
func positions(rng *rand.Rand, limit, n int) ([]int, error) {
	if n > limit {
		return nil, fmt.Errorf("%d places for %d pieces", limit, n)
	}
	p := rng.Perm(limit)[:n]
	slices.Sort(p)
	return p, nil
}
