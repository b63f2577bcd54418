package cpu

import (
	"fmt"
	"runtime"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Options are the choices of New.
type Options struct {
	// Threads below 1 means all processors.
	Threads int
}

// Device is the fast host device. What it does not override it takes from the
// reference device.
type Device struct {
	*kernels.Reference
	set  *kernelSet
	pool *pool
	info kernels.Info

	scratch []scratch // one per thread

	// jobs and memory that operations reuse, so that none allocates
	matvec  matvecJob
	few     fewJob
	pack    packJob
	batch   batchJob
	decode  decodeJob
	prefill prefillJob
	scan    scanJob
	top     topJob
	hash    hashState
	rerank  rerankJob
	keys    keysJob
	queries queriesJob
	padded  []float32 // activations with rows padded to whole registers
	packed  []float32 // activations packed for the matrix multiplication
}

var _ kernels.Device = (*Device)(nil)

// scratch is a thread's own memory.
type scratch struct {
	a, b, c []float32
	words   []uint32
	list    []int32
	cut     cutScratch
	encode  encodeScratch
	sums    [16]float32
	_       [64]byte // keeps threads' scratch on different cache lines
}

// New starts a device with its threads. It is an error when HASHATTN_CPU names
// kernels that this processor does not run.
func New(o Options) (*Device, error) {
	set, err := detected()
	if err != nil {
		return nil, err
	}
	threads := o.Threads
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	d := &Device{
		Reference: kernels.NewReference(), set: set, pool: newPool(threads), scratch: make([]scratch, threads),
		info: kernels.Info{Kind: "cpu", Name: fmt.Sprintf("%s, %d threads, %s", processor(), threads, set.name), Threads: threads, Memory: totalMemory(), Pass: 512},
	}
	return d, nil
}

// Info implements kernels.Device.
func (d *Device) Info() kernels.Info { return d.info }

// Close ends the device's threads.
func (d *Device) Close() error {
	d.pool.close()
	return nil
}

// Alloc implements kernels.Device.
func (d *Device) Alloc(t dtype.Type, shape ...int) (kernels.Tensor, error) {
	x, err := d.Reference.Alloc(t, shape...)
	if err == nil {
		useHugePages(x.Bytes())
	}
	return x, err
}

// NewCache implements kernels.Device.
func (d *Device) NewCache(s kernels.CacheSpec) (*kernels.Cache, error) {
	return kernels.AllocCache(d, s)
}

// weight is a matrix in its checkpoint's format, not copied.
type weight struct {
	kernels.Matrix
	formatKernels
	rowBytes int
	whole    int // values of a row that come in runs; the others are decoded one by one
	padded   int // columns, rounded up to whole registers
}

// Shape implements kernels.Weight.
func (w *weight) Shape() (rows, cols int) { return w.Rows, w.Cols }

// LoadMatrix implements kernels.Device. m.Data is used in place.
func (d *Device) LoadMatrix(m kernels.Matrix) (kernels.Weight, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	k, ok := d.set.formats[m.Type]
	if !ok {
		return nil, fmt.Errorf("weight %s: format %v is not a weight format of the cpu device", m.Name, m.Type)
	}
	lanes := d.set.lanes
	return &weight{m, k, len(m.Data) / m.Rows, m.Cols / k.length * k.length, (m.Cols + lanes - 1) / lanes * lanes}, nil
}

// decode writes columns lo to hi of row i to dst; lo is a multiple of the run
// length, hi too or the number of columns.
func (w *weight) decode(dst []float32, i, lo, hi int) {
	row := w.Data[i*w.rowBytes:][:w.rowBytes]
	runBytes := w.length / w.Type.BlockLen() * w.Type.BlockBytes()
	whole := min(hi, w.whole)
	if whole > lo {
		w.dequant((whole-lo)/w.length, &row[lo/w.length*runBytes], &dst[0])
	}
	if hi > whole {
		from := max(lo, whole)
		size := w.Type.BlockBytes()
		if err := dtype.ToF32(dst[from-lo:hi-lo], w.Type, row[from*size:hi*size]); err != nil {
			panic(err)
		}
	}
}

// Embed implements kernels.Device.
func (d *Device) Embed(out kernels.Tensor, table kernels.Weight, tokens kernels.Tensor, scale float32) {
	w := table.(*weight)
	o := out.F32()
	for t, id := range tokens.I32() {
		row := o[t*w.Cols : (t+1)*w.Cols]
		w.decode(row, int(id), 0, w.Cols)
		if scale != 1 {
			for i := range row {
				row[i] *= scale
			}
		}
	}
}
