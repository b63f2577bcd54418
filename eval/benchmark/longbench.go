package benchmark

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/longbench"
)

// LongBenchOptions says which samples of LongBench are asked.
type LongBenchOptions struct {
	Data *longbench.Dataset
	// Tasks by name; all that the data has where empty.
	Tasks []string
	// Samples is how many of each task, the first of the file; 0 for all.
	Samples int
	// E asks for LongBench-E, which has scores by length.
	E bool
	// Similarity is how code is compared.
	Similarity longbench.Similarity
}

// The rows of averages over tasks.
const (
	AverageTask        = "average"
	AverageNoCountTask = "average-no-count" // without passage_count
)

// LongBench reads the samples and gives the benchmark: a row per task, with E
// also per range of lengths, and their averages.
func LongBench(o LongBenchOptions) (*Benchmark, error) {
	b := &Benchmark{Name: "longbench", Truncate: true}
	if o.E {
		b.Name = "longbench-e"
	}
	tasks, err := o.tasks()
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		n := 0
		for s, err := range o.Data.Samples(t, o.E) {
			if err != nil {
				return nil, err
			}
			b.Questions = append(b.Questions, longBenchQuestion(t, s, o.E))
			if n++; n == o.Samples {
				break
			}
		}
	}
	b.Score = func(q *Question, prediction string) (float64, error) {
		t, ok := longbench.TaskByName(q.Task)
		if !ok {
			return 0, fmt.Errorf("%q is no task of LongBench", q.Task)
		}
		score, _, err := t.Score(prediction, q.Answers, q.AllClasses, o.Similarity)
		return score, err
	}
	b.Averages = longBenchAverages(o.E)
	return b, nil
}

// tasks is those asked for, in the official order.
func (o LongBenchOptions) tasks() ([]longbench.Task, error) {
	have := o.Data.Tasks(o.E)
	if len(o.Tasks) == 0 {
		if len(have) == 0 {
			return nil, fmt.Errorf("the data has no files of LongBench-E (TASK_e.jsonl)")
		}
		return have, nil
	}
	for _, name := range o.Tasks {
		if _, ok := longbench.TaskByName(name); !ok {
			return nil, fmt.Errorf("%q is no task of LongBench", name)
		}
		if !slices.ContainsFunc(have, func(t longbench.Task) bool { return t.Name == name }) {
			return nil, fmt.Errorf("the data has no file of task %s", name)
		}
	}
	return slices.DeleteFunc(have, func(t longbench.Task) bool { return !slices.Contains(o.Tasks, t.Name) }), nil
}

func longBenchQuestion(t longbench.Task, s longbench.Sample, e bool) Question {
	q := Question{
		Task: t.Name, ID: s.ID, Hash: s.Hash(), Template: t.PromptHash(),
		Text: t.BuildPrompt(s), Chat: t.Chat, MaxTokens: t.MaxTokens, StopNewline: t.StopNewline,
		Answers: s.Answers, AllClasses: s.AllClasses, Length: s.Length,
		Rows: []Row{{Task: t.Name}},
	}
	if e {
		q.Rows = append(q.Rows, Row{Task: t.Name + " " + longbench.Buckets[longbench.Bucket(s.Length)]})
	}
	return q
}

// longBenchAverages is over tasks and, with e, over each range of lengths.
func longBenchAverages(e bool) []Average {
	ranges := []string{""}
	if e {
		for _, b := range longbench.Buckets {
			ranges = append(ranges, " "+b)
		}
	}
	var all []Average
	for _, suffix := range ranges {
		of := func(row Row) (longbench.Task, bool) {
			name, ok := strings.CutSuffix(row.Task, suffix)
			t, known := longbench.TaskByName(name)
			return t, ok && known
		}
		all = append(all,
			Average{Row{Task: AverageTask + suffix}, func(row Row) bool { _, ok := of(row); return ok }},
			Average{Row{Task: AverageNoCountTask + suffix}, func(row Row) bool {
				t, ok := of(row)
				return ok && longbench.WithoutPassageCount(t)
			}})
	}
	return all
}
