package model

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
)

// Share is those sequences of a decode step that attend in one way.
type Share struct {
	Sequences []*Sequence
	Tokens    []int32 // the next one of each sequence
	Attention Attention
	// Reads is what DecodeShares' last step read for these sequences in the
	// layers that Attention is for; of a share by itself, in all layers.
	Reads kernels.Reads

	batch kernels.Batch
}

// DecodeShares is Decode for sequences that attend in several ways: the weights
// are read once for all of them. The logits lie in the order of the shares.
func (r *Runner) DecodeShares(shares []*Share) error {
	for i, s := range shares {
		if len(s.Sequences) == 0 || len(s.Sequences) != len(s.Tokens) {
			return fmt.Errorf("share %d: %d sequences and %d tokens", i, len(s.Sequences), len(s.Tokens))
		}
	}
	if len(shares) == 1 { // a device may replay the step
		s, before := shares[0], r.Model.Device.Reads()
		err := r.Decode(s.Sequences, s.Tokens, s.Attention)
		s.Reads = readsSince(before, r.Model.Device.Reads())
		return err
	}
	var segments []kernels.Segment
	var tokens []int32
	for _, s := range shares {
		first := len(segments)
		for _, q := range s.Sequences {
			segments = append(segments, q.segment(1))
		}
		tokens = append(tokens, s.Tokens...)
		if err := r.Model.Device.SetBatch(&s.batch, append([]kernels.Segment(nil), segments[first:]...)); err != nil {
			return err
		}
		s.Reads = kernels.Reads{}
	}
	return r.Forward(tokens, segments, shared{r.Model.Device, shares}, 0)
}

// shared attends for each share in its own way.
type shared struct {
	device kernels.Device
	shares []*Share
}

// Attend implements Attention.
func (a shared) Attend(out, q kernels.Tensor, layer int, b *kernels.Batch) {
	row := 0
	for _, s := range a.shares {
		end := row + len(s.Sequences)
		before := a.device.Reads()
		s.Attention.Attend(out.Rows(row, end), q.Rows(row, end), layer, &s.batch)
		read := readsSince(before, a.device.Reads())
		s.Reads.Attended += read.Attended
		s.Reads.Cached += read.Cached
		row = end
	}
}

func readsSince(before, now kernels.Reads) kernels.Reads {
	return kernels.Reads{Attended: now.Attended - before.Attended, Cached: now.Cached - before.Cached}
}

// Key implements Attention: what each share read is counted as it is queued, so
// steps are not replayed.
func (a shared) Key() any { return nil }
