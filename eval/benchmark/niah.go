package benchmark

import (
	"fmt"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench/niah"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// NIAHOptions says where the needle is hidden.
type NIAHOptions struct {
	Tokenizer *tokenizer.Tokenizer // of the model
	Haystack  string               // the text to hide it in
	Contexts  []int                // tokens of prompt and answer
	Depths    int                  // from the beginning to the end of the text
	Needle    niah.Needle
}

// niahRoom is what upstream leaves of a context for the question and the
// response, niahAnswer the response's share.
const niahRoom, niahAnswer = 200, 64

// NIAH gives needle in a haystack: a question per context and depth, and
// averages per context and over all.
func NIAH(o NIAHOptions) (*Benchmark, error) {
	hay, err := niah.NewHaystack(o.Haystack, func(text string) int { return len(o.Tokenizer.Encode(text, false)) })
	if err != nil {
		return nil, err
	}
	b := &Benchmark{Name: "niah"}
	template := result.Hash(fmt.Appendf(nil, "%q %q", niah.SystemPrompt, o.Needle))
	for _, context := range o.Contexts {
		for _, depth := range niah.Intervals(0, 100, o.Depths) {
			text, _, err := hay.Context(o.Needle, context-niahRoom, depth)
			if err != nil {
				return nil, fmt.Errorf("context of %d tokens: %w", context, err)
			}
			b.Questions = append(b.Questions, Question{
				Task: result.NIAHTask, ID: fmt.Sprintf("%d-%g", context, depth), Hash: result.Hash([]byte(text)), Template: template,
				Text: o.Needle.Prompt(text), Chat: true, System: niah.SystemPrompt, MaxTokens: niahAnswer,
				Answers: []string{o.Needle.Answer}, Length: context,
				Rows: []Row{{Task: result.NIAHTask, Context: context, Depth: depth / 100}},
			})
		}
		b.Averages = append(b.Averages, Average{Row{Task: AverageTask, Context: context}, func(r Row) bool { return r.Context == context }})
	}
	if len(o.Contexts) > 1 {
		b.Averages = append(b.Averages, Average{Row{Task: AverageTask}, func(Row) bool { return true }})
	}
	b.Score = func(_ *Question, prediction string) (float64, error) { return o.Needle.Score(prediction), nil }
	return b, nil
}
