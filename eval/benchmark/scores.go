package benchmark

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
)

// measured is one variant's predictions, in the order of the questions.
type measured struct {
	predictions []Prediction
	scores      []float64 // 0 to 1
	reads       []result.StepRead
}

// rows scores the predictions of all variants. Every variant stands beside
// dense on the same samples.
func (r *run) rows() ([]result.ScoreRow, error) {
	byRow := map[Row][]int{} // questions
	var order []Row
	for i := range r.benchmark.Questions {
		for _, row := range r.benchmark.Questions[i].Rows {
			if byRow[row] == nil {
				order = append(order, row)
			}
			byRow[row] = append(byRow[row], i)
		}
	}
	var dense *measured
	var out []result.ScoreRow
	for _, v := range r.variants {
		m, err := r.measure(v)
		if err != nil {
			return nil, err
		}
		if dense == nil {
			dense = m
		}
		template := result.ScoreRow{Benchmark: r.benchmark.Name, Selector: v.selector, Preset: v.preset, BitsPerToken: v.bits, Budget: v.budget, Latency: v.latency}
		made := map[Row]result.ScoreRow{}
		means := map[Row][]float64{} // of bootstrap samples of the difference
		for _, row := range order {
			made[row], means[row] = m.row(template, row, byRow[row], dense)
			out = append(out, made[row])
		}
		for _, a := range r.benchmark.Averages {
			if row, ok := average(template, a, order, made, means); ok {
				out = append(out, row)
			}
		}
	}
	return out, nil
}

// measure scores a variant's predictions on all cores.
func (r *run) measure(v *variant) (*measured, error) {
	questions := r.benchmark.Questions
	m := &measured{make([]Prediction, len(questions)), make([]float64, len(questions)), make([]result.StepRead, len(questions))}
	layers := r.Model.GlobalLayers()
	var workers errgroup.Group
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(questions); i = int(next.Add(1)) - 1 {
				q := &questions[i]
				p, ok, err := v.logs[q.Task].answered(q)
				if err != nil {
					return err
				}
				if !ok {
					return fmt.Errorf("%s: sample %s of %s has no prediction", v.folder, q.ID, q.Task)
				}
				score, err := r.benchmark.Score(q, p.Pred)
				if err != nil {
					return fmt.Errorf("%s: sample %s of %s: %w", v.folder, q.ID, q.Task, err)
				}
				if !(score >= 0 && score <= 1) {
					return fmt.Errorf("%s: sample %s of %s: score %v, want 0 to 1", v.folder, q.ID, q.Task, score)
				}
				m.predictions[i], m.scores[i], m.reads[i] = p, score, r.stepRead(v, layers, p)
			}
			return nil
		})
	}
	return m, workers.Wait()
}

// stepRead is what the step in the middle of an answer must read.
func (r *run) stepRead(v *variant, layers []int, p Prediction) result.StepRead {
	n := p.PromptTokens + (len(p.Tokens)+1)/2
	dense := kernels.StepRead{KVHeads: r.Model.KVHeads, HeadDim: r.Model.HeadDim, Cached: n}.Dense()
	if v.sparse == nil {
		return result.StepRead{StepBytes: dense, DenseStepBytes: dense}
	}
	return result.StepRead{StepBytes: v.sparse.StepBytes(layers, n, p.Density), DenseStepBytes: dense}
}

// row is the mean over questions, with the interval of its difference to dense
// and the bootstrap means behind that.
func (m *measured) row(x result.ScoreRow, row Row, questions []int, dense *measured) (result.ScoreRow, []float64) {
	x.Task, x.Context, x.Depth, x.Samples = row.Task, row.Context, row.Depth, len(questions)
	n := float64(len(questions))
	differences := make([]float64, len(questions))
	for i, q := range questions {
		p := m.predictions[q]
		x.Score += 100 * m.scores[q] / n
		x.Dense += 100 * dense.scores[q] / n
		x.Density += p.Density / n
		x.StepBytes += m.reads[q].StepBytes / n
		x.DenseStepBytes += m.reads[q].DenseStepBytes / n
		differences[i] = 100 * (m.scores[q] - dense.scores[q])
	}
	x.Difference = mean(differences)
	means := resampledMeans(differences, fmt.Sprintf("%s %s %d %g", x.Benchmark, row.Task, row.Context, row.Depth))
	x.Low, x.High = interval(means)
	return bounded(x), means
}

// average is the mean of the rows that it is of; samples are resampled within
// each row, or, where every row is of one sample, over the rows.
func average(x result.ScoreRow, a Average, order []Row, made map[Row]result.ScoreRow, means map[Row][]float64) (result.ScoreRow, bool) {
	x.Task, x.Context, x.Depth = a.Row.Task, a.Row.Context, a.Row.Depth
	var parts []result.ScoreRow
	var tasks [][]float64
	for _, row := range order {
		if a.Of(row) {
			parts = append(parts, made[row])
			tasks = append(tasks, means[row])
		}
	}
	if len(parts) == 0 {
		return x, false
	}
	n := float64(len(parts))
	var differences []float64
	for _, p := range parts {
		differences = append(differences, p.Difference)
		x.Samples += p.Samples
		x.Score += p.Score / n
		x.Dense += p.Dense / n
		x.Density += p.Density / n
		x.StepBytes += p.StepBytes / n
		x.DenseStepBytes += p.DenseStepBytes / n
		x.Difference += p.Difference / n
	}
	drawn := meanOf(tasks)
	if x.Samples == len(parts) {
		drawn = resampledMeans(differences, x.Benchmark+" "+x.Task)
	}
	x.Low, x.High = interval(drawn)
	return bounded(x), true
}

// bounded undoes what rounding of sums put beyond the ends of the scale.
func bounded(x result.ScoreRow) result.ScoreRow {
	x.Score, x.Dense, x.Density = min(x.Score, 100), min(x.Dense, 100), min(x.Density, 1)
	x.Difference, x.Low, x.High = max(min(x.Difference, 100), -100), max(x.Low, -100), min(x.High, 100)
	return x
}
