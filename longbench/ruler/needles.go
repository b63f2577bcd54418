package ruler

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/hashattn/hashattn/longbench/internal/prose"
	"github.com/hashattn/hashattn/longbench/internal/pystr"
)

// The kinds of haystack.
const (
	noise        = iota // the same five short sentences again and again
	essays              // Config.Haystack
	otherNeedles        // needles with other keys
)

const noiseSentences = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

// kind is what a needle's key or value is made of.
type kind struct {
	plural string
	random func(*rand.Rand) string
}

var (
	aNumber = kind{"numbers", func(rng *rand.Rand) string { return fmt.Sprint(1_000_000 + rng.IntN(9_000_000)) }}
	aWord   = kind{"words", func(rng *rand.Rand) string {
		w := vocabulary()
		return w.adjectives[rng.IntN(len(w.adjectives))] + "-" + w.nouns[rng.IntN(len(w.nouns))]
	}}
	aUUID = kind{"uuids", func(rng *rand.Rand) string {
		hi, lo := rng.Uint64(), rng.Uint64()
		hi = hi&^0xf000 | 0x4000       // version 4
		lo = lo&^(0b11<<62) | 0b10<<62 // RFC 4122
		return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", hi>>32, hi>>16&0xffff, hi&0xffff, lo>>48, lo&(1<<48-1))
	}}
)

// needles are the niah tasks: "One of the special magic numbers for KEY is:
// VALUE." is hidden for some keys, some of which are asked for.
type needles struct {
	haystack              int
	key, value            kind
	keys, values, queries int // 0 means 1; values are per key
	words                 []string
}

func (n needles) generator(c Config) (generator, error) {
	n.values, n.queries = max(n.values, 1), max(n.queries, 1)
	n.keys = max(n.keys, n.queries)
	if n.haystack == essays {
		if n.words = pystr.Fields(c.Haystack); len(n.words) == 0 {
			return nil, fmt.Errorf("ruler: the haystack has no words")
		}
	}
	return n, nil
}

// smallest haystacks have a place for every needle.
func (n needles) smallest() int {
	if n.haystack == essays {
		return 50
	}
	return n.keys * n.values
}

func (n needles) needle(key, value string) string {
	return fmt.Sprintf("One of the special magic %s for %s is: %s.", n.value.plural, key, value)
}

func (n needles) sample(rng *rand.Rand, _, size int) (Sample, error) {
	keys := distinct(rng, n.key, n.keys)
	values := distinct(rng, n.value, n.keys*n.values) // [key * n.values + i]
	hidden := make([]string, len(values))
	for i, v := range values {
		hidden[i] = n.needle(keys[i/n.values], v)
	}
	rng.Shuffle(len(hidden), func(i, j int) { hidden[i], hidden[j] = hidden[j], hidden[i] })

	text, err := n.hide(rng, hidden, keys, size)
	if err != nil {
		return Sample{}, err
	}
	asked := rng.Perm(n.keys)[:n.queries]
	var query, outputs []string
	for _, k := range asked {
		query = append(query, keys[k])
		outputs = append(outputs, values[k*n.values:(k+1)*n.values]...)
	}
	return n.ask(text, query, outputs), nil
}

// distinct draws n different ones: a key or a value twice would make two right
// answers of one.
func distinct(rng *rand.Rand, k kind, n int) []string {
	out, seen := make([]string, 0, n), make(map[string]bool, n)
	for len(out) < n {
		if s := k.random(rng); !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func (n needles) hide(rng *rand.Rand, hidden, keys []string, size int) (string, error) {
	if n.haystack == essays {
		return scatter(rng, essay(n.words, size), hidden)
	}
	sentences := make([]string, size)
	for i := range sentences {
		sentences[i] = noiseSentences
		if n.haystack == otherNeedles {
			key := n.key.random(rng)
			for slices.Contains(keys, key) {
				key = n.key.random(rng)
			}
			sentences[i] = n.needle(key, n.value.random(rng))
		}
	}
	at, err := positions(rng, size, len(hidden))
	if err != nil {
		return "", err
	}
	for i, p := range slices.Backward(at) {
		sentences = slices.Insert(sentences, p, hidden[i])
	}
	return strings.Join(sentences, "\n"), nil
}

// essay is the first size words of a text that repeats.
func essay(words []string, size int) string {
	var b strings.Builder
	for i := range size {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(words[i%len(words)])
	}
	return b.String()
}

// scatter puts pieces between the sentences of text, in order, at different ones
// of 40 depths from 0 to 100%.
func scatter(rng *rand.Rand, text string, pieces []string) (string, error) {
	sentences := prose.Sentences(text)
	depths, err := positions(rng, 40, len(pieces))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	from := 0
	for i, d := range depths {
		percent := (200*d + 39) / 78 // round(100 * d / 39)
		to := len(sentences) * percent / 100
		appendSentences(&b, sentences[from:to])
		appendSentences(&b, pieces[i:i+1])
		from = to
	}
	appendSentences(&b, sentences[from:])
	return b.String(), nil
}

func appendSentences(b *strings.Builder, sentences []string) {
	for _, s := range sentences {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strings.TrimSpace(s))
	}
}

// ask wraps the text in upstream's template, which speaks in the singular of a
// single answer.
func (n needles) ask(text string, query, outputs []string) Sample {
	what, some, are, areAll := n.value.plural, "Some", "are", "are all"
	if len(outputs) == 1 {
		what, some, are, areAll = strings.TrimSuffix(what, "s"), "A", "is", "is"
	}
	asked := query[0]
	if last := len(query) - 1; last > 0 {
		asked = strings.Join(query[:last], ", ") + ", and " + query[last]
	}
	return Sample{
		Input: fmt.Sprintf("%s special magic %s %s hidden within the following text. Make sure to memorize it. I will quiz you about the %s afterwards.\n%s\nWhat %s the special magic %s for %s mentioned in the provided text?",
			some, what, are, what, text, areAll, what, asked),
		AnswerPrefix: fmt.Sprintf(" The special magic %s for %s mentioned in the provided text %s", what, asked, are),
		Outputs:      outputs,
	}
}

// The word lists are those of wonderwords (MIT, see words/LICENSE.wonderwords),
// as upstream's.
var (
	//go:embed words/adjectives.txt
	adjectiveList string
	//go:embed words/nouns.txt
	nounList string
	//go:embed words/verbs.txt
	verbList string
)

type wordLists struct {
	adjectives, nouns []string
	all               []string // of every kind, each once, sorted
}

var vocabulary = sync.OnceValue(func() wordLists {
	split := func(list string) []string {
		var out []string
		for w := range strings.Lines(list) {
			if w = strings.TrimSpace(w); w != "" {
				out = append(out, w)
			}
		}
		return out
	}
	w := wordLists{adjectives: split(adjectiveList), nouns: split(nounList)}
	w.all = slices.Concat(w.adjectives, w.nouns, split(verbList))
	slices.Sort(w.all)
	w.all = slices.Compact(w.all)
	return w
})
