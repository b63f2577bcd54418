package benchmark

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Comparison is two folders' predictions of one task, sample by sample.
type Comparison struct {
	Task string
	// Samples is how many both have, Equal how many of them have one text.
	Samples, Equal int
	// Here and There are samples that only one folder has.
	Here, There int
	Differences []Difference
}

// Difference is where two predictions part.
type Difference struct {
	Sample string
	// Prompts differ, which explains the rest; known only if both files say
	// what was read.
	Prompts bool
	// Token is the first token of the answer that differs, -1 where a file
	// does not tell its tokens.
	Token int
	// Before is the end of what the texts share, Here and There how they go on.
	Before, Here, There string
	// Lead is by how much the other program's token led its next best one
	// there, in logits: a tiny one is a tie that rounding decided. Nil where
	// that file does not tell.
	Lead *float64
}

// Compare sets the predictions of two folders (TASK.jsonl) side by side, by
// sample where both name it, else line by line. It is an error if they have
// no task in common.
func Compare(dir, against string) ([]Comparison, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	var out []Comparison
	for _, name := range names {
		other := filepath.Join(against, filepath.Base(name))
		if _, err := os.Stat(other); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c, err := compareFiles(name, other)
		if err != nil {
			return nil, err
		}
		c.Task = strings.TrimSuffix(filepath.Base(name), ".jsonl")
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s and %s have no file TASK.jsonl in common", dir, against)
	}
	return out, nil
}

func compareFiles(name, other string) (Comparison, error) {
	var c Comparison
	here, err := readWhole(name)
	if err != nil {
		return c, err
	}
	there, err := readWhole(other)
	if err != nil {
		return c, err
	}
	key := func(p Prediction, line int) string { return p.Sample }
	if anonymous(here) || anonymous(there) {
		key = func(_ Prediction, line int) string { return fmt.Sprintf("line %d", line+1) }
	}
	others := map[string]Prediction{}
	for i, p := range there {
		others[key(p, i)] = p
	}
	for i, p := range here {
		k := key(p, i)
		q, ok := others[k]
		if !ok {
			c.Here++
			continue
		}
		delete(others, k)
		c.Samples++
		if p.Pred == q.Pred && !promptsDiffer(p, q) {
			c.Equal++
			continue
		}
		d := difference(p, q)
		d.Sample = k
		c.Differences = append(c.Differences, d)
	}
	c.There = len(others)
	return c, nil
}

// readWhole reads a finished file of predictions.
func readWhole(path string) ([]Prediction, error) {
	all, whole, err := readLog(path)
	if err == nil && whole >= 0 {
		err = fmt.Errorf("%s: the last line was cut off; let the run that writes it finish", path)
	}
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s: no predictions", path)
	}
	return all, err
}

func anonymous(all []Prediction) bool {
	for _, p := range all {
		if p.Sample == "" {
			return true
		}
	}
	return false
}

func promptsDiffer(p, q Prediction) bool {
	return p.PromptHash != "" && q.PromptHash != "" && p.PromptHash != q.PromptHash
}

// shown is how many characters of a text are shown around a difference.
const shown = 40

func difference(p, q Prediction) Difference {
	d := Difference{Prompts: promptsDiffer(p, q), Token: -1}
	at := 0
	for at < min(len(p.Pred), len(q.Pred)) {
		r, n := utf8.DecodeRuneInString(p.Pred[at:])
		if s, _ := utf8.DecodeRuneInString(q.Pred[at:]); r != s {
			break
		}
		at += n
	}
	before := []rune(p.Pred[:at])
	d.Before = string(before[max(0, len(before)-shown):])
	d.Here, d.There = head(p.Pred[at:]), head(q.Pred[at:])
	if p.Tokens == nil || q.Tokens == nil {
		return d
	}
	d.Token = 0
	for d.Token < min(len(p.Tokens), len(q.Tokens)) && p.Tokens[d.Token] == q.Tokens[d.Token] {
		d.Token++
	}
	if d.Token < len(q.Margins) {
		d.Lead = &q.Margins[d.Token]
	}
	return d
}

// head is the first characters of a text.
func head(text string) string {
	r := []rune(text)
	return string(r[:min(len(r), shown)])
}
