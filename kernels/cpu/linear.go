package cpu

import (
	"fmt"
	"unsafe"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Below batchTokens tokens a weight is decoded row by row and multiplied as dot
// products; from there on in blocks, as a matrix product.
const batchTokens = 12

// Linear implements kernels.Device.
func (d *Device) Linear(out, x kernels.Tensor, w kernels.Weight, bias kernels.Tensor, add bool) {
	m := w.(*weight)
	in, o := x.F32(), out.F32()
	tokens := len(in) / m.Cols
	if len(in)%m.Cols != 0 || len(o) != tokens*m.Rows {
		panic(fmt.Sprintf("cpu: linear of %v to %v by [%d %d]", x.Shape, out.Shape, m.Rows, m.Cols))
	}
	var b []float32
	if !bias.None() {
		b = bias.F32()
	}
	l := linear{d: d, w: m, x: in, out: o, bias: b, add: add, tokens: tokens}
	switch {
	case tokens == 0:
	case tokens == 1 && m.whole == m.Cols:
		d.matvec.linear = l
		d.pool.run(d.matvec.split(), &d.matvec)
	case tokens < batchTokens:
		l.pad()
		d.few.linear = l
		d.pool.run((m.Rows+fewRows-1)/fewRows, &d.few)
	default:
		panels := (tokens + d.set.tileCols - 1) / d.set.tileCols
		grow(&d.packed, panels*m.padded*d.set.tileCols)
		d.pack.linear = l
		d.pool.run(panels, &d.pack)
		d.batch.linear, d.batch.panels = l, panels
		d.batch.rows = batchTiles * d.set.tileRows
		d.pool.run((m.Rows+d.batch.rows-1)/d.batch.rows, &d.batch)
	}
}

// linear is one call of Linear.
type linear struct {
	d      *Device
	w      *weight
	x, out []float32
	bias   []float32
	add    bool
	tokens int
}

// finish adds to values, of a token's rows lo on, what belongs to them and
// stores them.
func (l *linear) finish(values []float32, token, lo int) {
	out := l.out[token*l.w.Rows+lo:][:len(values)]
	if l.bias != nil {
		for i, b := range l.bias[lo:][:len(values)] {
			values[i] += b
		}
	}
	if l.add {
		for i, v := range values {
			out[i] += v
		}
		return
	}
	copy(out, values)
}

// pad copies activations to rows of whole registers where they are not.
func (l *linear) pad() {
	cols, padded := l.w.Cols, l.w.padded
	if cols == padded {
		return
	}
	rows := grow(&l.d.padded, l.tokens*padded)
	for t := range l.tokens {
		row := rows[t*padded : (t+1)*padded]
		copy(row, l.x[t*cols:(t+1)*cols])
		clear(row[cols:])
	}
	l.x = rows
}

// matvecJob multiplies a weight with one token as it is read.
type matvecJob struct {
	linear
	rows int // of a task
}

// split sets the rows of a task: some 30 KB of the weight, so that tasks even
// out and rarely meet.
func (j *matvecJob) split() (tasks int) {
	j.rows = max(8, min(512, 32<<10/j.w.rowBytes))
	return (j.w.Rows + j.rows - 1) / j.rows
}

func (j *matvecJob) task(worker, index int) {
	lo := index * j.rows
	rows := min(j.rows, j.w.Rows-lo)
	if j.bias == nil && !j.add {
		j.w.product(rows, j.w.Cols/j.w.length, &j.w.Data[lo*j.w.rowBytes], &j.x[0], &j.out[lo])
		return
	}
	values := grow(&j.d.scratch[worker].a, rows)[:rows]
	j.w.product(rows, j.w.Cols/j.w.length, &j.w.Data[lo*j.w.rowBytes], &j.x[0], &values[0])
	j.finish(values, 0, lo)
}

// fewRows is the rows of a task of fewJob.
const fewRows = 32

// fewJob multiplies a weight with few tokens: each row is decoded once.
type fewJob struct{ linear }

func (j *fewJob) task(worker, index int) {
	w, k, s := j.w, j.d.set, &j.d.scratch[worker]
	lo := index * fewRows
	rows := min(fewRows, w.Rows-lo)
	decoded := (*byte)(unsafe.Pointer(&w.Data[lo*w.rowBytes]))
	if w.Type != dtype.F32 || w.Cols != w.padded {
		values := grow(&s.a, fewRows*w.padded)
		for i := range rows {
			row := values[i*w.padded:][:w.padded]
			clear(row[w.Cols:])
			w.decode(row, lo+i, 0, w.Cols)
		}
		decoded = (*byte)(unsafe.Pointer(&values[0]))
	}
	products := grow(&s.b, 4*fewRows)
	for t := 0; t < j.tokens; t += 4 {
		n := min(4, j.tokens-t)
		k.dotF32[n-1](w.padded, rows, 0, decoded, w.padded, &j.x[t*w.padded], w.padded, &products[0], fewRows)
		for i := range n {
			j.finish(products[i*fewRows:][:rows], t+i, lo)
		}
	}
}

// packJob packs the activations of a batch: panels of tileCols tokens, column
// after column.
type packJob struct{ linear }

func (j *packJob) task(worker, index int) {
	k, cols, padded := j.d.set, j.w.Cols, j.w.padded
	t := index * k.tileCols
	panel := j.d.packed[t*padded:][:padded*k.tileCols]
	packColumns(k, panel, j.x[t*cols:], cols, min(k.tileCols, j.tokens-t), cols)
}

const (
	batchTiles = 4   // tiles of a weight's rows that a task decodes
	batchDepth = 256 // columns decoded at once
)

// batchJob multiplies rows of a weight with all tokens. The tile's A is the
// decoded weight, so decoding needs no transposition; its B is the tokens.
type batchJob struct {
	linear
	panels int
	rows   int // of a task
}

func (j *batchJob) task(worker, index int) {
	w, k, s := j.w, j.d.set, &j.d.scratch[worker]
	nr, mr := k.tileCols, k.tileRows
	lo := index * j.rows
	rows := min(j.rows, w.Rows-lo)
	tiles := (rows + mr - 1) / mr
	const stride = batchDepth + 16
	decoded := grow(&s.a, j.rows*stride)
	width := j.panels * nr
	products := grow(&s.b, (j.rows+k.lanes)*width)
	for c := 0; c < w.Cols; c += batchDepth {
		depth := min(batchDepth, w.Cols-c)
		for i := range rows {
			w.decode(decoded[i*stride:], lo+i, c, c+depth)
		}
		add := min(c, 1)
		for p := range j.panels {
			b := &j.d.packed[p*nr*w.padded+c*nr]
			for t := range tiles {
				k.tile(depth, &decoded[t*mr*stride], stride, 1, b, &products[t*mr*width+p*nr], width, add)
			}
		}
	}
	j.store(s, products, width, lo, rows)
}

// store turns the products [rows, tokens] into rows of the output.
func (j *batchJob) store(s *scratch, products []float32, width, lo, rows int) {
	k := j.d.set
	n := k.lanes
	square := grow(&s.c, n*n)
	for r := 0; r < rows; r += n {
		some := min(n, rows-r)
		for t := 0; t < j.tokens; t += n {
			tokens := min(n, j.tokens-t)
			if some == n && tokens == n && j.bias == nil && !j.add {
				k.transpose(&j.out[t*j.w.Rows+lo+r], j.w.Rows, &products[r*width+t], width)
				continue
			}
			k.transpose(&square[0], n, &products[r*width+t], width)
			for i := range tokens {
				j.finish(square[i*n:][:some], t+i, lo+r)
			}
		}
	}
}
