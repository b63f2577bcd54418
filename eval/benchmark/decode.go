package benchmark

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/selector"
)

// answerGroup prefills the group's prompts once and answers them under every
// variant that they miss, g.width variants at a time.
func (r *run) answerGroup(ctx context.Context, g *group, left []*group) error {
	prompts := map[*job]*model.Sequence{}
	defer func() {
		for _, s := range prompts {
			s.Free(r.Model.Device)
		}
		runtime.GC() // host caches are large and the next ones come at once
	}()
	dense := model.Dense{Model: r.Model}
	for _, j := range g.jobs {
		s, err := r.Model.NewSequence(r.capacity(j), r.CacheType)
		if err != nil {
			return err
		}
		prompts[j] = s
		start := time.Now()
		if err := r.runner.Prefill(ctx, s, j.tokens[:j.prefix], dense, false); err != nil {
			return failed(j, err)
		}
		r.pace.prompts.add(float64(j.prefix), seconds(start))
	}
	g.prefilled = true
	if err := r.measureLatency(ctx, prompts[g.jobs[0]], g.jobs[0]); err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	for wave := range slices.Chunk(r.variants, g.width) {
		if err := r.answerWave(ctx, wave, g.jobs, prompts, left); err != nil {
			return err
		}
	}
	return nil
}

// answer is one prediction in the making.
type answer struct {
	job      *job
	sequence *model.Sequence
	fork     bool // the sequence is this answer's own
	made     []int32
	ended    bool
	// attended and cached are the tokens read and those that were there.
	attended, cached float64
	seconds          float64
	steps            int
}

// lane is a variant's answers of a wave.
type lane struct {
	*variant
	attend  model.Attention
	answers []*answer
}

// answerWave makes the answers of some variants: each prompt's end by itself,
// then all answers a token at a time. A single variant uses the prompts'
// sequences, which hold the prompts' beginnings again afterwards; several use
// copies, and those of one setting copy its index too.
func (r *run) answerWave(ctx context.Context, wave []*variant, jobs []*job, prompts map[*job]*model.Sequence, left []*group) error {
	d := r.Model.Device
	var lanes []*lane
	indexes := map[*job]*eval.Setting{} // whose the prompts' own indexes are
	defer func() {
		for j := range indexes {
			prompts[j].DropIndex(d)
		}
		for _, l := range lanes {
			for _, a := range l.answers {
				if a.sequence.DropIndex(d); a.fork {
					a.sequence.Free(d)
				}
			}
		}
	}()
	for _, v := range wave {
		l := &lane{variant: v, attend: v.attention(r.Model)}
		lanes = append(lanes, l)
		for _, j := range jobs {
			if !j.unanswered(v) {
				continue
			}
			start, a := time.Now(), &answer{job: j, sequence: prompts[j], fork: len(wave) > 1}
			if err := a.sequence.Rewind(j.prefix); err != nil {
				return err
			}
			if indexes[j] != v.setting {
				if err := r.buildIndex(a.sequence, v); err != nil {
					return failed(j, err)
				}
				indexes[j] = v.setting
			}
			if a.fork {
				var err error
				if a.sequence, err = r.Model.Fork(prompts[j]); err != nil {
					return err
				}
			}
			l.answers = append(l.answers, a)
			a.seconds = seconds(start)
			if err := r.promptEnd(ctx, v, a, l.attend); err != nil {
				return failed(j, err)
			}
		}
	}
	for {
		var active []*lane
		for _, l := range lanes {
			var answers []*answer
			for _, a := range l.answers {
				switch {
				case !a.ended:
					answers = append(answers, a)
				case a.job.unanswered(l.variant):
					if err := r.finish(l.variant, a, left); err != nil {
						return err
					}
				}
			}
			if len(answers) > 0 {
				active = append(active, &lane{l.variant, l.attend, answers})
			}
		}
		if len(active) == 0 {
			return nil
		}
		if err := r.step(ctx, active); err != nil {
			return err
		}
	}
}

// buildIndex gives a sequence the variant's index, or none, instead of what it has.
func (r *run) buildIndex(s *model.Sequence, v *variant) (err error) {
	s.DropIndex(r.Model.Device)
	if v.sparse != nil {
		s.Index, err = v.sparse.Build(s.Cache)
	}
	return err
}

// promptEnd runs the prompt's end, which gives the answer's first token.
func (r *run) promptEnd(ctx context.Context, v *variant, a *answer, attend model.Attention) error {
	start, j := time.Now(), a.job
	if v.sparse != nil && r.sparseEnd(len(j.tokens)) == 0 {
		attend = indexing{v.sparse, model.Dense{Model: r.Model}}
	}
	d := r.Model.Device
	d.ResetReads()
	if err := r.runner.Prefill(ctx, a.sequence, j.tokens[j.prefix:], attend, true); err != nil {
		return err
	}
	if v.sparse == nil || r.sparseEnd(len(j.tokens)) > 0 {
		reads := d.Reads()
		a.attended, a.cached = float64(reads.Attended), float64(reads.Cached)
	}
	if err := r.choose(a, 0); err != nil {
		return err
	}
	a.seconds += seconds(start)
	r.pace.ends.add(float64(len(j.tokens)-j.prefix), a.seconds)
	return nil
}

// step decodes one token of each answer. What a lane read is shared out among
// its answers by what its selection reads of so many tokens, and what the
// model's own windows read among all by the tokens cached; time evenly.
func (r *run) step(ctx context.Context, lanes []*lane) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start, d := time.Now(), r.Model.Device
	shares := make([]*model.Share, len(lanes))
	rows := 0
	for i, l := range lanes {
		s := &model.Share{Attention: l.attend}
		for _, a := range l.answers {
			s.Sequences = append(s.Sequences, a.sequence)
			s.Tokens = append(s.Tokens, a.made[len(a.made)-1])
		}
		shares[i] = s
		rows += len(l.answers)
	}
	d.ResetReads()
	if err := r.runner.DecodeShares(shares); err != nil {
		return err
	}
	others, cached := d.Reads(), 0
	for i, l := range lanes {
		others.Attended -= shares[i].Reads.Attended
		others.Cached -= shares[i].Reads.Cached
		cached += l.cached()
	}
	row := 0
	for i, l := range lanes {
		reads, own, read := shares[i].Reads, l.cached(), 0.0
		for _, a := range l.answers {
			read += l.reads(r.Model.Layers, a.sequence.Len())
		}
		for _, a := range l.answers {
			n := a.sequence.Len()
			part, all := float64(n)/float64(own), float64(n)/float64(cached)
			a.attended += l.reads(r.Model.Layers, n)/read*float64(reads.Attended) + all*float64(others.Attended)
			a.cached += part*float64(reads.Cached) + all*float64(others.Cached)
			if err := r.choose(a, row); err != nil {
				return failed(a.job, err)
			}
			row++
		}
	}
	each := seconds(start) / float64(rows)
	for _, l := range lanes {
		for _, a := range l.answers {
			a.seconds += each
			a.steps++
		}
	}
	r.pace.answers.add(float64(rows), seconds(start))
	return nil
}

// reads is in proportion to what a token's attention reads of n tokens.
func (v *variant) reads(layers, n int) (read float64) {
	for l := range layers {
		if v.sparse != nil && v.sparse.Covers(l) {
			read += float64(v.sparse.Selection(l).Read(n))
		} else {
			read += float64(n)
		}
	}
	return read
}

// cached is the tokens that a lane's sequences hold.
func (l *lane) cached() (n int) {
	for _, a := range l.answers {
		n += a.sequence.Len()
	}
	return n
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
		Seconds: a.seconds, DecodeSteps: a.steps,
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
