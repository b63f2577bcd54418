package benchmark

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/selector"
)

// answerGroup prefills the group's prompts once and answers them under every
// variant that they miss. left is the groups that are not done, this one first.
func (r *run) answerGroup(ctx context.Context, g *group, left []*group) error {
	sequences := map[*job]*model.Sequence{}
	defer func() {
		for _, s := range sequences {
			r.free(s.Cache.K)
			r.free(s.Cache.V)
		}
	}()
	dense := model.Dense{Model: r.Model}
	for _, j := range g.jobs {
		s, err := r.Model.NewSequence(r.capacity(j), r.CacheType)
		if err != nil {
			return err
		}
		sequences[j] = s
		start := time.Now()
		if err := r.runner.Prefill(ctx, s, j.tokens[:j.prefix], dense, false); err != nil {
			return failed(j, err)
		}
		r.pace.prompts.add(float64(j.prefix), seconds(start))
	}
	g.prefilled = true
	for _, v := range r.variants {
		var answers []*answer
		for _, j := range g.jobs {
			if slices.Contains(j.missing, v) {
				answers = append(answers, &answer{job: j, sequence: sequences[j]})
			}
		}
		if len(answers) == 0 {
			continue
		}
		if err := r.answerAll(ctx, v, answers, left); err != nil {
			return err
		}
	}
	return nil
}

// answer is one prediction in the making.
type answer struct {
	job      *job
	sequence *model.Sequence
	made     []int32
	ended    bool
	// attended and cached are the tokens read and those that were there.
	attended, cached       float64
	seconds, decodeSeconds float64
	steps                  int
}

// answerAll makes the answers of one variant: each prompt's end by itself, then
// all answers a token at a time. Sequences hold the prompts' beginnings, and
// hold them again afterwards.
func (r *run) answerAll(ctx context.Context, v *variant, answers []*answer, left []*group) error {
	defer func() {
		for _, a := range answers {
			if a.sequence.Index != nil {
				for _, tensors := range a.sequence.Index.Layers {
					r.free(tensors)
				}
				a.sequence.Index = nil
			}
		}
	}()
	var attend model.Attention = model.Dense{Model: r.Model}
	if v.sparse != nil {
		attend = v.sparse
	}
	for _, a := range answers {
		if err := r.promptEnd(ctx, v, a, attend); err != nil {
			return failed(a.job, err)
		}
	}
	for {
		active := make([]*answer, 0, len(answers))
		for _, a := range answers {
			switch {
			case !a.ended:
				active = append(active, a)
			case a.job.unanswered(v):
				if err := r.finish(v, a, left); err != nil {
					return err
				}
			}
		}
		if len(active) == 0 {
			return nil
		}
		if err := r.step(ctx, active, attend); err != nil {
			return fmt.Errorf("%s: %w", v.folder, err)
		}
	}
}

// promptEnd builds the index of the prompt's beginning and runs the prompt's
// end, which gives the answer's first token.
func (r *run) promptEnd(ctx context.Context, v *variant, a *answer, attend model.Attention) error {
	start, j, s := time.Now(), a.job, a.sequence
	if err := s.Rewind(j.prefix); err != nil {
		return err
	}
	if v.sparse != nil {
		var err error
		if s.Index, err = v.sparse.Build(s.Cache); err != nil {
			return err
		}
		if r.sparseEnd(len(j.tokens)) == 0 {
			attend = indexing{v.sparse, model.Dense{Model: r.Model}}
		}
	}
	d := r.Model.Device
	d.ResetReads()
	if err := r.runner.Prefill(ctx, s, j.tokens[j.prefix:], attend, true); err != nil {
		return err
	}
	if v.sparse == nil || r.sparseEnd(len(j.tokens)) > 0 {
		reads := d.Reads()
		a.attended, a.cached = float64(reads.Attended), float64(reads.Cached)
	}
	if err := r.choose(a, 0); err != nil {
		return err
	}
	a.seconds = seconds(start)
	r.pace.ends.add(float64(len(j.tokens)-j.prefix), a.seconds)
	return nil
}

// step decodes one token of each answer. What it read and took is shared out
// among them: reads by the tokens that each has cached, time evenly.
func (r *run) step(ctx context.Context, active []*answer, attend model.Attention) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := time.Now()
	sequences, tokens := make([]*model.Sequence, len(active)), make([]int32, len(active))
	cached := 0
	for i, a := range active {
		sequences[i], tokens[i] = a.sequence, a.made[len(a.made)-1]
		cached += a.sequence.Len() + 1
	}
	d := r.Model.Device
	d.ResetReads()
	if err := r.runner.Decode(sequences, tokens, attend); err != nil {
		return err
	}
	reads := d.Reads()
	for i, a := range active {
		if err := r.choose(a, i); err != nil {
			return failed(a.job, err)
		}
		share := float64(a.sequence.Len()) / float64(cached)
		a.attended += share * float64(reads.Attended)
		a.cached += share * float64(reads.Cached)
	}
	each := seconds(start) / float64(len(active))
	for _, a := range active {
		a.seconds += each
		a.decodeSeconds += each
		a.steps++
	}
	r.pace.answers.add(float64(len(active)), each*float64(len(active)))
	return nil
}

// choose takes the likeliest token by row i of the last pass's logits.
func (r *run) choose(a *answer, i int) error {
	logits, err := r.runner.Logits(i)
	if err != nil {
		return err
	}
	q, tokenizer := a.job.q, r.Model.Tokenizer
	ends := func(id int32) bool { return tokenizer.IsEOG(id) || q.StopNewline && id == r.newline }
	best := int32(-1)
	for i, v := range logits {
		id := int32(i)
		if math.IsNaN(float64(v)) {
			return fmt.Errorf("token %d of the answer: logit %d is NaN", len(a.made), i)
		}
		if (best < 0 || v > logits[best]) && !(q.StopNewline && len(a.made) == 0 && ends(id)) {
			best = id
		}
	}
	if tokenizer.IsEOG(best) {
		a.ended = true
		return nil
	}
	a.made = append(a.made, best)
	a.ended = ends(best) || len(a.made) == q.MaxTokens
	return nil
}

// finish writes a prediction.
func (r *run) finish(v *variant, a *answer, left []*group) error {
	j, q := a.job, a.job.q
	p := Prediction{
		Pred: r.Model.Tokenizer.Decode(a.made, true), Answers: q.Answers, AllClasses: q.AllClasses, Length: q.Length,
		Task: q.Task, Sample: q.ID, Hash: q.Hash, PromptHash: hashTokens(j.tokens), PromptTokens: len(j.tokens),
		Tokens: append([]int32{}, a.made...), Density: 1,
		Seconds: a.seconds, DecodeSeconds: a.decodeSeconds, DecodeSteps: a.steps,
	}
	if a.cached > 0 {
		p.Density = a.attended / a.cached
	}
	if err := v.logs[q.Task].append(p); err != nil {
		return err
	}
	j.missing = slices.DeleteFunc(j.missing, func(m *variant) bool { return m == v })
	r.pace.answered(q.Task, len(a.made))
	r.report(q.Task, left)
	return nil
}

func (j *job) unanswered(v *variant) bool { return slices.Contains(j.missing, v) }

func failed(j *job, err error) error {
	return fmt.Errorf("sample %s of %s: %w", j.q.ID, j.q.Task, err)
}

// hashTokens is the first 32 digits of the SHA-256 of the ids as little-endian
// 32-bit numbers.
func hashTokens(ids []int32) string {
	raw := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(id))
	}
	return result.Hash(raw)[:32]
}

func (r *run) free(tensors []kernels.Tensor) {
	for _, t := range tensors {
		r.Model.Device.Free(t)
	}
}

// indexing attends to everything and enters the tokens in a selector's index,
// for prompts whose last token is dense where the answer is sparse.
type indexing struct {
	sparse *selector.Sparse
	dense  model.Dense
}

// Attend implements model.Attention.
func (x indexing) Attend(out, q kernels.Tensor, layer int, b *kernels.Batch) {
	if x.sparse.Covers(layer) {
		x.sparse.Update(layer, b)
	}
	x.dense.Attend(out, q, layer, b)
}

// Key implements model.Attention.
func (x indexing) Key() any { return x }
