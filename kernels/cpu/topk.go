package cpu

import (
	"math"
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
	sampled  = 2048 // scores of which the threshold is estimated
	cutBlock = 4096 // tokens scored at once
	maxLanes = 16   // room behind what the kernels write or read in whole registers
)

// cutScratch is a thread's memory for a cut.
type cutScratch struct {
	positions, scores []int32 // candidates at least as good as the threshold
	keys              []int32 // where they are not the scores themselves
	block             []int32 // scores of a block, where they are computed
}

func (j *topJob) task(worker, index int) {
	r := &j.rows[index]
	s := &j.d.scratch[worker]
	if r.count > 0 {
		switch {
		case r.mass != nil:
			r.sumMass(j.d.set, s)
		case r.scan != nil:
			r.scan.build(j.d.set)
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
	c.positions, c.scores = resize(c.positions, n+maxLanes), resize(c.scores, n+maxLanes)
	kept := -1
	if n > 2*sampled && r.count < n/4 {
		kept = r.keep(set, s, r.threshold(set, s))
	}
	if kept < r.count {
		kept = r.keepAll(set, s)
	}
	keys := c.scores[:kept]
	if r.floats != nil {
		c.keys = resize(c.keys, kept+maxLanes)
		keys = c.keys[:kept]
		for i, v := range c.scores[:kept] {
			keys[i] = floatKey(uint32(v))
		}
	}
	lo, hi := int32(math.MinInt32), int32(math.MaxInt32)
	if r.scan != nil {
		lo, hi = r.scan.span()
	}
	best(set, keys, c.positions, r.selected[:r.count], lo, hi)
}

// floatKey orders a float32, given as its bits, as an integer. NaN is below
// everything, zeros are equal.
func floatKey(b uint32) int32 {
	switch {
	case b&0x7fffffff > 0x7f800000:
		return math.MinInt32
	case b == 1<<31:
		return 0
	}
	v := int32(b)
	return v ^ v>>31&math.MaxInt32
}

// keyFloat undoes floatKey.
func keyFloat(k int32) float32 {
	return math.Float32frombits(uint32(k ^ k>>31&math.MaxInt32))
}

// threshold estimates, as a key, a score that more than count tokens reach.
func (r *topRow) threshold(set *kernelSet, s *scratch) int32 {
	const run, runs = 32, sampled / 32
	c := &s.cut
	n := r.hi - r.lo
	c.keys = resize(c.keys, sampled+maxLanes)
	from := func(i int) int { return r.lo + i*(n-run)/(runs-1) }
	lo, hi := int32(math.MinInt32), int32(math.MaxInt32)
	if r.scan != nil {
		for i := range runs {
			c.positions[i] = int32(from(i))
		}
		r.scan.sample(set, s, c.positions[:runs], run, c.keys)
		lo, hi = r.scan.span()
	} else {
		for i := range runs {
			keys := c.keys[i*run : (i+1)*run]
			if r.floats == nil {
				copy(keys, r.ints[from(i):])
				continue
			}
			for x, v := range r.floats[from(i):][:run] {
				keys[x] = floatKey(math.Float32bits(v))
			}
		}
	}
	expected := float64(r.count) / float64(n) * sampled
	rank := min(sampled-1, int(expected+4*math.Sqrt(expected)+8))
	key, _, _ := nth(set, c.keys[:sampled], rank, lo, hi)
	return key
}

// keep collects the tokens that reach the threshold.
func (r *topRow) keep(set *kernelSet, s *scratch, limit int32) int {
	c := &s.cut
	kept, n := 0, r.hi-r.lo
	if r.floats != nil {
		limit := keyFloat(limit)
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
	if r.scan == nil {
		return c.keepInts(set, r.ints[r.lo:r.hi], limit, r.lo, 0)
	}
	if kept, done := r.scan.cut(set, r.lo, r.hi, limit, c.positions, c.scores); done {
		return kept
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
// keys equal it, and how many of those belong to the best rank+1. It looks for
// the largest key that rank+1 keys reach, between the smallest and the largest
// there can be. Behind keys there is room for maxLanes more, which it
// overwrites.
func nth(set *kernelSet, keys []int32, rank int, smallest, largest int32) (key int32, equal, needed int) {
	padded := keys[:(len(keys)+set.lanes-1)/set.lanes*set.lanes]
	for i := len(keys); i < len(padded); i++ {
		padded[i] = math.MinInt32
	}
	lo, hi := int64(smallest), int64(largest)
	atLeast, above := len(keys), 0 // keys from lo on, from hi+1 on
	for lo < hi {
		middle := lo + (hi-lo+1)/2
		if n := set.reach(len(padded), &padded[0], int32(middle)); n > rank {
			lo, atLeast = middle, n
		} else {
			hi, above = middle-1, n
		}
	}
	return int32(lo), atLeast - above, rank + 1 - above
}

// best writes the positions of the len(dst) largest keys, ascending as they
// come; of equal keys at the cut the last win. Keys and positions have room for
// maxLanes more, and positions are lost. No key is beyond smallest or largest.
func best(set *kernelSet, keys, positions, dst []int32, smallest, largest int32) {
	key, equal, needed := nth(set, keys, len(dst)-1, smallest, largest)
	from := 0 // where keys that equal the last one's begin to win
	for skip := equal - needed; skip > 0; from++ {
		if keys[from] == key {
			skip--
		}
	}
	// the part behind first: choosing overwrites what follows its positions
	n := len(dst) - set.choose(len(keys)-from, &keys[from], key, &positions[from])
	copy(dst[n:], positions[from:])
	if n > 0 {
		set.choose(from, &keys[0], key+1, &positions[0])
		copy(dst, positions[:n])
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
