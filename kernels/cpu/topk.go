package cpu

import (
	"math"
	"math/bits"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// topRow is one cut: the best count of the candidates [lo, hi), whose scores
// are in memory or, of scan, are computed as they are cut.
type topRow struct {
	lo, hi, count int
	ints          []int32
	floats        []float32
	scan          *setScan
	mass          []setScan // floats are the group's summed softmaxes of these
	scales        []float32 // of mass
	selected      []int32   // count positions, then -1
}

// topJob cuts rows; a task does one row.
type topJob struct {
	d    *Device
	rows []topRow
}

const (
	sampled   = 2048 // scores of which the threshold is estimated
	cutBlock  = 4096 // tokens scored at once
	radixBits = 11
)

// cutScratch is a thread's memory for a cut.
type cutScratch struct {
	positions, scores []int32 // candidates at least as good as the threshold
	keys              []uint32
	block             []int32 // scores of a block, where they are computed
	counts            [1 << radixBits]int32
}

func (j *topJob) task(worker, index int) {
	r := &j.rows[index]
	s := &j.d.scratch[worker]
	if r.count > 0 {
		if r.mass != nil {
			r.sumMass(j.d.set, s)
		}
		r.cut(j.d.set, s)
	}
	for i := r.count; i < len(r.selected); i++ {
		r.selected[i] = -1
	}
}

// cut finds a threshold that a sample says keeps somewhat more than count
// tokens, keeps those, and selects among them. Should the sample mislead, it
// keeps all: the result is exact.
func (r *topRow) cut(set *kernelSet, s *scratch) {
	n := r.hi - r.lo
	c := &s.cut
	if r.count >= n {
		for i := range r.count {
			r.selected[i] = int32(r.lo + i)
		}
		return
	}
	c.positions, c.scores = resize(c.positions, n+16), resize(c.scores, n+16)
	kept := -1
	if n > 2*sampled && r.count < n/4 {
		kept = r.keep(set, s, r.threshold(set, s))
	}
	if kept < r.count {
		kept = r.keepAll(set, s)
	}
	c.keys = resize(c.keys, kept)
	if r.floats != nil {
		for i, v := range c.scores[:kept] {
			c.keys[i] = floatKey(uint32(v))
		}
	} else {
		for i, v := range c.scores[:kept] {
			c.keys[i] = intKey(v)
		}
	}
	c.best(c.keys, c.positions[:kept], r.selected[:r.count])
}

// intKey and floatKey order scores as unsigned integers.
func intKey(v int32) uint32 { return uint32(v) ^ 1<<31 }

// floatKey takes a float32's bits. NaN is below everything, zeros are equal.
func floatKey(b uint32) uint32 {
	switch {
	case b&0x7fffffff > 0x7f800000:
		return 0
	case b == 1<<31:
		return 1 << 31
	case b>>31 == 1:
		return ^b
	}
	return b | 1<<31
}

// keyFloat undoes floatKey.
func keyFloat(k uint32) float32 {
	if k>>31 == 1 {
		return math.Float32frombits(k &^ (1 << 31))
	}
	return math.Float32frombits(^k)
}

// threshold estimates, as a key, a score that more than count tokens reach.
func (r *topRow) threshold(set *kernelSet, s *scratch) uint32 {
	const run = 32
	c := &s.cut
	n := r.hi - r.lo
	c.keys = resize(c.keys, sampled)
	for i := range sampled / run {
		from := r.lo + i*(n-run)/(sampled/run-1)
		keys := c.keys[i*run : (i+1)*run]
		switch {
		case r.floats != nil:
			for x, v := range r.floats[from : from+run] {
				keys[x] = floatKey(math.Float32bits(v))
			}
		case r.scan != nil:
			c.block = resize(c.block, cutBlock)
			r.scan.scores(set, &s.words, from, c.block[:run])
			for x, v := range c.block[:run] {
				keys[x] = intKey(v)
			}
		default:
			for x, v := range r.ints[from : from+run] {
				keys[x] = intKey(v)
			}
		}
	}
	expected := float64(r.count) / float64(n) * sampled
	rank := min(sampled-1, int(expected+4*math.Sqrt(expected)+8))
	key, _, _ := c.nth(c.keys, rank)
	return key
}

// keep collects the tokens that reach the threshold.
func (r *topRow) keep(set *kernelSet, s *scratch, threshold uint32) int {
	c := &s.cut
	kept, n := 0, r.hi-r.lo
	if r.floats != nil {
		limit := keyFloat(threshold)
		if limit != limit {
			return -1
		}
		whole := n / set.cutUnit * set.cutUnit
		kept = set.cutF32(whole, &r.floats[r.lo], limit, r.lo, &c.positions[0], (*float32)(unsafe.Pointer(&c.scores[0])))
		for i := r.lo + whole; i < r.hi; i++ {
			if v := r.floats[i]; v >= limit {
				c.positions[kept], c.scores[kept] = int32(i), int32(math.Float32bits(v))
				kept++
			}
		}
		return kept
	}
	limit := int32(threshold ^ 1<<31)
	if r.scan == nil {
		return c.keepInts(set, r.ints[r.lo:r.hi], limit, r.lo, 0)
	}
	c.block = resize(c.block, cutBlock)
	for at := r.lo; at < r.hi; at += cutBlock {
		block := c.block[:min(cutBlock, r.hi-at)]
		r.scan.scores(set, &s.words, at, block)
		kept = c.keepInts(set, block, limit, at, kept)
	}
	return kept
}

// keepInts adds the scores that reach limit, of tokens from first on, to the
// kept ones and gives their number.
func (c *cutScratch) keepInts(set *kernelSet, scores []int32, limit int32, first, kept int) int {
	whole := len(scores) / set.cutUnit * set.cutUnit
	if whole > 0 {
		kept += set.cutI32(whole, &scores[0], limit, first, &c.positions[kept], &c.scores[kept])
	}
	for i := whole; i < len(scores); i++ {
		if v := scores[i]; v >= limit {
			c.positions[kept], c.scores[kept] = int32(first+i), v
			kept++
		}
	}
	return kept
}

// keepAll collects all tokens.
func (r *topRow) keepAll(set *kernelSet, s *scratch) int {
	c := &s.cut
	n := r.hi - r.lo
	for i := range n {
		c.positions[i] = int32(r.lo + i)
	}
	switch {
	case r.floats != nil:
		for i, v := range r.floats[r.lo:r.hi] {
			c.scores[i] = int32(math.Float32bits(v))
		}
	case r.scan != nil:
		r.scan.scores(set, &s.words, r.lo, c.scores[:n])
	default:
		copy(c.scores, r.ints[r.lo:r.hi])
	}
	return n
}

// nth is the key of rank (from 0) among keys in descending order, how many
// keys equal it, and how many of those belong to the best rank+1.
func (c *cutScratch) nth(keys []uint32, rank int) (key uint32, equal, needed int) {
	lo, hi := keys[0], keys[0]
	for _, k := range keys {
		lo, hi = min(lo, k), max(hi, k)
	}
	// digits of the distance to lo, the highest first
	width := bits.Len32(hi - lo)
	needed = rank + 1
	prefix, shift := uint32(0), 0
	for done := 0; ; done += radixBits {
		shift = max(0, width-done-radixBits)
		clear(c.counts[:])
		if done == 0 {
			for _, k := range keys {
				c.counts[(k-lo)>>shift]++
			}
		} else {
			above := width - done // bits not yet fixed
			for _, k := range keys {
				if d := k - lo; d>>above == prefix {
					c.counts[d>>shift&(1<<(above-shift)-1)]++
				}
			}
		}
		top := 1<<min(radixBits, width-done) - 1
		for ; int(c.counts[top]) < needed; top-- {
			needed -= int(c.counts[top])
		}
		equal = int(c.counts[top])
		prefix = prefix<<min(radixBits, width-done) | uint32(top)
		if shift == 0 {
			return lo + prefix, equal, needed
		}
	}
}

// best writes the positions of the len(dst) largest keys, ascending as they
// come; of equal keys at the cut the last win.
func (c *cutScratch) best(keys []uint32, positions []int32, dst []int32) {
	key, equal, needed := c.nth(keys, len(dst)-1)
	skip := equal - needed
	at := 0
	for i, k := range keys {
		if k < key {
			continue
		}
		if k == key && skip > 0 {
			skip--
			continue
		}
		dst[at] = positions[i]
		at++
	}
}

// TopK implements kernels.Device.
func (d *Device) TopK(selected, scores kernels.Tensor, b *kernels.Batch, s kernels.Selection) {
	sets, stride, k := scores.Dim(1), scores.Dim(2), selected.Dim(2)
	d.top.begin(d, b.Tokens*sets)
	out := selected.I32()
	row := 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		for t := range seg.Len {
			n := seg.Start + t + 1
			lo, hi := s.Range(n)
			for set := range sets {
				at := row*sets + set
				r := &d.top.rows[at]
				*r = topRow{lo: lo, hi: hi, count: s.ScoredOf(set, n), selected: out[at*k : (at+1)*k]}
				if scores.Type == dtype.I32 {
					r.ints = scores.I32()[at*stride:]
				} else {
					r.floats = scores.F32()[at*stride:]
				}
			}
			row++
		}
	}
	d.pool.run(len(d.top.rows), &d.top)
}

func (j *topJob) begin(d *Device, rows int) {
	j.d = d
	j.rows = resize(j.rows, rows)
}
