package ruler

import (
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/hashattn/hashattn/longbench/internal/jsonl"
	"github.com/hashattn/hashattn/longbench/internal/pystr"
)

// Score compares a prediction with a sample's outputs, without regard to case: the
// share of them that occur in it or, for tasks with AnyAnswer, whether one does.
// It is in [0, 1]; without outputs it is an error.
func (t Task) Score(prediction string, outputs []string) (float64, error) {
	if len(outputs) == 0 {
		return 0, fmt.Errorf("ruler: a sample of %s without outputs", t.Name)
	}
	text := pystr.Lower(clean(prediction))
	found := 0
	for _, o := range outputs {
		if strings.Contains(text, pystr.Lower(o)) {
			found++
		}
	}
	if t.AnyAnswer {
		return float64(min(found, 1)), nil
	}
	return float64(found) / float64(len(outputs)), nil
}

// clean is upstream's postprocess_pred: control characters become newlines.
func clean(prediction string) string {
	prediction = strings.TrimFunc(prediction, pystr.IsSpace)
	return strings.TrimFunc(strings.Map(func(c rune) rune {
		if c < 0x20 {
			return '\n'
		}
		return c
	}, prediction), pystr.IsSpace)
}

// Mean is the score of a task in per cent to two decimals, as upstream rounds it;
// NaN of no scores.
func Mean(scores []float64) float64 {
	sum := 0.0
	for _, s := range scores {
		sum += s
	}
	return pystr.Round2(sum / float64(len(scores)) * 100)
}

// ReadPrepared yields the samples of a file that upstream's scripts prepared, such
// as niah_multikey_3/validation.jsonl (also .gz or .zst): one JSON object a line
// with input and outputs. Older files have no answer_prefix: there it ends the
// input. An error names file and line and ends the sequence.
func ReadPrepared(path string) iter.Seq2[Sample, error] {
	return func(yield func(Sample, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(Sample{}, err)
			return
		}
		defer f.Close()
		r, err := jsonl.Decompress(f, path)
		if err != nil {
			yield(Sample{}, fmt.Errorf("%s: %w", path, err))
			return
		}
		defer r.Close()
		n := 0
		for l, err := range jsonl.Lines(r, path) {
			s := Sample{Index: n}
			if err == nil {
				s, err = parsePrepared(l, n)
			}
			if !yield(s, err) || err != nil {
				return
			}
			n++
		}
		if n == 0 {
			yield(Sample{}, fmt.Errorf("%s: no samples", path))
		}
	}
}

func parsePrepared(l jsonl.Line, index int) (Sample, error) {
	s := Sample{Index: index} // where the record does not say
	if err := json.Unmarshal(l.Text, &s); err != nil {
		return Sample{}, l.Errorf("%w", err)
	}
	switch {
	case s.Input == "":
		return Sample{}, l.Errorf("no input")
	case len(s.Outputs) == 0:
		return Sample{}, l.Errorf("no outputs")
	}
	return s, nil
}
