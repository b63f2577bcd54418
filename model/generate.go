package model

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"time"
)

// GenerateOptions says how tokens are chosen and when to stop.
type GenerateOptions struct {
	MaxTokens int
	// Temperature 0 is greedy. TopP keeps the smallest set of tokens whose
	// probabilities reach it; 0 and 1 keep all.
	Temperature, TopP float64
	Seed              uint64
	// Stop is called with each new token; true ends the text, the token
	// included. The tokenizer's end-of-generation tokens end it too, excluded.
	Stop func(token int32) bool
}

// Generation is what Generate made.
type Generation struct {
	Tokens          []int32
	Ended           bool // by an end token or Stop, not by MaxTokens
	PrefillTokens   int
	Prefill, Decode time.Duration
	DecodeSteps     int
	AttendedDensity float64 // share of cached tokens read in decode steps
}

// Generate continues the sequence after prompt: a pass over the prompt with
// the attention prefill, then one token at a time with decode.
func (r *Runner) Generate(ctx context.Context, s *Sequence, prompt []int32, prefill, decode Attention, o GenerateOptions) (Generation, error) {
	var g Generation
	if len(prompt) == 0 {
		return g, fmt.Errorf("generate: empty prompt")
	}
	if room := s.Cache.Capacity - s.Len(); len(prompt)+o.MaxTokens > room+1 {
		return g, fmt.Errorf("generate: prompt of %d tokens and %d new ones, the cache has room for %d", len(prompt), o.MaxTokens, room)
	}
	start := time.Now()
	if err := r.Prefill(ctx, s, prompt, prefill, true); err != nil {
		return g, err
	}
	g.PrefillTokens, g.Prefill = len(prompt), time.Since(start)
	r.Model.Device.ResetReads()
	sampler := rand.New(rand.NewPCG(o.Seed, 0))
	start = time.Now()
	for len(g.Tokens) < o.MaxTokens {
		if err := ctx.Err(); err != nil {
			return g, err
		}
		logits, err := r.Logits(0)
		if err != nil {
			return g, err
		}
		token, err := choose(logits, o, sampler)
		if err != nil {
			return g, fmt.Errorf("generate: token %d: %w", len(g.Tokens), err)
		}
		if r.Model.Tokenizer.IsEOG(token) {
			g.Ended = true
			break
		}
		g.Tokens = append(g.Tokens, token)
		if o.Stop != nil && o.Stop(token) {
			g.Ended = true
			break
		}
		if len(g.Tokens) == o.MaxTokens {
			break
		}
		if err := r.Decode([]*Sequence{s}, []int32{token}, decode); err != nil {
			return g, err
		}
		g.DecodeSteps++
	}
	g.Decode = time.Since(start)
	g.AttendedDensity = r.Model.Device.Reads().Density()
	return g, nil
}

// choose picks a token. NaN logits are an error: they would sample silently.
func choose(logits []float32, o GenerateOptions, rng *rand.Rand) (int32, error) {
	best := 0
	for i, v := range logits {
		if math.IsNaN(float64(v)) {
			return 0, fmt.Errorf("logit %d is NaN", i)
		}
		if v > logits[best] {
			best = i
		}
	}
	if o.Temperature == 0 {
		return int32(best), nil
	}
	order := make([]int, len(logits))
	p := make([]float64, len(logits))
	sum := 0.0
	for i, v := range logits {
		order[i] = i
		p[i] = math.Exp(float64(v-logits[best]) / o.Temperature)
		sum += p[i]
	}
	sort.SliceStable(order, func(i, j int) bool { return p[order[i]] > p[order[j]] })
	keep, mass := len(order), 0.0
	if o.TopP > 0 && o.TopP < 1 {
		for i, id := range order {
			if mass += p[id]; mass >= o.TopP*sum {
				keep = i + 1
				break
			}
		}
	} else {
		mass = sum
	}
	at := rng.Float64() * mass
	for _, id := range order[:keep] {
		if at -= p[id]; at <= 0 {
			return int32(id), nil
		}
	}
	return int32(order[keep-1]), nil
}
