package ruler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// commonWords is the task cwe: of a long numbered list of words, ten come more
// often than the others.
type commonWords struct {
	common, uncommon int // how often a word comes
	example          [3]int
}

const commonAnswers = 10

func newCommonWords(c Config) (generator, error) {
	if c.Length < 4096 {
		return commonWords{6, 1, [3]int{20, 3, 1}}, nil
	}
	return commonWords{30, 3, [3]int{40, 10, 3}}, nil
}

func (g commonWords) smallest() int { return commonAnswers }

func (g commonWords) sample(rng *rand.Rand, _, size int) (Sample, error) {
	example, err := listWords(rng, g.example[0], g.example[1], g.example[2])
	if err != nil {
		return Sample{}, err
	}
	s, err := listWords(rng, size, g.common, g.uncommon)
	s.Input = example.Prompt() + " " + numbered(example.Outputs) + "\n" + s.Input
	return s, err
}

// listWords makes a list of so many different words, ten of them common times and
// the others uncommon times.
func listWords(rng *rand.Rand, words, common, uncommon int) (Sample, error) {
	from := vocabulary()
	var chosen []string
	if words <= len(from.all) {
		var err error
		if chosen, err = pick(rng, from.all, words); err != nil {
			return Sample{}, err
		}
	} else {
		// Upstream turns to a second dictionary here; compounds serve as well.
		if words > len(from.adjectives)*len(from.nouns)/2 {
			return Sample{}, fmt.Errorf("%d words are more than there are", words)
		}
		chosen = distinct(rng, aWord, words)
	}
	answers := chosen[:commonAnswers]
	list := slices.Concat(slices.Repeat(answers, common), slices.Repeat(chosen[commonAnswers:], uncommon))
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return Sample{
		Input: "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n" +
			numbered(list) + "\nQuestion: What are the 10 most common words in the above list?",
		AnswerPrefix: " Answer: The top 10 words that appear most often in the list are:",
		Outputs:      answers,
	}, nil
}

func numbered(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d. %s", i+1, w)
	}
	return b.String()
}

// frequentWords is the task fwe: made-up words come as often as a zeta
// distribution has it, and the three most frequent are asked for. The most
// frequent of all is "...", which is noise.
type frequentWords struct{ vocabulary int }

const (
	codedLetters = 6
	zetaOf2      = math.Pi * math.Pi / 6 // of alpha = 2
)

func newFrequentWords(c Config) (generator, error) {
	return frequentWords{max((c.Length-50)/50, 8)}, nil
}

// smallest is where the fourth of the words comes more often than the fifth.
func (g frequentWords) smallest() int { return 64 }

func (g frequentWords) sample(rng *rand.Rand, _, size int) (Sample, error) {
	words := distinct(rng, kind{random: func(rng *rand.Rand) string {
		b := make([]byte, codedLetters)
		for i := range b {
			b[i] = byte('a' + rng.IntN(26))
		}
		return string(b)
	}}, g.vocabulary)
	words[0] = "..."
	var text []string
	for k, w := range words {
		n := int(float64(size) / float64((k+1)*(k+1)) / zetaOf2)
		text = append(text, slices.Repeat([]string{w}, n)...)
	}
	rng.Shuffle(len(text), func(i, j int) { text[i], text[j] = text[j], text[i] })
	return Sample{
		Input: "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. " +
			strings.Join(text, " ") + "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently appeared words in the above coded text?",
		AnswerPrefix: " Answer: According to the coded text above, the three most frequently appeared words are:",
		Outputs:      words[1:4],
	}, nil
}
