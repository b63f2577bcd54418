//go:build gpu

package cuda

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// memory is a span of GPU memory.
type memory struct {
	ptr  uint64
	size int
}

// Slice implements kernels.Memory.
func (m memory) Slice(offset, size int) kernels.Memory {
	if offset < 0 || size < 0 || offset+size > m.size {
		panic(fmt.Sprintf("cuda: bytes %d to %d of %d", offset, offset+size, m.size))
	}
	return memory{m.ptr + uint64(offset), size}
}

// sizeOf is the bytes of a tensor; it is an error when that overflows.
func sizeOf(t dtype.Type, shape []int) (int, error) {
	n := uint64(1)
	for _, s := range shape {
		hi, lo := bits.Mul64(n, uint64(s))
		if s < 0 || hi != 0 || lo > 1<<50 {
			return 0, fmt.Errorf("tensor of shape %v is too large", shape)
		}
		n = lo
	}
	return t.Bytes(int(n))
}

// keep allocates what lives until it is freed or the device closed.
func (d *Device) keep(bytes int) (cu.DevicePtr, error) {
	p, err := d.alloc(bytes)
	if err == nil {
		d.live[p] = struct{}{}
	}
	return p, err
}

// Alloc implements kernels.Device.
func (d *Device) Alloc(t dtype.Type, shape ...int) (kernels.Tensor, error) {
	bytes, err := sizeOf(t, shape)
	if err != nil {
		return kernels.Tensor{}, err
	}
	p, err := d.keep(bytes)
	if err != nil {
		return kernels.Tensor{}, fmt.Errorf("tensor %v %v: %w", t, shape, err)
	}
	if err := d.zero(p, max(bytes, 256)); err != nil {
		return kernels.Tensor{}, err
	}
	return kernels.Tensor{Type: t, Shape: append([]int(nil), shape...), Memory: memory{uint64(p), bytes}}, nil
}

// Free implements kernels.Device. Queued operations finish first.
func (d *Device) Free(t kernels.Tensor) {
	if t.None() {
		return
	}
	d.flush()
	d.wrote(t)
	d.fail(d.do(func() error {
		if err := d.stream.Synchronize(); err != nil {
			return err
		}
		p := cu.DevicePtr(address(t))
		delete(d.live, p)
		return cu.MemFree(p)
	}))
}

// Upload implements kernels.Device.
func (d *Device) Upload(dst kernels.Tensor, src []byte) error {
	m, ok := dst.Memory.(memory)
	if !ok {
		return fmt.Errorf("upload to a tensor of another device")
	}
	if m.size != len(src) {
		return fmt.Errorf("upload of %d bytes to a tensor of %d", len(src), m.size)
	}
	d.wrote(dst)
	return d.copyIn(m.ptr, src)
}

// copyIn copies host bytes to the GPU in stream order; src may be reused at
// once.
func (d *Device) copyIn(to uint64, src []byte) error {
	d.flush()
	if len(src) == 0 {
		return nil
	}
	if d.capturing {
		return fmt.Errorf("cuda: upload inside a recorded step")
	}
	d.encoded = nil // a copy starts behind all kernels
	return d.do(func() error {
		return cu.MemcpyHtoDAsync(cu.DevicePtr(to), unsafe.Pointer(unsafe.SliceData(src)), int64(len(src)), d.stream)
	})
}

// Download implements kernels.Device.
func (d *Device) Download(dst []byte, src kernels.Tensor) error {
	m := src.Memory.(memory)
	if m.size != len(dst) {
		return fmt.Errorf("download of a tensor of %d bytes to %d", m.size, len(dst))
	}
	if err := d.Synchronize(); err != nil {
		return err
	}
	if len(dst) == 0 {
		return nil
	}
	return d.do(func() error {
		return cu.MemcpyDtoH(unsafe.Pointer(unsafe.SliceData(dst)), cu.DevicePtr(m.ptr), int64(len(dst)))
	})
}

// Copy implements kernels.Device.
func (d *Device) Copy(dst, src kernels.Tensor) {
	kernels.CheckCopy(dst, src)
	d.flush()
	d.wrote(dst)
	d.fail(d.do(func() error {
		return cu.MemcpyDtoDAsync(cu.DevicePtr(address(dst)), cu.DevicePtr(address(src)), int64(src.Memory.(memory).size), d.stream)
	}))
}

// room checks that bytes fit before work starts; what names them.
func (d *Device) room(what string, bytes int64) error {
	var free, total int64
	err := d.do(func() (err error) {
		free, total, err = cu.MemInfo()
		return err
	})
	if err != nil {
		return err
	}
	// the allocator rounds up, and kernels need scratch
	if reserve := int64(64 << 20); bytes > free-reserve {
		return fmt.Errorf("%s takes %d MiB, but %d of %d MiB are free on %s", what, bytes>>20, free>>20, total>>20, d.info.Name)
	}
	return nil
}

// NewCache implements kernels.Device.
func (d *Device) NewCache(s kernels.CacheSpec) (*kernels.Cache, error) {
	if s.Layers < 1 || s.KVHeads < 1 || s.HeadDim < 1 || s.Capacity < 1 {
		return nil, fmt.Errorf("cache of %d layers, %d heads of %d, %d tokens", s.Layers, s.KVHeads, s.HeadDim, s.Capacity)
	}
	if s.HeadDim > 256 {
		return nil, fmt.Errorf("head dimension %d, attention kernels take up to 256", s.HeadDim)
	}
	if _, err := sizeOf(dtype.F32, []int{2, s.Layers, s.KVHeads, s.HeadDim, s.Capacity}); err != nil {
		return nil, err
	}
	if err := d.room(fmt.Sprintf("cache of %d tokens", s.Capacity), s.Bytes()); err != nil {
		return nil, err
	}
	return kernels.AllocCache(d, s)
}

// padded is the row length of weights and of the activations they multiply:
// whole 16-byte loads of four lanes.
func padded(cols int) int { return (cols + 31) / 32 * 32 }

// weight is a matrix in bf16, rows padded with zeros, or in float32 rows.
type weight struct {
	ptr                uint64
	wide               bool // float32
	rows, cols, stride int
	next               *weight // whose product followed last time
}

// Shape implements kernels.Weight.
func (w *weight) Shape() (rows, cols int) { return w.rows, w.cols }

// LoadMatrix implements kernels.Device: the raw blocks travel, a kernel turns
// them into the device's numbers.
func (d *Device) LoadMatrix(m kernels.Matrix) (kernels.Weight, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	switch m.Type {
	case dtype.F32, dtype.F16, dtype.BF16, dtype.Q4_0, dtype.Q4_1, dtype.Q5_0, dtype.Q5_1, dtype.Q8_0, dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K:
	default:
		return nil, fmt.Errorf("weight %s: no kernel for format %v", m.Name, m.Type)
	}
	w := &weight{rows: m.Rows, cols: m.Cols, stride: padded(m.Cols)}
	kernel, bytes := "dequant_"+m.Type.String(), 2
	if d.options.Precise {
		w.wide, w.stride = true, w.cols
		kernel, bytes = "wide_"+kernel, 4
	}
	p, err := d.keep(bytes * w.rows * w.stride)
	if err != nil {
		return nil, fmt.Errorf("weight %s [%d %d]: %w", m.Name, m.Rows, m.Cols, err)
	}
	w.ptr = uint64(p)
	raw := d.borrow("raw", len(m.Data))
	if raw == 0 {
		return nil, fmt.Errorf("weight %s: %w", m.Name, d.Synchronize())
	}
	if err := d.copyIn(raw, m.Data); err != nil {
		return nil, fmt.Errorf("weight %s: %w", m.Name, err)
	}
	n := w.rows * w.stride
	d.launch(kernel, size{x: min((n+255)/256, 64*d.info.Multiprocessors), y: 1, z: 1, block: 256}, w.ptr, raw, w.cols, w.stride, w.rows)
	// products load weights before they wait for the kernel ahead
	if err := d.Synchronize(); err != nil {
		return nil, fmt.Errorf("weight %s: %w", m.Name, err)
	}
	return w, nil
}

// encoder is a learned map on the GPU: every weight in row and column form.
type encoder struct {
	p    kernels.Projection
	args encodeArgs
}

// Projection implements kernels.Encoder.
func (e *encoder) Projection() kernels.Projection { return e.p }

// LoadProjection implements kernels.Device.
func (d *Device) LoadProjection(p kernels.Projection) (kernels.Encoder, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if len(p.Layers) > 5 {
		return nil, fmt.Errorf("%s: %d layers, the encoder kernel takes 5", p.Name, len(p.Layers))
	}
	if p.Out() > 256 {
		return nil, fmt.Errorf("%s: %d bits, the encoder kernel takes 256", p.Name, p.Out())
	}
	e := &encoder{p: p, args: encodeArgs{heads: int32(p.Heads), in: int32(p.In()), bits: int32(p.Out()), blockBits: int32(p.BlockBits), wordsOfCode: int32(p.Words()), layers: int32(len(p.Layers))}}
	put := func(v []float32) (uint64, error) {
		ptr, err := d.keep(4 * len(v))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.Name, err)
		}
		return uint64(ptr), d.copyIn(uint64(ptr), dtype.Bytes(v))
	}
	layer := func(i int, a kernels.Affine) (err error) {
		e.args.out[i] = int32(a.Out)
		if e.args.w[i], err = put(a.Weight); err != nil {
			return err
		}
		if e.args.t[i], err = put(columns(a, p.Heads)); err != nil {
			return err
		}
		e.args.b[i], err = put(a.Bias)
		return err
	}
	width := p.Out()
	for i, a := range p.Layers {
		width = max(width, a.Out)
		if err := layer(i, a); err != nil {
			return nil, err
		}
	}
	e.args.width = int32((width + 3) / 4 * 4)
	if p.Skip != nil {
		e.args.skip = 1
		if err := layer(5, *p.Skip); err != nil {
			return nil, err
		}
	}
	if p.Feedback != nil {
		var err error
		if e.args.feedback, err = put(p.Feedback); err != nil {
			return nil, err
		}
	}
	if few := e.shared(1, 1, false); few > 220<<10 {
		return nil, fmt.Errorf("%s: %d inputs and layers of up to %d need %d KiB of shared memory, a block has 220", p.Name, p.In(), width, few>>10)
	}
	return e, nil
}

// perHead is the bytes of one head's weights.
func (e *encoder) perHead() int {
	n := 0
	for _, a := range e.p.Layers {
		n += 4 * a.In * a.Out
	}
	if e.p.Skip != nil {
		n += 4 * e.p.Skip.In * e.p.Skip.Out
	}
	return n
}

// shared is the shared memory of a block of encode_few that takes rows rows, one
// of blocks; staged if it holds its share of the weights, which takes rows of
// whole 16 bytes.
func (e *encoder) shared(rows, blocks int, staged bool) int {
	a := e.args
	in, bits, width := int(a.in+3)/4*4, int(a.bits+3)/4*4, int(a.width)
	n := rows*in + 2*rows*width + 2*rows*bits + (int(a.layers)+1)*width
	if a.feedback != 0 {
		n += (int(a.bits*(a.bits+1)) + 3) / 4 * 4 // rows padded against bank conflicts
	}
	if staged {
		affines := e.p.Layers
		if e.p.Skip != nil {
			affines = append(slices.Clone(affines), *e.p.Skip)
		}
		for _, f := range affines {
			if f.In%4 != 0 {
				return math.MaxInt
			}
			n += (f.Out + 4*blocks - 1) / (4 * blocks) * 4 * f.In // slices of whole fours
		}
	}
	return 4 * n
}

func (e *encoder) manyShared() int {
	return 4 * 16 * int(e.args.in+2*e.args.width+e.args.bits)
}

// columns is a's weights as [heads, in, out].
func columns(a kernels.Affine, heads int) []float32 {
	t := make([]float32, len(a.Weight))
	for h := range heads {
		w, c := a.Weight[h*a.In*a.Out:], t[h*a.In*a.Out:]
		for o := range a.Out {
			for i := range a.In {
				c[i*a.Out+o] = w[o*a.In+i]
			}
		}
	}
	return t
}
