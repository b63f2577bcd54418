//go:build gpu

package cuda

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// Learner does the arithmetic of training on a GPU: package train says what
// each operation means. Its slices point to the GPU's memory.
type Learner struct {
	d    *Device
	made []cu.DevicePtr
}

// OpenLearner starts a GPU, or another queue of it, for training.
func OpenLearner(o Options) (*Learner, error) {
	d, err := Open(o)
	if err != nil {
		return nil, err
	}
	return &Learner{d: d.(*Device)}, nil
}

// Close frees the GPU.
func (l *Learner) Close() error { return l.d.Close() }

// Name names the GPU.
func (l *Learner) Name() string { return l.d.Info().Name }

// on is the GPU address of a slice.
func on[T any](x []T) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(x)))) }

// onGPU is n numbers at a GPU address.
func onGPU[T any](p cu.DevicePtr, n int) []T { return unsafe.Slice((*T)(pointer(uint64(p))), n) }

// Wide says that many rows at once are best.
func (l *Learner) Wide() bool { return true }

// Make gives n zeros.
func (l *Learner) Make(n int) ([]float32, error) {
	p, err := l.d.keep(4 * n)
	if err != nil {
		return nil, err
	}
	l.made = append(l.made, p)
	if err := l.d.zero(p, max(4*n, 256)); err != nil {
		return nil, err
	}
	return onGPU[float32](p, n), nil
}

// Hold copies host memory.
func (l *Learner) Hold(host []uint16) ([]uint16, error) {
	p, err := l.d.keep(2 * len(host))
	if err != nil {
		return nil, err
	}
	l.made = append(l.made, p)
	return onGPU[uint16](p, len(host)), l.d.copyIn(uint64(p), dtype.Bytes(host))
}

// Release frees what Make and Hold gave.
func (l *Learner) Release() {
	l.d.fail(l.d.do(func() error {
		err := l.d.stream.Synchronize()
		for _, p := range l.made {
			delete(l.d.live, p)
			err = errors.Join(err, cu.MemFree(p))
		}
		l.made = nil
		return err
	}))
}

// Put copies from host memory.
func (l *Learner) Put(dst, host []float32) {
	if l.d.failed == nil {
		l.d.fail(l.d.copyIn(on(dst), dtype.Bytes(host)))
	}
}

// Get copies to host memory once all before is done.
func (l *Learner) Get(host, src []float32) error {
	if err := l.d.Synchronize(); err != nil {
		return err
	}
	return l.d.do(func() error {
		return cu.MemcpyDtoH(unsafe.Pointer(unsafe.SliceData(host)), cu.DevicePtr(on(src)), int64(4*len(host)))
	})
}

// Rows standardises chosen rows.
func (l *Learner) Rows(dst []float32, stride int, x []uint16, dim int, at []int32, mean, inverse []float32, slab int) {
	if len(at) == 0 || l.d.failed != nil {
		return
	}
	list := l.d.borrow("learn at", 4*len(at))
	if list == 0 {
		return // the failure is kept
	}
	if err := l.d.copyIn(list, dtype.Bytes(at)); err != nil {
		l.d.fail(err)
		return
	}
	l.d.flat("learn_rows", len(at)*dim, on(dst), stride, on(x), dim, list, len(at), on(mean), on(inverse), slab, len(mean)/dim)
}

// Gemm multiplies in float32.
func (l *Learner) Gemm(ta, tb bool, m, n, k int, alpha float32, a, b []float32, beta float32, c []float32) {
	if m == 0 || n == 0 || l.d.failed != nil {
		return
	}
	l.d.flush()
	l.d.fail(l.d.blas.product(l.d.queue, ta, tb, m, n, k, alpha, on(a), on(b), beta, on(c)))
}

// Repeat sets rows to row.
func (l *Learner) Repeat(y, row []float32) {
	l.d.flat("learn_repeat", len(y), on(y), on(row), len(y), len(row))
}

// Sums adds up rows.
func (l *Learner) Sums(sum, x []float32, add bool) {
	l.d.launch("learn_sums", size{x: (len(sum) + 31) / 32, y: 1, z: 1, block: 1024}, on(sum), on(x), len(x)/len(sum), len(sum), add)
}

// Function is an elementwise function and its slope.
func (l *Learner) Function(f int, y, slope, x []float32) {
	l.d.flat("learn_function", len(x), on(y), on(slope), on(x), len(x), f)
}

// Multiply sets z = x y.
func (l *Learner) Multiply(z, x, y []float32) {
	l.d.flat("learn_multiply", len(z), on(z), on(x), on(y), len(z))
}

// Add sets z = x + y.
func (l *Learner) Add(z, x, y []float32) {
	l.d.flat("learn_add", len(z), on(z), on(x), on(y), len(z))
}

// Scale sets y = factor x.
func (l *Learner) Scale(y, x []float32, factor float32) {
	l.d.flat("learn_scale", len(x), on(y), on(x), factor, len(x))
}

// Round rounds rows as queries are.
func (l *Learner) Round(y, w []float32, cols, queryBits int) {
	rows := len(w) / cols
	l.d.launch("learn_round", size{x: (rows + 7) / 8, y: 1, z: 1, block: 256}, on(y), on(w), rows, cols, 1<<(queryBits-1)-1)
}

// Feedback adds what the bits before feed back.
func (l *Learner) Feedback(z, r []float32, bits, block int) {
	if bits > 256 {
		l.d.fail(fmt.Errorf("feedback of %d bits, 256 at most", bits))
		return
	}
	rows := len(z) / bits
	l.d.launch("learn_feedback", size{x: (rows + 63) / 64, y: 1, z: 1, block: 64}, on(z), on(r), rows, bits, block)
}

// FeedbackGradient is that of r.
func (l *Learner) FeedbackGradient(dr, z, dz []float32, bits, block int) {
	code := l.d.borrow("learn code", 4*len(z))
	if code == 0 {
		return
	}
	l.d.flat("learn_code", len(z), code, on(z), len(z))
	if l.d.failed == nil {
		l.d.fail(l.d.blas.product(l.d.queue, true, false, bits, bits, len(z)/bits, 1, on(dz), code, 0, on(dr)))
	}
	l.d.launch("learn_mask", size{x: bits, y: 1, z: 1, block: 64}, on(dr), bits, block)
}

// Targets are what attention makes of logits.
func (l *Learner) Targets(dst []float32, stride int, logits, edges []float32, m, heads int, apart bool, more, power float64, first, last bool) {
	rows := heads * m
	n, edge := len(logits)/rows, len(edges)/rows
	blocks := m
	if apart {
		blocks, m, heads, last = rows, rows, 1, false
	}
	l.d.launch("learn_targets", size{x: blocks, y: 1, z: 1, block: 512}, on(dst), stride, on(logits), on(edges), m, heads, n, edge, float32(more), float32(power), first, last)
}

// Top marks the largest.
func (l *Learner) Top(dst []float32, stride int, x []float32, keys, count int) {
	l.d.launch("learn_top", size{x: len(x) / keys, y: 1, z: 1, block: 512}, on(dst), stride, on(x), keys, min(count, keys))
}

// Loss turns scores into their gradients.
func (l *Learner) Loss(positive float64, scores, target []float32, keys, stride int) {
	rows := len(scores) / keys
	losses, total := l.d.borrow("learn losses", 4*rows), l.d.borrow("learn total", 4)
	if losses == 0 || total == 0 {
		return
	}
	l.d.launch("learn_loss", size{x: rows, y: 1, z: 1, block: 512}, losses, on(scores), on(target), keys, stride, float32(positive))
	l.d.launch("learn_total", size{x: 1, y: 1, z: 1, block: 512}, total, losses, rows)
}

// Total gives the sum of losses and clears it.
func (l *Learner) Total() (float64, error) {
	total := []float32{float32(math.NaN())}
	at := l.d.borrow("learn total", 4)
	if err := l.Get(total, onGPU[float32](cu.DevicePtr(at), 1)); err != nil {
		return 0, err
	}
	return float64(total[0]), l.d.zero(cu.DevicePtr(at), 4)
}
