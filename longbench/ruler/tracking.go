package ruler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// tracking is the task vt: variables are assigned along a chain that is spread
// over the text, and those with the first one's value are asked for. One solved
// short example comes first.
type tracking struct{ exampleSize int }

const (
	hops          = 4
	exampleTokens = 500
)

func newTracking(c Config) (generator, error) {
	// The example is as long as 500 tokens allow.
	g := tracking{exampleSize: hops + 1}
	rng := Task{Name: "vt example"}.rng(c.Seed, 0)
	for {
		s, err := track(rng, g.exampleSize+1, 3)
		if err != nil {
			return nil, err
		}
		if c.Count(s.Prompt()) > exampleTokens || g.exampleSize > exampleTokens {
			return g, nil
		}
		g.exampleSize++
	}
}

func (g tracking) smallest() int { return hops + 1 }

func (g tracking) sample(rng *rand.Rand, _, size int) (Sample, error) {
	example, err := track(rng, g.exampleSize, 3)
	if err != nil {
		return Sample{}, err
	}
	s, err := track(rng, size, 5)
	s.Input = example.Prompt() + " " + strings.Join(example.Outputs, " ") + "\n\n" + s.Input
	return s, err
}

// track makes one chain of variables with names of so many letters in size
// pieces of noise.
func track(rng *rand.Rand, size, letters int) (Sample, error) {
	name := kind{random: func(rng *rand.Rand) string {
		b := make([]byte, letters)
		for i := range b {
			b[i] = byte('A' + rng.IntN(26))
		}
		return string(b)
	}}
	variables := distinct(rng, name, hops+1)
	value := fmt.Sprint(10000 + rng.IntN(89999))
	sentences := slices.Repeat([]string{noiseSentences}, size)
	at, err := positions(rng, size, len(variables))
	if err != nil {
		return Sample{}, err
	}
	for i, p := range at {
		assignment := fmt.Sprintf("VAR %s = %s", variables[i], value)
		if i > 0 {
			assignment = fmt.Sprintf("VAR %s = VAR %s ", variables[i], variables[i-1])
		}
		sentences = slices.Insert(sentences, p+i, assignment)
	}
	return Sample{
		Input: fmt.Sprintf("Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n%s\nQuestion: Find all variables that are assigned the value %s in the text above.",
			strings.Join(sentences, "\n"), value),
		AnswerPrefix: fmt.Sprintf(" Answer: According to the chain(s) of variable assignment in the text above, %d variables are assigned the value %s, they are: ", hops+1, value),
		Outputs:      variables,
	}, nil
}
