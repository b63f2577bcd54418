package benchmark

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/filelock"
	"github.com/hashattn/hashattn/model/selector"
)

// The parts of a prompt that can use sparse attention (Options.QuestionSparse).
const (
	SparseTail = "tail" // the last PrefillOffset tokens: the paper's protocol
	SparseAll  = "all"
	SparseNone = "none" // only the answer
)

// Options says how questions are answered.
type Options struct {
	Model *model.Model
	// Settings are measured at every budget, beside dense attention.
	Settings []eval.Setting
	Budgets  []kernels.Budget
	// QuestionSparse is SparseTail, SparseAll or SparseNone.
	QuestionSparse string
	PrefillOffset  int
	// MaxLength is the tokens of a prompt's text before its middle is cut; 0
	// for what the model's context leaves beside the answer.
	MaxLength int
	CacheType dtype.Type
	Chunk     int // tokens of one prefill pass
	// Memory bounds the caches of what is answered together, in bytes; 0 for
	// one sample under one setting at a time.
	Memory int64
	Dir    string // of the predictions
	// Notice is told of what an earlier run left and what becomes of it.
	Notice   func(string)
	Progress func(Progress)
}

// Outcome is what Run measured.
type Outcome struct {
	Rows    []result.ScoreRow
	Samples string // hash of the questions
	// Made is how many predictions this run made; the others were there.
	Made int
}

// Run answers a benchmark's questions under dense attention and every setting
// and budget, and scores the answers. Predictions lie in Dir; those that are
// there already, made from the same configuration, are not made again. One
// dense prefill of a question serves all settings: the cache is rewound.
//
// Another process that writes predictions in Dir is an error.
func Run(ctx context.Context, b *Benchmark, o Options) (Outcome, error) {
	lock, err := filelock.Try(filepath.Join(o.Dir, "lock"))
	var held *filelock.HeldError
	if errors.As(err, &held) {
		return Outcome{}, fmt.Errorf("%s: %s writes predictions in %s; let it finish, or write elsewhere (--name, --out)", b.Name, held.Holder(), o.Dir)
	} else if err != nil {
		return Outcome{}, err
	}
	defer lock.Release()
	r, err := newRun(b, o)
	if err != nil {
		return Outcome{}, err
	}
	groups, err := r.plan(ctx)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Samples: b.samples(), Made: r.total - r.done}
	if len(groups) > 0 {
		rows := 1
		for _, g := range groups {
			rows = max(rows, len(g.jobs)*g.width)
		}
		if r.runner, err = o.Model.NewRunner(max(o.Chunk, rows), rows); err != nil {
			return Outcome{}, err
		}
	}
	for i, g := range groups {
		if err := r.answerGroup(ctx, g, groups[i:]); err != nil {
			return Outcome{}, err
		}
	}
	if _, err := r.readLatencies(); err != nil {
		return Outcome{}, err
	}
	out.Rows, err = r.rows()
	return out, err
}

// enoughTogether is so many answers in one batch that more samples do not
// join: the weights are read once for all of them, and beyond this many little
// is gained.
const enoughTogether = 48

type run struct {
	Options
	benchmark *Benchmark
	prompter  *prompter
	newline   int32
	variants  []*variant // dense first
	runner    *model.Runner
	pace      *pace

	done, total int // predictions
}

// variant is one way of attending: dense, or a setting at a budget.
type variant struct {
	folder                   string
	selector, preset, budget string
	bits                     float64
	setting                  *eval.Setting             // nil for dense; its budgets have one index
	sparse                   *selector.Sparse          // nil for dense
	logs                     map[string]*predictionLog // by task
	latency                  float64                   // seconds per token, 0 where it was not measured
}

// attention is how the variant attends.
func (v *variant) attention(m *model.Model) model.Attention {
	if v.sparse != nil {
		return v.sparse
	}
	return model.Dense{Model: m}
}

// job is a question with the variants that it still needs.
type job struct {
	q       *Question
	tokens  []int32
	prefix  int // prompt tokens that are prefilled densely for all variants
	missing []*variant
}

// group is jobs that are answered together, width variants at a time.
type group struct {
	jobs      []*job
	width     int
	prefilled bool
}

func newRun(b *Benchmark, o Options) (*run, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	switch o.QuestionSparse {
	case SparseTail, SparseAll, SparseNone:
	default:
		return nil, fmt.Errorf("%s: sparse part of the question is %q, want %s, %s or %s", b.Name, o.QuestionSparse, SparseTail, SparseAll, SparseNone)
	}
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	if o.Chunk < 1 {
		return nil, fmt.Errorf("%s: prefill passes of %d tokens", b.Name, o.Chunk)
	}
	r := &run{Options: o, benchmark: b, pace: newPace()}
	var err error
	if r.prompter, err = newPrompter(o.Model.Tokenizer, o.Model.Context, o.MaxLength, b.Truncate); err != nil {
		return nil, err
	}
	if r.prompter.chat == nil && slices.ContainsFunc(b.Questions, func(q Question) bool { return q.Chat }) {
		o.Notice("the model has no chat template: prompts go in as they are")
	}
	if r.newline, err = r.prompter.newline(); err != nil {
		return nil, err
	}
	return r, r.openVariants()
}

// openVariants makes the variants and reads what predictions they have.
func (r *run) openVariants() error {
	r.variants = []*variant{{folder: "dense", selector: "dense"}}
	identities := []string{""}
	for i := range r.Settings {
		s := &r.Settings[i]
		for _, b := range r.Budgets {
			sparse, err := s.SparseFor(r.Model, b)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Selector, err)
			}
			v := &variant{selector: s.Selector, preset: s.Preset, budget: b.String(), bits: s.Scorer.Bits(), setting: s, sparse: sparse}
			v.folder = folderName(v)
			r.variants = append(r.variants, v)
			identities = append(identities, s.Identity)
		}
	}
	seen := map[string]bool{}
	for i, v := range r.variants {
		if seen[v.folder] {
			return fmt.Errorf("%s: two settings are called %s; measure them in runs of their own", r.benchmark.Name, v.folder)
		}
		seen[v.folder] = true
		if err := r.openLogs(v, identities[i]); err != nil {
			return err
		}
	}
	return nil
}

// folderName is "hash-shared-1of32", "quest-1of8", "streaming-512".
func folderName(v *variant) string {
	name := v.selector
	if v.preset != "" {
		name += "-" + v.preset
	}
	return name + "-" + strings.ReplaceAll(v.budget, "/", "of")
}

func (r *run) openLogs(v *variant, identity string) error {
	v.logs = map[string]*predictionLog{}
	dir := filepath.Join(r.Dir, v.folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range r.benchmark.Questions {
		q := &r.benchmark.Questions[i]
		l := v.logs[q.Task]
		if l == nil {
			config, err := r.config(v, identity, q)
			if err != nil {
				return err
			}
			if l, err = openLog(filepath.Join(dir, q.Task+".jsonl"), config, r.Notice); err != nil {
				return err
			}
			v.logs[q.Task] = l
		}
		_, ok, err := l.answered(q)
		if err != nil {
			return err
		}
		r.total++
		if ok {
			r.done++
		}
	}
	return nil
}

// config is the hash of all that the predictions of a task under a variant
// depend on, but for the question itself. Dense attention is the same
// whatever part of a prompt would be sparse.
func (r *run) config(v *variant, identity string, q *Question) (string, error) {
	chat, err := r.prompter.probe()
	if err != nil {
		return "", err
	}
	c := struct {
		Benchmark, Task, Template, System, AnswerPrefix string
		MaxTokens                                       int
		Chat                                            string
		Model, Tokenizer, Device, Cache                 string
		MaxLength                                       int
		Setting                                         string
		Budget, QuestionSparse                          string
		PrefillOffset                                   int
	}{
		Benchmark: r.benchmark.Name, Task: q.Task, Template: q.Template, System: q.System, AnswerPrefix: q.AnswerPrefix, MaxTokens: q.MaxTokens, Chat: chat,
		Model: r.Model.Fingerprint, Tokenizer: r.Model.Tokenizer.Hash(), Device: r.Model.Device.Info().Kind,
		Cache: r.CacheType.String(), MaxLength: r.MaxLength,
	}
	if v.sparse != nil {
		c.Setting, c.Budget, c.QuestionSparse = identity, v.budget, r.QuestionSparse
		if r.QuestionSparse == SparseTail {
			c.PrefillOffset = r.PrefillOffset
		}
	}
	raw, err := json.Marshal(c)
	return result.Hash(raw), err
}

// sparseEnd is how many of a prompt's last n tokens use sparse attention.
func (r *run) sparseEnd(n int) int {
	switch r.QuestionSparse {
	case SparseAll:
		return n
	case SparseNone:
		return 0
	}
	return min(r.PrefillOffset, n)
}

// plan encodes the prompts that have answers missing and groups them: samples
// of one task, of like length, under all variants, as many as memory holds;
// the longest first.
func (r *run) plan(ctx context.Context) ([]*group, error) {
	jobs := make([]*job, 0, len(r.benchmark.Questions))
	for i := range r.benchmark.Questions {
		j := &job{q: &r.benchmark.Questions[i]}
		for _, v := range r.variants {
			if _, ok := v.logs[j.q.Task].have[j.q.ID]; !ok {
				j.missing = append(j.missing, v)
			}
		}
		if len(j.missing) > 0 {
			jobs = append(jobs, j)
		}
	}
	encoders, ctx := errgroup.WithContext(ctx)
	encoders.SetLimit(runtime.GOMAXPROCS(0))
	for _, j := range jobs {
		encoders.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if j.tokens, err = r.prompter.tokens(j.q); err != nil {
				return err
			}
			if len(j.tokens) == 0 {
				return fmt.Errorf("sample %s of %s: an empty prompt", j.q.ID, j.q.Task)
			}
			// the last token's logits are needed, so it is never in the prefix
			j.prefix = len(j.tokens) - max(1, r.sparseEnd(len(j.tokens)))
			return nil
		})
	}
	if err := encoders.Wait(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(jobs, func(a, b *job) int {
		return cmp.Or(strings.Compare(a.q.Task, b.q.Task), cmp.Compare(len(b.tokens), len(a.tokens)))
	})
	var groups []*group
	var used int64 // by the last group, with all its copies
	for _, j := range jobs {
		need := r.memory(j)
		if r.Memory > 0 && need > r.Memory {
			return nil, fmt.Errorf("sample %s of %s: %d tokens take %.3g MiB, allowed are %.3g MiB; allow more memory or shorten prompts", j.q.ID, j.q.Task, r.capacity(j), float64(need)/(1<<20), float64(r.Memory)/(1<<20))
		}
		copies := need * int64(1+len(r.variants)) // the prompt's own is one
		if last := len(groups) - 1; last >= 0 && used+copies <= r.Memory {
			g := groups[last]
			if g.jobs[0].q.Task == j.q.Task && (len(g.jobs)+1)*len(r.variants) <= enoughTogether {
				g.jobs = append(g.jobs, j)
				used += copies
				continue
			}
		}
		// of one prompt's variants as many together as memory holds
		width := max(1, min(len(r.variants), int(r.Memory/need)-1))
		groups, used = append(groups, &group{jobs: []*job{j}, width: width}), copies
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return cmp.Compare(len(b.jobs[0].tokens), len(a.jobs[0].tokens)) })
	return groups, nil
}

func (r *run) capacity(j *job) int { return len(j.tokens) + j.q.MaxTokens }

// memory is what a job's cache and the largest of its indexes take.
func (r *run) memory(j *job) int64 {
	m := r.Model
	spec := kernels.CacheSpec{Layers: m.Layers, KVHeads: m.KVHeads, HeadDim: m.HeadDim, Capacity: r.capacity(j), Type: r.CacheType}
	bits := 0.0
	for _, v := range j.missing {
		bits = max(bits, v.bits)
	}
	return spec.Bytes() + int64(bits/8*float64(m.Layers*m.KVHeads*spec.Capacity))
}

// report tells of one more prediction.
func (r *run) report(task string, left []*group) {
	r.done++
	if r.Progress != nil {
		r.Progress(Progress{Done: r.done, Total: r.total, Task: task, Remaining: r.pace.left(left)})
	}
}

// seconds since a time.
func seconds(start time.Time) float64 { return time.Since(start).Seconds() }
