package longbench

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"github.com/hashattn/hashattn/longbench/internal/pystr"
)

// Result is the score of a folder of predictions.
type Result struct {
	E     bool         // of LongBench-E
	Tasks []TaskResult // in the official order
}

// TaskResult is the score of one task, in per cent to two decimals.
type TaskResult struct {
	Task Task
	File string // that was scored
	// Score is the mean over all samples. Result.JSON of LongBench-E does not
	// have it: there only the means by length count.
	Score float64
	// Buckets are the means by length of LongBench-E, in the order of Buckets;
	// NaN where there is no sample of that length.
	Buckets [3]float64
	Samples []SampleScore // in the file's order
}

// SampleScore is the score of one prediction.
type SampleScore struct {
	Line   int     // in the file, from 1
	Length int     // of the sample; 0 if the prediction does not say
	Score  float64 // in [0, 1], not rounded
	Note   string  // why a score of 0 is no judgement of the text; else empty
}

// Buckets names the length ranges of LongBench-E.
var Buckets = [3]string{"0-4k", "4-8k", "8k+"}

// Bucket returns which of Buckets a sample's length falls in.
func Bucket(length int) int {
	switch {
	case length < 4000:
		return 0
	case length < 8000:
		return 1
	}
	return 2
}

// summarize takes the means as upstream's scorer and scorer_e do: the one sums in
// order and rounds a Python float, the other leaves both to numpy.
func (t *TaskResult) summarize(e bool) {
	total := 0.0
	var byLength [3][]float64
	for _, s := range t.Samples {
		total += s.Score
		b := Bucket(s.Length)
		byLength[b] = append(byLength[b], s.Score)
	}
	t.Score = pystr.Round2(100 * total / float64(len(t.Samples)))
	if !e {
		return
	}
	for i, scores := range byLength {
		t.Buckets[i] = pystr.NumpyRound2(100 * pystr.NumpyMean(scores))
	}
}

// Average is the mean of the scores of the tasks that keep accepts (nil: all),
// not rounded; NaN if there are none. Papers differ in which tasks they average:
// see WithoutPassageCount.
func (r Result) Average(keep func(Task) bool) float64 {
	return r.average(keep, func(t TaskResult) float64 { return t.Score })
}

// AverageBucket is Average over the scores of one length range of LongBench-E;
// tasks without a sample of that length do not count.
func (r Result) AverageBucket(bucket int, keep func(Task) bool) float64 {
	return r.average(keep, func(t TaskResult) float64 { return t.Buckets[bucket] })
}

func (r Result) average(keep func(Task) bool, score func(TaskResult) float64) float64 {
	sum, n := 0.0, 0
	for _, t := range r.Tasks {
		if s := score(t); (keep == nil || keep(t.Task)) && !math.IsNaN(s) {
			sum += s
			n++
		}
	}
	return sum / float64(n)
}

// WithoutPassageCount accepts all tasks but passage_count, on which most models
// score near chance and which many averages leave out.
func WithoutPassageCount(t Task) bool { return t.Name != "passage_count" }

// JSON is the official result.json: a score a task or, for LongBench-E, a score a
// length range. A range without samples is NaN there, as Python writes it, which
// strict JSON parsers refuse.
func (r Result) JSON() []byte {
	var b bytes.Buffer
	b.WriteString("{")
	for i, t := range r.Tasks {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n    %q: ", t.Task.Name)
		if !r.E {
			b.WriteString(pythonFloat(t.Score))
			continue
		}
		b.WriteString("{")
		for k, s := range t.Buckets {
			if k > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, "\n        %q: %s", Buckets[k], pythonFloat(s))
		}
		b.WriteString("\n    }")
	}
	b.WriteString("\n}")
	return b.Bytes()
}

// pythonFloat writes a score of two decimals as repr does.
func pythonFloat(x float64) string {
	if math.IsNaN(x) {
		return "NaN"
	}
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if x == math.Trunc(x) {
		s += ".0"
	}
	return s
}
