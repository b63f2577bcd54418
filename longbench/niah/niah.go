// Package niah builds the needle-in-a-haystack test
// (github.com/gkamradt/LLMTest_NeedleInAHaystack): one sentence that answers a
// question is hidden at a given depth of a long text of a given length.
//
//	ReadEssays -> NewHaystack -> Haystack.Context -> Needle.Question -> (model) -> Needle.Score
package niah

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/longbench/internal/prose"
	"github.com/hashattn/hashattn/longbench/internal/pystr"
)

// Needle is a sentence to hide and the question that it answers.
type Needle struct {
	Text     string // with the white space that sets it apart
	Question string
	Answer   string // the words that a right response has
}

// SanFrancisco is upstream's needle.
var SanFrancisco = Needle{
	Text:     "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n",
	Question: "What is the best thing to do in San Francisco?",
	Answer:   "eat a sandwich and sit in Dolores Park on a sunny day",
}

// SystemPrompt and the words after the question are upstream's.
const SystemPrompt = "You are a helpful AI bot that answers questions for a user. Keep your response short and direct"

// Prompt is the user's message: the context, then the question.
func (n Needle) Prompt(context string) string {
	return context + "\n\n" + n.Question + " Don't give information outside the document or repeat your findings"
}

// Score is the share of the answer's different words that occur in a response, in
// [0, 1], without regard to case, punctuation and the articles and prepositions
// that any response has. Upstream asks a language model for a mark instead.
func (n Needle) Score(response string) float64 {
	have := words(response)
	want := words(n.Answer)
	if len(want) == 0 {
		return 0
	}
	found := 0
	for w := range want {
		if have[w] {
			found++
		}
	}
	return float64(found) / float64(len(want))
}

var stopWords = map[string]bool{
	"a": true, "an": true, "the": true, "and": true, "or": true, "of": true, "in": true, "on": true,
	"at": true, "to": true, "is": true, "are": true, "was": true, "it": true, "for": true, "with": true,
}

func words(text string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.FieldsFunc(pystr.Lower(text), func(c rune) bool { return !pystr.IsWord(c) }) {
		if !stopWords[w] {
			set[w] = true
		}
	}
	return set
}

// maxEssays bounds the text of a folder.
const maxEssays = 256 << 20

// ReadEssays reads the text files (*.txt) of a folder, in the order of their names.
func ReadEssays(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%s: no essays (*.txt)", dir)
	}
	slices.Sort(files)
	var b strings.Builder
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return "", err
		}
		if b.Len()+int(info.Size()) > maxEssays {
			return "", fmt.Errorf("%s: essays of more than %d MiB", dir, maxEssays>>20)
		}
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.Write(text)
	}
	return b.String(), nil
}

// Haystack is a text cut at the ends of its sentences, with the tokens of each,
// so that contexts of many lengths and depths need no further count of it all.
type Haystack struct {
	sentences []string
	tokens    []int // of each sentence
	count     func(string) int
}

// NewHaystack cuts a text; count gives the tokens of a text by the tokenizer of
// the model to test.
func NewHaystack(text string, count func(string) int) (*Haystack, error) {
	h := &Haystack{count: count}
	total := 0
	for _, s := range prose.Sentences(text) {
		n := count(s)
		h.sentences = append(h.sentences, s)
		h.tokens = append(h.tokens, n)
		total += n
	}
	if total == 0 {
		return nil, errors.New("niah: a haystack without text")
	}
	return h, nil
}

// Context is a text of at most length tokens with the needle in it: after depth
// per cent of the haystack's tokens, moved back to the end of a sentence. at is
// the depth in per cent where it really is. The haystack repeats where it is too
// short. Upstream leaves 200 of the model's tokens for the question and the
// response: so should the caller.
func (h *Haystack) Context(n Needle, length int, depth float64) (text string, at float64, err error) {
	if !(depth >= 0 && depth <= 100) {
		return "", 0, fmt.Errorf("niah: depth %v is not between 0 and 100 per cent", depth)
	}
	room := length - h.count(n.Text)
	if room <= 0 {
		return "", 0, fmt.Errorf("niah: length %d has no room for the needle's %d tokens", length, length-room)
	}
	used, total := 0, 0
	for total+h.tokens[used%len(h.tokens)] <= room {
		total += h.tokens[used%len(h.tokens)]
		used++
	}
	// Sentences by themselves may have a few tokens more or less than together.
	for {
		text, at = h.insert(n, used, total, depth)
		if h.count(text) <= length {
			return text, at, nil
		}
		if used == 0 {
			return "", 0, fmt.Errorf("niah: length %d has no room for the needle", length)
		}
		used--
		total -= h.tokens[used%len(h.tokens)]
	}
}

// insert puts the needle into the first used sentences, which have total tokens.
func (h *Haystack) insert(n Needle, used, total int, depth float64) (string, float64) {
	var b strings.Builder
	before, i := 0, 0
	for ; i < used; i++ {
		k := i % len(h.sentences)
		if float64(before+h.tokens[k]) > depth/100*float64(total) {
			break
		}
		before += h.tokens[k]
		b.WriteString(h.sentences[k])
	}
	b.WriteString(n.Text)
	for ; i < used; i++ {
		b.WriteString(h.sentences[i%len(h.sentences)])
	}
	if total == 0 {
		return b.String(), 0
	}
	return b.String(), 100 * float64(before) / float64(total)
}

// Intervals returns n values from lo to hi at equal distances, as upstream spaces
// lengths and depths.
func Intervals(lo, hi float64, n int) []float64 {
	out := make([]float64, max(n, 0))
	for i := range out {
		out[i] = lo
		if n > 1 {
			out[i] = lo + (hi-lo)*float64(i)/float64(n-1)
		}
	}
	return out
}
