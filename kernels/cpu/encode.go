package cpu

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// encodeTokens is the tokens that one task encodes.
const encodeTokens = 128

// encoder is a projection with what the encoders need beside it.
type encoder struct {
	p        kernels.Projection
	stream   stream
	feedback []float32 // [heads, bits, bits]: row j is what bit j adds to later values
	norms    []float32 // per head the largest norm of a row of the linear path
	work     int       // multiplications of one head and token
}

// Projection implements kernels.Encoder.
func (e *encoder) Projection() kernels.Projection { return e.p }

// stream is the weights of a projection once more, in the order in which a
// token's encoding reads them, in large pages: a decode step finds none of them
// in the caches. Where all are bfloat16 numbers, half the bytes hold them.
type stream struct {
	data  []byte
	wide  bool  // float32, not bfloat16
	head  int   // bytes of a head
	first []int // bytes in a head before the layers and the linear path
}

// newStream copies the weights. Layers whose width is no multiple of the
// registers' are left out.
func (d *Device) newStream(p kernels.Projection) (stream, error) {
	parts := p.Layers
	if p.Skip != nil {
		parts = append(append([]kernels.Affine(nil), parts...), *p.Skip)
	}
	s, size := stream{}, 2
	for _, a := range parts {
		for _, v := range a.Weight {
			s.wide = s.wide || math.Float32bits(v)<<16 != 0
		}
	}
	if s.wide {
		size = 4
	}
	const line = 64
	for _, a := range parts {
		s.first = append(s.first, s.head)
		if a.In%d.set.lanes == 0 {
			s.head += (d.set.wholeRows(a.Out)*a.In*size + line - 1) / line * line
		}
	}
	memory, err := d.Alloc(dtype.U8, p.Heads*s.head)
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.Name, err)
	}
	s.data = memory.Bytes()
	for h := range p.Heads {
		for i, a := range parts {
			if a.In%d.set.lanes == 0 {
				s.fill(d.set, s.data[h*s.head+s.first[i]:], a.Weight[h*a.In*a.Out:(h+1)*a.In*a.Out], a.In)
			}
		}
	}
	return s, nil
}

// wholeRows is n rounded up to the rows that a product takes at once.
func (k *kernelSet) wholeRows(n int) int { return (n + k.keys - 1) / k.keys * k.keys }

// fill writes a matrix of rows of width columns in the order of the kernel.
func (s *stream) fill(set *kernelSet, to []byte, weights []float32, width int) {
	for i, v := range weights {
		row, col := i/width, i%width
		at := (row/set.keys*width+col/set.lanes*set.lanes)*set.keys + row%set.keys*set.lanes + col%set.lanes
		if s.wide {
			binary.NativeEndian.PutUint32(to[4*at:], math.Float32bits(v))
		} else {
			binary.NativeEndian.PutUint16(to[2*at:], dtype.BF16FromF32(v))
		}
	}
}

// affine sets y [n, out] to a layer's output for n rows of x, stride apart.
func (s *stream) affine(set *kernelSet, buf *[]float32, a kernels.Affine, index, h int, x []float32, n, stride int, y []float32) {
	kernel := set.projectBF16
	if s.wide {
		kernel = set.projectF32
	}
	rows := set.wholeRows(a.Out)
	products := grow(buf, rows)
	bias := a.Bias[h*a.Out:][:a.Out]
	for t := range n {
		kernel(rows, a.In, &s.data[h*s.head+s.first[index]], &x[t*stride], &products[0])
		out := y[t*a.Out:][:a.Out]
		for o, b := range bias {
			out[o] = products[o] + b
		}
	}
}

// LoadProjection implements kernels.Device. The weights are also used in place,
// for many tokens at once.
func (d *Device) LoadProjection(p kernels.Projection) (kernels.Encoder, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	weights, err := d.newStream(p)
	if err != nil {
		return nil, err
	}
	e := &encoder{p: p, stream: weights, norms: make([]float32, p.Heads)}
	bits := p.Out()
	if p.Feedback != nil {
		e.feedback = make([]float32, len(p.Feedback))
		for h := range p.Heads {
			for i := range bits {
				for j := range i / p.BlockBits * p.BlockBits {
					e.feedback[(h*bits+j)*bits+i] = p.Feedback[(h*bits+i)*bits+j]
				}
			}
		}
	}
	for _, a := range p.Layers {
		e.work += a.In * a.Out
	}
	if a := p.Skip; a != nil {
		e.work += a.In * a.Out
		for i := range p.Heads * a.Out {
			sum := 0.0
			for _, v := range a.Weight[i*a.In : (i+1)*a.In] {
				sum += float64(v) * float64(v)
			}
			h := i / a.Out
			e.norms[h] = max(e.norms[h], float32(math.Sqrt(sum)))
		}
	}
	return e, nil
}

// project sets z [n, bits] to the projection of n rows of x, stride apart,
// without feedback.
func (e *encoder) project(set *kernelSet, s *encodeScratch, h int, x []float32, n, stride int, z []float32) {
	bits := e.p.Out()
	clear(z[:n*bits])
	in := Strided{x, n, e.p.In(), stride, 1}
	for i, a := range e.p.Layers {
		if i > 0 {
			count := (n*in.Cols + set.lanes - 1) / set.lanes * set.lanes
			for len(s.ones) < count {
				s.ones = append(s.ones, 1)
			}
			set.gate(count, &in.Data[0], &in.Data[0], &s.ones[0], 1, 0)
		}
		out := z
		if i < len(e.p.Layers)-1 {
			out = grow(&s.hidden[i%2], n*a.Out+set.lanes)
		}
		e.affine(set, &s.gemm, a, i, h, in, out)
		in = Strided{out, n, a.Out, a.Out, 1}
	}
	if e.p.Skip != nil {
		y := z
		if len(e.p.Layers) > 0 {
			y = grow(&s.hidden[0], n*bits)
		}
		e.affine(set, &s.gemm, *e.p.Skip, len(e.p.Layers), h, Strided{x, n, e.p.In(), stride, 1}, y)
		if len(e.p.Layers) > 0 {
			for i := range z[:n*bits] {
				z[i] += y[i]
			}
		}
	}
}

// fewTokens is up to how many tokens read the weights as a stream.
const fewTokens = 4

// affine sets y [rows of x, out] to the output of a layer, the index-th of the
// stream.
func (e *encoder) affine(set *kernelSet, s *gemmBuffers, a kernels.Affine, index, h int, x Strided, y []float32) {
	if x.Rows <= fewTokens && a.In%set.lanes == 0 {
		e.stream.affine(set, &s.c, a, index, h, x.Data, x.Rows, x.RowStride, y)
		return
	}
	for i := range x.Rows {
		copy(y[i*a.Out:(i+1)*a.Out], a.Bias[h*a.Out:])
	}
	w := Strided{a.Weight[h*a.Out*a.In : (h+1)*a.Out*a.In], a.Out, a.In, a.In, 1}
	g := gemm{set, 1, x, w.T(), 1, Strided{y, x.Rows, a.Out, a.Out, 1}}
	if g.few() {
		g.runFew(s)
		return
	}
	g.run(s)
}

// encodeScratch is a thread's memory for projections.
type encodeScratch struct {
	gemm   gemmBuffers
	hidden [2][]float32
	ones   []float32
	x, z   []float32
	exact  []float64
}

// EncodeKeys implements kernels.Device.
func (d *Device) EncodeKeys(enc kernels.Encoder, layer int, b *kernels.Batch) {
	j := &d.keys
	j.d, j.e, j.layer = d, enc.(*encoder), layer
	j.parts = j.parts[:0]
	for i := range b.Segments {
		s := &b.Segments[i]
		for h := range j.e.p.Heads {
			for t := 0; t < s.Len; t += encodeTokens {
				j.parts = append(j.parts, encodePart{s, h, s.Start + t, min(encodeTokens, s.Len-t)})
			}
		}
	}
	if len(j.parts)*j.e.work*j.parts[0].n < 1<<14 { // not worth waking a thread
		for i := range j.parts {
			j.task(0, i)
		}
		return
	}
	d.pool.run(len(j.parts), j)
}

// keysJob encodes keys: a task some tokens of a head.
type keysJob struct {
	d     *Device
	e     *encoder
	layer int
	parts []encodePart
}

type encodePart struct {
	seg      *kernels.Segment
	head     int
	first, n int // positions
}

func (j *keysJob) task(worker, index int) {
	p := &j.parts[index]
	e, k, s := j.e, j.d.set, &j.d.scratch[worker].encode
	c := p.seg.Cache
	width, bits, words := c.HeadDim, e.p.Out(), e.p.Words()
	kv := p.head / (e.p.Heads / c.KVHeads)
	x, z := grow(&s.x, p.n*width), grow(&s.z, p.n*bits)
	at := (kv*c.Capacity + p.first) * width
	keys := c.K[j.layer]
	switch {
	case c.Type == dtype.F32:
		copy(x, keys.F32()[at:at+p.n*width])
	case p.n*width%k.lanes == 0:
		k.widen(p.n*width, &x[0], &keys.BF16()[at])
	default:
		dtype.F32FromBF16s(x[:p.n*width], keys.BF16()[at:at+p.n*width])
	}
	e.project(k, s, p.head, x, p.n, width, z)
	codes := p.seg.Index.Layers[j.layer][0]
	for i := range p.n {
		row := z[i*bits : (i+1)*bits]
		code := codes.U32()[(p.head*codes.Dim(1)+p.first+i)*words:][:words]
		if e.feedback != nil {
			e.feed(p.head, row)
		}
		if e.close(p.head, x[i*width:(i+1)*width], row) {
			s.exact = e.exact(s.exact, p.head, x[i*width:(i+1)*width])
			pack(code, s.exact)
			continue
		}
		pack(code, row)
	}
}

func pack[T float32 | float64](code []uint32, z []T) {
	clear(code)
	for i, v := range z {
		if v > 0 {
			code[i/32] |= 1 << (i % 32)
		}
	}
}

// feed decides the bits of a residual code block by block.
func (e *encoder) feed(h int, z []float32) {
	bits := len(z)
	for j := range bits - e.p.BlockBits {
		next := j/e.p.BlockBits*e.p.BlockBits + e.p.BlockBits
		f := e.feedback[(h*bits+j)*bits+next:][:bits-next]
		later := z[next:]
		if z[j] > 0 {
			for i, v := range f {
				later[i] += v
			}
		} else {
			for i, v := range f {
				later[i] -= v
			}
		}
	}
}

// close says whether a value is so close to its threshold 0 that rounding in
// float32 may have turned its sign.
func (e *encoder) close(h int, x, z []float32) bool {
	size, length := float32(0), float32(0)
	for _, v := range z {
		size += v * v
	}
	for _, v := range x {
		length += v * v
	}
	limit := 1e-4*float32(math.Sqrt(float64(size)/float64(len(z)))) + 1e-6*e.norms[h]*float32(math.Sqrt(float64(length)))
	for _, v := range z {
		if !(v > limit || v < -limit) {
			return true
		}
	}
	return false
}

// exact is the projection in float64, with feedback, as the reference device
// computes it.
func (e *encoder) exact(buf []float64, h int, x []float32) []float64 {
	in := make([]float64, len(x))
	for i, v := range x {
		in[i] = float64(v)
	}
	p := e.p
	z := append(buf[:0], make([]float64, p.Out())...)
	if len(p.Layers) > 0 {
		y := in
		for i, a := range p.Layers {
			if i > 0 {
				for j, v := range y {
					y[j] = v / (1 + math.Exp(-v))
				}
			}
			y = affineExact(a, h, y)
		}
		copy(z, y)
	}
	if p.Skip != nil {
		for i, v := range affineExact(*p.Skip, h, in) {
			z[i] += v
		}
	}
	if p.Feedback != nil {
		for i := range z {
			for j, f := range p.Feedback[(h*len(z)+i)*len(z):][:i/p.BlockBits*p.BlockBits] {
				if z[j] > 0 {
					z[i] += float64(f)
				} else {
					z[i] -= float64(f)
				}
			}
		}
	}
	return z
}

func affineExact(a kernels.Affine, h int, x []float64) []float64 {
	y := make([]float64, a.Out)
	for o := range y {
		s := 0.0
		for i, v := range x {
			s += float64(a.Weight[(h*a.Out+o)*a.In+i]) * v
		}
		y[o] = s + float64(a.Bias[h*a.Out+o])
	}
	return y
}

// EncodeQueries implements kernels.Device.
func (d *Device) EncodeQueries(weights, scales kernels.Tensor, enc kernels.Encoder, q kernels.Tensor, queryBits int) {
	var s []float32
	if !scales.None() {
		s = scales.F32()
	}
	d.encodeQueries(weights.I8(), s, enc.(*encoder), q, queryBits)
}

func (d *Device) encodeQueries(weights []int8, scales []float32, e *encoder, q kernels.Tensor, queryBits int) {
	j := &d.queries
	j.begin(d, weights, scales, e, q, queryBits)
	tasks := e.p.Heads * j.parts
	if e.p.Heads*e.work*j.tokens < 1<<14 { // not worth waking a thread
		for i := range tasks {
			j.task(0, i)
		}
		return
	}
	d.pool.run(tasks, j)
}

// queriesJob encodes queries: a task some tokens of a head.
type queriesJob struct {
	d         *Device
	e         *encoder
	weights   []int8    // [tokens, heads, bits]
	scales    []float32 // [tokens, heads], or nil
	q         []float32
	tokens    int
	queryBits int
	parts     int // per head
}

func (j *queriesJob) begin(d *Device, weights []int8, scales []float32, e *encoder, q kernels.Tensor, queryBits int) {
	*j = queriesJob{d, e, weights, scales, q.F32(), q.Dim(0), queryBits, (q.Dim(0) + encodeTokens - 1) / encodeTokens}
}

func (j *queriesJob) task(worker, index int) {
	e, s := j.e, &j.d.scratch[worker].encode
	h, first := index/j.parts, index%j.parts*encodeTokens
	n := min(encodeTokens, j.tokens-first)
	heads, bits, in := e.p.Heads, e.p.Out(), e.p.In()
	z := grow(&s.z, n*bits)
	e.project(j.d.set, s, h, j.q[(first*heads+h)*in:], n, heads*in, z)
	for i := range n {
		at := (first+i)*heads + h
		x := j.q[at*in : (at+1)*in]
		row := z[i*bits : (i+1)*bits]
		s.exact = s.exact[:0]
		if e.feedback != nil || e.work <= 1<<15 && e.undecided(h, x, row, j.queryBits) {
			s.exact = e.exact(s.exact, h, x)
		} else {
			for _, v := range row {
				s.exact = append(s.exact, float64(v))
			}
		}
		scale := kernels.QuantizeQuery(j.weights[at*bits:(at+1)*bits], s.exact, j.queryBits)
		if j.scales != nil {
			j.scales[at] = scale
		}
	}
}

// undecided says whether a value is so close to the border between two weights
// that rounding in float32 may have moved it across.
func (e *encoder) undecided(h int, x, z []float32, queryBits int) bool {
	if queryBits == 1 {
		return e.close(h, x, z)
	}
	top := float32(0)
	for _, v := range z {
		top = max(top, v, -v)
	}
	if top == 0 {
		return true
	}
	limit := float32(int(1)<<(queryBits-1) - 1)
	for _, v := range z {
		r := v / top * limit
		if r < 0 {
			r = -r
		}
		if f := r - float32(math.Floor(float64(r))); f > 0.499 && f < 0.501 {
			return true
		}
	}
	return false
}
