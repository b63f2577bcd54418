package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/trace"
)

type captureOptions struct{ out string }

func (a *app) captureCommand() *cobra.Command {
	var o captureOptions
	c := &cobra.Command{
		Use:   "capture",
		Short: "Run a model over texts and keep its queries, keys and values",
		Long: `capture runs the model densely over the calibration and the held-out texts and
writes two traces: OUT/calibration, which train reads, and OUT/heldout, which
eval recall reads. A capture that was stopped goes on at the next document.
` + exitHelp,
		Example: `  hashattn capture --config quickstart
  hashattn capture --model model.gguf --calibration essays/ --heldout novel.txt --context 8K
  hashattn capture --layers 0,8,16 --out traces`,
		Args: args(cobra.NoArgs),
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			if o.out == "" {
				o.out = s.path("traces")
			}
			return s.runCapture(ctx, o)
		}),
	}
	a.bindKeys(c, "name", "model", "device", "data", "capture.context", "capture.documents", "capture.layers", "eval.recall.contexts", "eval.recall.queries")
	c.Flags().StringVarP(&o.out, "out", "o", "", "`folder` of the traces (default: traces in the run's folder)")
	return c
}

// captured is what capture prints.
type captured struct {
	Trace     string `json:"trace"`
	Documents int    `json:"documents"`
	Tokens    int    `json:"tokens"`
	Queries   int    `json:"queries"`
	Bytes     int64  `json:"bytes"`
	Layers    []int  `json:"layers"`
}

func (s *session) runCapture(ctx context.Context, o captureOptions) error {
	if err := s.distinct(); err != nil {
		return err
	}
	var all []captured
	for _, set := range []string{"calibration", "heldout"} {
		c, err := s.capture(ctx, set, filepath.Join(o.out, set))
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	if s.app.json {
		return s.app.printJSON(all)
	}
	for _, c := range all {
		s.app.printf("%s: %d documents, %d tokens, %d query positions, %.1f MB\n", c.Trace, c.Documents, c.Tokens, c.Queries, float64(c.Bytes)/1e6)
	}
	return nil
}

// capture writes the trace of one set of texts.
func (s *session) capture(ctx context.Context, set, dir string) (captured, error) {
	m, err := s.openModel(ctx)
	if err != nil {
		return captured{}, err
	}
	sources, n := s.textsOf(set)
	positions := s.measuredPositions
	if set == "calibration" {
		positions = trace.Blocks
	}
	docs, tokens, err := s.documents(m, sources, n, int(s.Capture.Context))
	if err != nil {
		return captured{}, err
	}
	layers := m.GlobalLayers()
	if len(s.Capture.Layers) > 0 {
		for _, l := range s.Capture.Layers {
			if !slices.Contains(layers, l) {
				return captured{}, usagef("capture.layers: %s has no layer %d that attends to all tokens (it has %v)", m.Name, l, layers)
			}
		}
		layers = slices.Compact(slices.Sorted(slices.Values(s.Capture.Layers)))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return captured{}, err
	}
	w, err := trace.Create(dir, trace.Header{Model: m.Shape(), Tokenizer: m.Tokenizer.Hash(), Context: int(s.Capture.Context), Captured: layers, Scale: m.QueryScale})
	if err != nil {
		return captured{}, asInput(err)
	}
	r, err := m.NewRunner(chunk(s.Device, m.Device), 1)
	if err != nil {
		return captured{}, err
	}
	task := s.app.progress.task("capture "+set, false)
	defer task.end()
	begin := time.Now()
	total, done := len(docs)*int(s.Capture.Context), 0
	for i, d := range docs {
		if err := ctx.Err(); err != nil {
			return captured{}, err
		}
		if !w.Has(d.Name, d.Hash()) {
			if err := s.captureDocument(ctx, r, w, d.Name, d.Hash(), d.Kind, tokens[i].Tokens, positions, layers, func(n, _ int) { task.update(done+n, total) }); err != nil {
				return captured{}, fmt.Errorf("capture %s: %w", d.Name, err)
			}
		}
		done += len(tokens[i].Tokens)
		task.update(done, total)
	}
	task.end()
	if took := time.Since(begin); took > time.Second {
		s.app.progress.logf("captured %s: %d tokens in %s", set, total, elapsed(took))
	}
	c, err := describeTrace(dir)
	if err == nil && c.Documents != len(docs) {
		err = asInput(fmt.Errorf("trace %s holds documents of an earlier capture too (%d, not %d); remove it or name another --out", dir, c.Documents, len(docs)))
	}
	return c, err
}

// textsOf is the sources of a set of texts, and how many documents of them are
// taken.
func (s *session) textsOf(set string) (sources []string, n int) {
	switch set {
	case "calibration":
		return s.Data.Calibration, s.Capture.Documents
	case "choice":
		return s.Data.Choice, s.Capture.Heldout
	}
	return s.Data.Heldout, s.Capture.Heldout
}

func (s *session) captureDocument(ctx context.Context, r *model.Runner, w *trace.Writer, name, hash, kind string, tokens []int32, positions func(int) []int32, layers []int, progress func(done, total int)) error {
	d, err := r.Capture(ctx, tokens, positions(len(tokens)), layers, progress)
	if err != nil {
		return err
	}
	d.ID, d.Hash, d.Kind = name, hash, kind
	return w.Add(*d)
}

// recallStep is the distance between measured queries.
const recallStep = 4

// measuredPositions are where a held-out document's queries are kept: before
// the end of each context that recall is measured at.
func (s *session) measuredPositions(n int) []int32 {
	var all []int32
	for _, c := range s.contexts(s.Eval.Recall.Contexts) {
		all = append(all, trace.Tail(min(c, n), s.Eval.Recall.Queries, recallStep)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// recallWindow is the last positions of a context that hold its queries.
func (s *session) recallWindow() int { return s.Eval.Recall.Queries * recallStep }

// describeTrace says what a trace holds.
func describeTrace(dir string) (captured, error) {
	r, err := trace.Open(dir)
	if err != nil {
		return captured{}, asInput(err)
	}
	defer r.Close()
	c := captured{Trace: dir, Documents: len(r.Shards), Layers: r.Captured}
	for _, s := range r.Shards {
		c.Tokens, c.Queries, c.Bytes = c.Tokens+s.Tokens, c.Queries+s.Queries, c.Bytes+s.Bytes
	}
	return c, nil
}
