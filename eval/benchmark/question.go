package benchmark

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/eval/result"
)

// Benchmark is questions and how their answers are scored.
type Benchmark struct {
	Name      string // of the rows: "longbench", "longbench-e", "niah", "ruler"
	Questions []Question
	// Score says how good a prediction is, 0 to 1.
	Score func(q *Question, prediction string) (float64, error)
	// Averages are means over rows.
	Averages []Average
	// Truncate cuts the middle out of prompts that are too long, as LongBench
	// does; otherwise they are errors.
	Truncate bool
}

// Question is one prompt that the model answers under every setting.
type Question struct {
	Task string // names the file of its predictions
	ID   string // unique within the task
	// Hash identifies what is asked and what is right; Template the fixed text
	// around it, the same for all questions of a task.
	Hash, Template string
	// Text is the prompt, before the model's chat template if Chat is set.
	Text string
	Chat bool
	// System is the system message, before the text where there is no chat.
	System string
	// AnswerPrefix is the beginning of the answer, which the model continues.
	AnswerPrefix string
	MaxTokens    int // of the answer
	// StopNewline ends the answer at the token that ends an encoded newline.
	// The first token may then neither be that nor end the text.
	StopNewline bool

	Answers    []string
	AllClasses []string
	Length     int // as the data set counts it

	// Rows are the rows of scores that the question counts in.
	Rows []Row
}

// Row names a row of scores.
type Row struct {
	Task    string
	Context int     // 0 if the task has no fixed one
	Depth   float64 // of a needle
}

// Average is the mean of rows, each row weighing the same.
type Average struct {
	Row Row
	Of  func(Row) bool
}

// check reports questions that cannot be told apart or asked.
func (b *Benchmark) check() error {
	if len(b.Questions) == 0 {
		return fmt.Errorf("%s: no questions", b.Name)
	}
	type key struct{ task, id string }
	seen := map[key]bool{}
	for i := range b.Questions {
		q := &b.Questions[i]
		switch k := (key{q.Task, q.ID}); {
		case seen[k]:
			return fmt.Errorf("%s: %s has two samples called %s", b.Name, q.Task, q.ID)
		case q.MaxTokens < 1:
			return fmt.Errorf("%s: sample %s of %s allows answers of %d tokens", b.Name, q.ID, q.Task, q.MaxTokens)
		default:
			seen[k] = true
		}
	}
	return nil
}

// samples is the hash of the questions, whatever their order: results compare
// only where it is equal.
func (b *Benchmark) samples() string {
	lines := make([]string, len(b.Questions))
	for i, q := range b.Questions {
		lines[i] = fmt.Sprintf("%s\t%s\t%s\t%s\n", q.Task, q.ID, q.Hash, q.Template)
	}
	slices.Sort(lines)
	return result.Hash([]byte(strings.Join(lines, "")))
}
