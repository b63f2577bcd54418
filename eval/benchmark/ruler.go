package benchmark

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/longbench/ruler"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// RulerOptions says which samples of RULER are asked.
type RulerOptions struct {
	Tokenizer *tokenizer.Tokenizer // of the model
	Context   int                  // tokens of prompt and answer
	// Tasks by name; where empty, all that need no files of questions but
	// those that are given.
	Tasks    []string
	Samples  int // of each task
	Seed     uint64
	Haystack string // of the tasks with essays
	// SQuAD and HotpotQA are the files of qa_1 and qa_2, empty without.
	SQuAD, HotpotQA string
	// Prepared is a file of upstream's scripts with samples of the one task in
	// Tasks, in place of generated ones.
	Prepared string
}

// Ruler generates or reads RULER's samples: a row per task and the average.
func Ruler(ctx context.Context, o RulerOptions) (*Benchmark, error) {
	b := &Benchmark{Name: "ruler"}
	b.Score = func(q *Question, prediction string) (float64, error) {
		t, ok := ruler.TaskByName(q.Task)
		if !ok {
			return 0, fmt.Errorf("%q is no task of RULER", q.Task)
		}
		return t.Score(prediction, q.Answers)
	}
	b.Averages = []Average{{Row{Task: AverageTask, Context: o.Context}, func(Row) bool { return true }}}
	tasks, err := o.tasks()
	if err != nil {
		return nil, err
	}
	if o.Prepared != "" {
		if len(tasks) != 1 || len(o.Tasks) != 1 {
			return nil, fmt.Errorf("%s: name the one task that its samples are of", o.Prepared)
		}
		return b, o.addPrepared(b, tasks[0])
	}
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		if t.Questions {
			if config.QA, err = o.questions(t); err != nil {
				return nil, err
			}
		}
		samples, err := t.Generate(ctx, config)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		for _, s := range samples {
			id := fmt.Sprintf("%d-seed%d-%d", o.Context, o.Seed, s.Index)
			b.Questions = append(b.Questions, rulerQuestion(t, s, id, o.Context))
		}
	}
	return b, nil
}

func (o RulerOptions) tasks() ([]ruler.Task, error) {
	for _, name := range o.Tasks {
		if _, ok := ruler.TaskByName(name); !ok {
			return nil, fmt.Errorf("%q is no task of RULER", name)
		}
	}
	return slices.DeleteFunc(ruler.Tasks(), func(t ruler.Task) bool {
		if len(o.Tasks) > 0 {
			return !slices.Contains(o.Tasks, t.Name)
		}
		return t.Questions && o.file(t) == ""
	}), nil
}

// file is the questions that a task is made of.
func (o RulerOptions) file(t ruler.Task) string {
	if t.Name == "qa_1" {
		return o.SQuAD
	}
	return o.HotpotQA
}

func (o RulerOptions) questions(t ruler.Task) (*ruler.QASet, error) {
	load, what := ruler.LoadHotpotQA, "HotpotQA's hotpot_dev_distractor_v1.json"
	if t.Name == "qa_1" {
		load, what = ruler.LoadSQuAD, "SQuAD's dev-v2.0.json"
	}
	if o.file(t) == "" {
		return nil, fmt.Errorf("%s needs a file of questions: %s", t.Name, what)
	}
	return load(o.file(t))
}

// config leaves room for what the model's chat template adds.
func (o RulerOptions) config() (ruler.Config, error) {
	count := func(text string) int { return len(o.Tokenizer.Encode(text, false)) }
	p, err := newPrompter(o.Tokenizer, o.Context, 0, false)
	if err != nil {
		return ruler.Config{}, err
	}
	around, err := p.around(&Question{Chat: true}, "")
	if err != nil {
		return ruler.Config{}, err
	}
	// where the template's text meets the sample's, tokens may split otherwise
	const seam = 4
	return ruler.Config{Length: o.Context - len(around) - seam, Count: count, Samples: o.Samples, Seed: o.Seed, Haystack: o.Haystack}, nil
}

// addPrepared reads the samples of a file; their context is the longest's.
func (o RulerOptions) addPrepared(b *Benchmark, t ruler.Task) error {
	context := 0
	for s, err := range ruler.ReadPrepared(o.Prepared) {
		if err != nil {
			return err
		}
		context = max(context, s.Length)
		b.Questions = append(b.Questions, rulerQuestion(t, s, fmt.Sprint(s.Index), 0))
		if len(b.Questions) == o.Samples {
			break
		}
	}
	for i := range b.Questions {
		b.Questions[i].Rows[0].Context = context
	}
	b.Averages[0].Row.Context = context
	return nil
}

func rulerQuestion(t ruler.Task, s ruler.Sample, id string, context int) Question {
	return Question{
		Task: t.Name, ID: id, Hash: result.Hash(fmt.Appendf(nil, "%q %q %q", s.Input, s.AnswerPrefix, s.Outputs)), Template: t.Name,
		Text: s.Input, Chat: true, AnswerPrefix: s.AnswerPrefix, MaxTokens: t.MaxTokens,
		Answers: s.Outputs, Length: s.Length, Rows: []Row{{Task: t.Name, Context: context}},
	}
}
