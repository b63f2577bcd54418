package cpu

import (
	"github.com/hashattn/hashattn/kernels"
)

// wordTable scores a 32-bit word of key codes against 32 query weights. The
// nibble form is what the assembly looks up, the byte form what Go does.
type wordTable struct {
	nibbles [256]byte // as asm/scan.go describes
	bias    int32
	largest int32 // score; the smallest is its negative
	wide    bool  // entries take two bytes
	useGo   bool
	bytes   [4][256]int32
}

// build sets the table up for weights: bit i of the word adds weights[i], or
// subtracts it where it is 0.
func (t *wordTable) build(weights *[32]int32, set *kernelSet) {
	t.largest = 0
	for _, w := range weights {
		t.largest += max(w, -w)
	}
	if set.scanNarrow == nil || !t.buildNibbles(weights) {
		t.useGo = true
		t.buildBytes(weights)
	}
}

func (t *wordTable) buildNibbles(weights *[32]int32) bool {
	var entries [8][16]int32
	t.bias, t.wide, t.useGo = 0, false, false
	previous := int32(0)
	for i := range entries {
		w := (*[4]int32)(weights[4*i:])
		offset := int32(0)
		for _, v := range w {
			offset += max(v, -v)
		}
		e := &entries[i]
		e[0] = offset - w[0] - w[1] - w[2] - w[3]
		for bit, v := range w {
			for j := range 1 << bit {
				e[1<<bit+j] = e[j] + 2*v
			}
		}
		t.bias -= offset
		if i%2 == 1 && 2*(offset+previous) > 255 {
			t.wide = true
		}
		previous = offset
	}
	if -2*t.bias > 0xffff { // more than the sums of some kernels hold
		return false
	}
	for i := range entries {
		for j, v := range entries[i] {
			at := i%2*64 + i/2*16 + j
			t.nibbles[at], t.nibbles[at+128] = byte(v), byte(v>>8)
		}
	}
	return true
}

func (t *wordTable) buildBytes(weights *[32]int32) {
	for b := range t.bytes {
		e := &t.bytes[b]
		w := (*[8]int32)(weights[8*b:])
		e[0] = 0
		for _, v := range w {
			e[0] -= v
		}
		for bit, v := range w {
			for j := range 1 << bit {
				e[1<<bit+j] = e[j] + 2*v
			}
		}
	}
}

// score sets, or adds to, the scores of codes.
func (t *wordTable) score(set *kernelSet, codes []uint32, scores []int32, add bool) {
	if len(codes) == 0 {
		return
	}
	if !t.useGo {
		f, flag := set.scanNarrow, 0
		if t.wide {
			f = set.scanWide
		}
		if add {
			flag = 1
		}
		whole := len(codes) / set.scanUnit * set.scanUnit
		if whole > 0 {
			f(whole, &codes[0], &t.nibbles[0], t.bias, &scores[0], flag)
		}
		for i := whole; i < len(codes); i++ {
			v := t.lookUp(codes[i])
			if add {
				v += scores[i]
			}
			scores[i] = v
		}
		return
	}
	scores = scores[:len(codes)]
	for i, c := range codes {
		v := t.bytes[0][c&255] + t.bytes[1][c>>8&255] + t.bytes[2][c>>16&255] + t.bytes[3][c>>24]
		if add {
			v += scores[i]
		}
		scores[i] = v
	}
}

// lookUp is the score of one code by the nibble tables.
func (t *wordTable) lookUp(code uint32) int32 {
	v := t.bias
	for i := range 8 {
		at := i%2*64 + i/2*16 + int(code>>(4*i)&15)
		v += int32(t.nibbles[at]) + int32(t.nibbles[at+128])<<8
	}
	return v
}

// codeSource is the codes of a key head with the tables of the maps that read
// it, summed.
type codeSource struct {
	codes   []uint32 // [capacity, words]
	words   int
	tables  []wordTable // one per word
	weights []int8      // [maps, bits]
	bits    int
}

// build sets the tables up.
func (c *codeSource) build(set *kernelSet) {
	for w := range c.tables {
		var sum [32]int32
		n := min(32, c.bits-w*32)
		for first := w * 32; first < len(c.weights); first += c.bits {
			for i, v := range c.weights[first:][:n] {
				sum[i] += int32(v)
			}
		}
		c.tables[w].build(&sum, set)
	}
}

// setScan is what one row's selection set scans.
type setScan struct {
	row, position int
	sources       []codeSource
}

// build sets up the tables of all sources, before the first score.
func (s *setScan) build(set *kernelSet) {
	for i := range s.sources {
		s.sources[i].build(set)
	}
}

// hashScans prepares scans for all rows and sets of a batch, in memory that
// the next call reuses.
type hashScans struct {
	sets    []setScan
	sources []codeSource
	tables  []wordTable
}

func (h *hashScans) prepare(weights []int8, maps, bits, sets, layer int, b *kernels.Batch) {
	words := (bits + 31) / 32
	// the most there can be: each map has codes of its own
	h.sets = resize(h.sets, b.Tokens*sets)
	h.sources = resize(h.sources, b.Tokens*maps)
	h.tables = resize(h.tables, b.Tokens*maps*words)
	nextSource, nextTable, row := 0, 0, 0
	for i := range b.Segments {
		seg := &b.Segments[i]
		codes := seg.Index.Layers[layer][0]
		all, keyHeads, capacity := codes.U32(), codes.Dim(0), codes.Dim(1)
		for t := range seg.Len {
			for set := range sets {
				first := nextSource
				lo, hi := set*maps/sets, (set+1)*maps/sets
				for m := lo; m < hi; {
					key := m * keyHeads / maps
					end := m + 1
					for end < hi && end*keyHeads/maps == key {
						end++
					}
					source := &h.sources[nextSource]
					nextSource++
					source.codes = all[key*capacity*words : (key+1)*capacity*words]
					source.words = words
					source.tables = h.tables[nextTable : nextTable+words]
					nextTable += words
					source.weights, source.bits = weights[((row+t)*maps+m)*bits:][:(end-m)*bits], bits
					m = end
				}
				h.sets[(row+t)*sets+set] = setScan{row + t, seg.Start + t, h.sources[first:nextSource]}
			}
		}
		row += seg.Len
	}
}

// resize is s with n elements, reusing its memory; contents are kept.
func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return append(s[:cap(s)], make([]T, n-cap(s))...)
	}
	return s[:n]
}

// scores sets out to the scores of tokens from on.
func (s *setScan) scores(set *kernelSet, buf *[]uint32, from int, out []int32) {
	add := false
	for i := range s.sources {
		src := &s.sources[i]
		if src.words == 1 {
			src.tables[0].score(set, src.codes[from:from+len(out)], out, add)
			add = true
			continue
		}
		*buf = resize(*buf, len(out))
		codes := src.codes[from*src.words : (from+len(out))*src.words]
		for w := range src.tables {
			plane := *buf
			for j := range plane {
				plane[j] = codes[j*src.words+w]
			}
			src.tables[w].score(set, plane, out, add)
			add = true
		}
	}
}

// single is the source of a set that scans one word of codes by assembly.
func (s *setScan) single(set *kernelSet) *codeSource {
	if len(s.sources) != 1 || s.sources[0].words != 1 || s.sources[0].tables[0].useGo || set.scanCutNarrow == nil {
		return nil
	}
	return &s.sources[0]
}

// cut scores the tokens lo to hi and keeps those that reach limit, if it can do
// both at once.
func (s *setScan) cut(set *kernelSet, lo, hi int, limit int32, positions, scores []int32) (kept int, done bool) {
	source := s.single(set)
	if source == nil {
		return 0, false
	}
	t := &source.tables[0]
	kernel := set.scanCutNarrow
	if t.wide {
		kernel = set.scanCutWide
	}
	return kernel(hi-lo, &source.codes[lo], &t.nibbles[0], t.bias, limit, lo, &positions[0], &scores[0]), true
}

// span is the smallest and the largest score there can be.
func (s *setScan) span() (lo, hi int32) {
	for i := range s.sources {
		for w := range s.sources[i].tables {
			hi += s.sources[i].tables[w].largest
		}
	}
	return -hi, hi
}

// sample sets scores to those of n tokens from each position on.
func (s *setScan) sample(set *kernelSet, scratch *scratch, positions []int32, n int, scores []int32) {
	source := s.single(set)
	if source == nil {
		for i, p := range positions {
			s.scores(set, &scratch.words, int(p), scores[i*n:(i+1)*n])
		}
		return
	}
	// in one row, so that the loads of all positions wait together
	scratch.words = resize(scratch.words, len(positions)*n)
	for i, p := range positions {
		copy(scratch.words[i*n:(i+1)*n], source.codes[p:])
	}
	source.tables[0].score(set, scratch.words, scores[:len(scratch.words)], false)
}

// scanPart is the tokens that one task scans.
const scanPart = 16 << 10

// scanJob is ScanHash: a task scans a part of a row's tokens for one set.
type scanJob struct {
	d      *Device
	scans  hashScans
	scores []int32
	stride int
	parts  int // per row and set
}

func (j *scanJob) task(worker, index int) {
	s := &j.scans.sets[index/j.parts]
	lo := index % j.parts * scanPart
	hi := min(lo+scanPart, s.position+1)
	if lo < hi {
		s.scores(j.d.set, &j.d.scratch[worker].words, lo, j.scores[index/j.parts*j.stride:][lo:hi])
	}
}

// ScanHash implements kernels.Device.
func (d *Device) ScanHash(scores, weights kernels.Tensor, layer int, b *kernels.Batch) {
	j := &d.scan
	sets := scores.Dim(1)
	j.scans.prepare(weights.I8(), weights.Dim(1), weights.Dim(2), sets, layer, b)
	for i := range j.scans.sets {
		j.scans.sets[i].build(d.set)
	}
	j.d, j.scores, j.stride = d, scores.I32(), scores.Dim(2)
	j.parts = (b.Longest + scanPart - 1) / scanPart
	d.pool.run(b.Tokens*sets*j.parts, j)
}
