package benchmark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/atomicfile"
)

// latencies is the file latency.json beside the predictions: how long a token
// takes each variant that decodes one sequence alone, all behind the same
// prompt. In a run's own batches variants share their time.
type latencies struct {
	Context int             `json:"context"` // cached tokens
	Of      map[string]lone `json:"settings"`
}

// lone is one variant's latency.
type lone struct {
	Config  string  `json:"config"`            // of the first question's predictions
	Seconds float64 `json:"seconds_per_token"` // median
}

// A latency is the median of timedSteps decode steps after untimedSteps.
const (
	untimedSteps = 3
	timedSteps   = 9
)

func (r *run) latencyFile() string { return filepath.Join(r.Dir, "latency.json") }

// latencyConfig is what a variant's latency depends on, as its predictions do.
func (r *run) latencyConfig(v *variant) string {
	return v.logs[r.benchmark.Questions[0].Task].config
}

// readLatencies gives the variants the latencies that an earlier run measured.
// It reports whether all are known.
func (r *run) readLatencies() (all bool, err error) {
	raw, err := os.ReadFile(r.latencyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var f latencies
	if err := json.Unmarshal(raw, &f); err != nil {
		return false, fmt.Errorf("%s: %w; remove it", r.latencyFile(), err)
	}
	all = true
	for _, v := range r.variants {
		if l, ok := f.Of[v.folder]; ok && l.Config == r.latencyConfig(v) && l.Seconds > 0 {
			v.latency = l.Seconds
		} else {
			all = false
		}
	}
	return all, nil
}

// measureLatency times all variants on a sequence that holds a prompt's
// beginning, unless all were timed before.
func (r *run) measureLatency(ctx context.Context, s *model.Sequence, j *job) error {
	if all, err := r.readLatencies(); err != nil || all {
		return err
	}
	steps := min(untimedSteps+timedSteps, s.Cache.Capacity-s.Len())
	if steps <= untimedSteps {
		return nil // an answer of a token or two has no latency
	}
	f := latencies{Context: s.Len(), Of: map[string]lone{}}
	for _, v := range r.variants {
		if err := r.timeAlone(ctx, v, s, j.tokens[len(j.tokens)-1], steps); err != nil {
			return fmt.Errorf("%s: %w", v.folder, err)
		}
		f.Of[v.folder] = lone{r.latencyConfig(v), v.latency}
	}
	return atomicfile.Write(r.latencyFile(), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(f)
	})
}

// timeAlone sets v's latency. The sequence is as before afterwards.
func (r *run) timeAlone(ctx context.Context, v *variant, s *model.Sequence, token int32, steps int) (err error) {
	n := s.Len()
	defer func() {
		s.DropIndex(r.Model.Device)
		err = errors.Join(err, s.Rewind(n))
	}()
	if v.sparse != nil {
		if s.Index, err = v.sparse.Build(s.Cache); err != nil {
			return err
		}
	}
	attend := v.attention(r.Model)
	times := make([]float64, 0, steps)
	for range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		if err := r.runner.Decode([]*model.Sequence{s}, []int32{token}, attend); err != nil {
			return err
		}
		times = append(times, seconds(start))
	}
	times = times[untimedSteps:]
	slices.Sort(times)
	v.latency = times[len(times)/2]
	return nil
}
