//go:build gpu

package cuda

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"gorgonia.org/cu"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// compiled holds the kernels: NAME.sm_XY.cubin for the GPUs of that major
// version, NAME.compute_90.ptx for later ones, NAME.compute_80.ptx to try the
// kernels of 8.x on any.
//
//go:embed compiled/*.cubin compiled/*.ptx
var compiled embed.FS

// Device is an NVIDIA GPU. It implements kernels.Device.
type Device struct {
	options Options
	info    DeviceInfo
	code    string // which compiled kernels run, e.g. "sm_90"
	driver  string // path of libcuda

	context   cu.CUContext
	stream    cu.Stream
	queue     queue
	modules   []module
	functions map[string]*function
	blas      *blas

	failed    error // first failure since the last Synchronize
	scratch   map[string]*buffer
	live      map[cu.DevicePtr]struct{} // tensors and weights
	batches   batchPool
	retired   []cu.DevicePtr // outgrown scratch, freed when nothing is queued
	revision  int            // of the scratch: recorded steps hold its addresses
	shadows   [3]shadow
	held      held
	last      *weight // of the last product of few rows
	reads     kernels.Reads
	graphs    map[any]*recording
	recording *recording // the step being run by Record
	encoded   *batch     // whose codes were written since all queued work was known to be done
	ahead     string     // the last kernel queued, if one of clusters
	capturing bool
}

var _ kernels.Device = (*Device)(nil)

// module is loaded kernels.
type module struct {
	cu.Module
	image string
}

// has says whether the module defines a kernel: as a symbol of machine code or
// an entry of PTX.
func (m module) has(kernel string) bool {
	return strings.Contains(m.image, "\x00"+kernel+"\x00") || strings.Contains(m.image, ".entry "+kernel+"(")
}

// blasWorkspace is what cuBLAS gets for split products on Hopper.
const blasWorkspace = 32 << 20

// Devices lists the GPUs.
func Devices() ([]DeviceInfo, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := openDriver(); err != nil {
		return nil, err
	}
	count, err := cu.NumDevices()
	if err != nil {
		return nil, fmt.Errorf("no usable GPU: %w", err)
	}
	infos := make([]DeviceInfo, 0, count)
	for i := range count {
		info, err := describe(i)
		if err != nil {
			return nil, fmt.Errorf("GPU %d: %w", i, err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func describe(index int) (DeviceInfo, error) {
	dev, err := cu.GetDevice(index)
	if err != nil {
		return DeviceInfo{}, err
	}
	info := DeviceInfo{Index: index}
	if info.Name, err = dev.Name(); err != nil {
		return info, err
	}
	if info.Memory, err = dev.TotalMem(); err != nil {
		return info, err
	}
	attributes, err := dev.Attributes(cu.ComputeCapabilityMajor, cu.ComputeCapabilityMinor, cu.MultiprocessorCount, cu.L2CacheSize)
	if err != nil {
		return info, err
	}
	info.Capability = fmt.Sprintf("%d.%d", attributes[0], attributes[1])
	info.Multiprocessors, info.L2 = attributes[2], attributes[3]
	v := cu.Version()
	info.Driver = fmt.Sprintf("CUDA %d.%d", v/1000, v%1000/10)
	context, err := dev.RetainPrimaryCtx()
	if err != nil {
		return info, err
	}
	if err := cu.SetCurrentContext(context); err != nil {
		return info, err
	}
	info.Free, _, err = cu.MemInfo()
	return info, err
}

// codeFor names the compiled kernels for a compute capability: machine code
// runs on its own major version from its minor version on, PTX on later GPUs.
func codeFor(major, minor int) (string, error) {
	switch {
	case major > 9:
		return "compute_90", nil
	case major == 9:
		return "sm_90", nil
	case major == 8 && minor >= 9:
		return "sm_89", nil
	case major == 8:
		return "sm_80", nil
	}
	return "", fmt.Errorf("compute capability %d.%d, the kernels need 8.0 (Ampere) or later", major, minor)
}

// images reads the compiled kernels of a code, by source name.
func images(code string) (map[string]string, error) {
	all, err := compiled.ReadDir("compiled")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range all {
		name, rest, _ := strings.Cut(f.Name(), ".")
		if rest != code+".cubin" && rest != code+".ptx" {
			continue
		}
		b, err := compiled.ReadFile("compiled/" + f.Name())
		if err != nil {
			return nil, err
		}
		out[name] = string(b)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no kernels for %s in this binary", code)
	}
	return out, nil
}

// blasCandidates lists where libcublas may be, the chosen path first.
func blasCandidates(chosen string) []string {
	var paths []string
	for _, p := range []string{chosen, os.Getenv("HASHATTN_CUBLAS")} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	paths = append(paths, "libcublas.so.13", "libcublas.so.12")
	patterns := []string{
		"/usr/local/cuda*/lib64/libcublas.so.1[23]", "/usr/local/cuda*/targets/*/lib/libcublas.so.1[23]",
		"/usr/lib/x86_64-linux-gnu/libcublas.so.1[23]",
		"/usr/lib/python3*/*-packages/nvidia/*/lib/libcublas.so.1[23]", "/usr/local/lib/python3*/*-packages/nvidia/*/lib/libcublas.so.1[23]",
	}
	for _, venv := range []string{os.Getenv("VIRTUAL_ENV"), os.Getenv("CONDA_PREFIX")} {
		if venv != "" {
			patterns = append(patterns, filepath.Join(venv, "lib/python3*/site-packages/nvidia/*/lib/libcublas.so.1[23]"))
		}
	}
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err == nil {
			slices.Sort(found)
			slices.Reverse(found)
			paths = append(paths, found...)
		}
	}
	return paths
}

// Open starts a GPU. The error says what is missing: driver, GPU, a recent
// enough architecture, cuBLAS.
func Open(o Options) (kernels.Device, error) {
	infos, err := Devices()
	if err != nil {
		return nil, err
	}
	if o.Device < 0 || o.Device >= len(infos) {
		return nil, fmt.Errorf("GPU %d: this machine has %d", o.Device, len(infos))
	}
	d := &Device{options: o, info: infos[o.Device], functions: map[string]*function{}, scratch: map[string]*buffer{}, graphs: map[any]*recording{}, live: map[cu.DevicePtr]struct{}{}}
	if err := d.start(); err != nil {
		return nil, fmt.Errorf("GPU %d (%s): %w", o.Device, d.info.Name, errors.Join(err, d.Close()))
	}
	return d, nil
}

func (d *Device) start() (err error) {
	var major, minor int
	if _, err := fmt.Sscanf(d.info.Capability, "%d.%d", &major, &minor); err != nil {
		return err
	}
	if d.code, err = codeFor(major, minor); err != nil {
		return err
	}
	if d.options.Code != "" {
		d.code, major = d.options.Code, 8
	}
	if major < 9 {
		d.options.NoClusters = true
	}
	if d.driver, err = openDriver(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dev, err := cu.GetDevice(d.options.Device)
	if err != nil {
		return err
	}
	if d.context, err = dev.RetainPrimaryCtx(); err != nil {
		return err
	}
	if err := cu.SetCurrentContext(d.context); err != nil {
		return err
	}
	if d.stream, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return err
	}
	d.queue = queue{handle(d.context), handle(d.stream), major >= 9}
	modules, err := images(d.code)
	if err != nil {
		return err
	}
	for name, image := range modules {
		m, err := cu.LoadData(image)
		if err != nil {
			return fmt.Errorf("kernels %s for %s: %w", name, d.code, err)
		}
		d.modules = append(d.modules, module{m, image})
	}
	workspace, err := d.alloc(blasWorkspace)
	if err != nil {
		return err
	}
	d.scratch["blas"] = &buffer{workspace, blasWorkspace}
	d.blas, err = openBLAS(d.queue, blasCandidates(d.options.BLAS), workspace, blasWorkspace)
	return err
}

// do runs f on a thread where the context is current, for calls of package cu.
func (d *Device) do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cu.SetCurrentContext(d.context); err != nil {
		return err
	}
	return f()
}

// fail keeps the first failure for Synchronize.
func (d *Device) fail(err error) {
	if err != nil && d.failed == nil {
		d.failed = err
	}
}

// Info implements kernels.Device.
func (d *Device) Info() kernels.Info {
	return kernels.Info{
		Kind: "cuda", Memory: d.info.Memory, Threads: d.info.Multiprocessors,
		Name:   fmt.Sprintf("%s, %s", d.info.Name, d.code),
		Driver: fmt.Sprintf("%s, cuBLAS %d", d.info.Driver, d.blas.version),
		Pass:   8192, // a 1.5B model's 16K take 216 ms in passes of 2048, 181 ms in these
	}
}

// Libraries are the paths of the libraries in use, for diagnosis.
func (d *Device) Libraries() (driver, blas string) { return d.driver, d.blas.path }

// Synchronize implements kernels.Device.
func (d *Device) Synchronize() error {
	d.flush()
	d.encoded = nil
	err := d.do(func() error {
		if err := d.stream.Synchronize(); err != nil {
			return err
		}
		for _, p := range d.retired {
			if err := cu.MemFree(p); err != nil {
				return err
			}
		}
		d.retired = nil
		return nil
	})
	if d.failed != nil {
		err, d.failed = d.failed, nil
	}
	return err
}

// Reads implements kernels.Device.
func (d *Device) Reads() kernels.Reads { return d.reads }

// ResetReads implements kernels.Device.
func (d *Device) ResetReads() { d.reads = kernels.Reads{} }

// Close frees all that lives on the device: tensors, weights, scratch, kernels.
func (d *Device) Close() error {
	return d.do(func() error {
		var errs []error
		if d.queue.stream != nil {
			errs = append(errs, d.stream.Synchronize())
		}
		if d.blas != nil {
			d.blas.close(d.queue)
			d.blas = nil
		}
		for key, r := range d.graphs {
			errs = append(errs, d.queue.drop(r.graph))
			delete(d.graphs, key)
		}
		for p := range d.live {
			errs = append(errs, cu.MemFree(p))
		}
		clear(d.live)
		d.batches.mu.Lock()
		for _, b := range d.batches.free {
			errs = append(errs, cu.MemFree(b.ptr))
		}
		d.batches.free = nil
		d.batches.mu.Unlock()
		for name, b := range d.scratch {
			errs = append(errs, cu.MemFree(b.ptr))
			delete(d.scratch, name)
		}
		for _, p := range d.retired {
			errs = append(errs, cu.MemFree(p))
		}
		d.retired = nil
		for _, m := range d.modules {
			errs = append(errs, m.Unload())
		}
		d.modules, d.functions = nil, map[string]*function{}
		if d.queue.stream != nil {
			errs = append(errs, d.stream.Destroy())
			d.queue.stream = nil
		}
		return errors.Join(errs...)
	})
}

// function finds a kernel.
func (d *Device) function(name string) (*function, error) {
	if f := d.functions[name]; f != nil {
		return f, nil
	}
	f := &function{name: name}
	err := d.do(func() error {
		for _, m := range d.modules {
			if m.has(name) {
				var err error
				f.fn, err = m.Function(name)
				return err
			}
		}
		return fmt.Errorf("no kernel %s for %s", name, d.code)
	})
	if err != nil {
		return nil, err
	}
	d.functions[name] = f
	return f, nil
}

// size is a launch: blocks, threads of a block, dynamic shared memory, blocks
// of a cluster (0: none).
type size struct {
	x, y, z                int
	block, shared, cluster int
	early                  bool // a cluster that has work before its wait
}

// launch queues a kernel; a failure is kept. Arguments are ints (for int and
// long long parameters), float32, tensors (their address, 0 if none), uint64
// addresses, and structs of 8-byte words (by value).
func (d *Device) launch(name string, s size, args ...any) {
	d.flush()
	d.queueKernel(name, s, args...)
}

// queueKernel is launch past what is held.
func (d *Device) queueKernel(name string, s size, args ...any) {
	if s.x < 1 || s.y < 1 || s.z < 1 {
		return // nothing to do
	}
	if d.failed != nil {
		return // operands may lack memory; Synchronize reports the first failure
	}
	f, err := d.function(name)
	if err == nil {
		err = d.queue.allow(f, s.shared)
	}
	if err == nil && s.cluster > 8 {
		err = d.queue.allowClusters(f)
	}
	if err == nil {
		words, at := encode(args)
		err = d.queue.launch(f, [3]int{s.x, s.y, s.z}, s.block, s.shared, s.cluster, s.cluster == 0 || s.early && d.mayOverlap(name), words, at)
		d.ahead = ""
		if s.cluster > 0 {
			d.ahead = name
		}
	}
	if err != nil {
		d.fail(fmt.Errorf("kernel %s, %d x %d x %d blocks of %d: %w", name, s.x, s.y, s.z, s.block, err))
	}
}

// mayOverlap says whether a kernel of clusters may start before the one ahead
// has ended: not behind other clusters, except the fused kernel behind the
// encoding of its queries, the one pair that decode steps have. Two launches of
// one kernel of clusters were once seen never to end on an H100. Today's kernels
// ended 40,000 such launches without this rule, and no block waits for one that
// need not have started by then: a kernel starts when all blocks of the one ahead
// have, and clusters exchange data after all their blocks have started. What
// hung is not known, and in a step the rule costs nothing.
func (d *Device) mayOverlap(name string) bool {
	return d.ahead == "" || strings.HasPrefix(d.ahead, "encode_") && strings.HasPrefix(name, "fused_")
}

// alloc takes device memory; the error gives the sizes.
func (d *Device) alloc(bytes int) (cu.DevicePtr, error) {
	var p cu.DevicePtr
	err := d.do(func() (err error) {
		if p, err = cu.MemAlloc(int64(max(bytes, 256))); err != nil {
			free, total, _ := cu.MemInfo()
			err = fmt.Errorf("%d MiB of GPU memory: %w (%d of %d MiB free)", bytes>>20, err, free>>20, total>>20)
		}
		return err
	})
	return p, err
}

// buffer is scratch memory that grows.
type buffer struct {
	ptr   cu.DevicePtr
	bytes int
}

// borrow gives scratch of a name, at least bytes long and zeroed when made.
// Outgrown scratch lives until the queue is empty; recorded steps that hold
// it are recorded anew. A failure is kept and gives address 0.
func (d *Device) borrow(name string, bytes int) uint64 {
	b := d.scratch[name]
	if b != nil && b.bytes >= bytes {
		return uint64(b.ptr)
	}
	if d.failed != nil {
		return 0
	}
	if b != nil {
		d.retired = append(d.retired, b.ptr)
		delete(d.scratch, name)
		bytes = max(bytes, b.bytes*5/4)
	}
	p, err := d.alloc(bytes)
	if err == nil {
		err = d.zero(p, bytes)
	}
	if err != nil {
		d.fail(fmt.Errorf("scratch %s: %w", name, err))
		return 0
	}
	d.scratch[name] = &buffer{p, bytes}
	d.revision++
	return uint64(p)
}

// zero clears memory in stream order, but never as part of a recording.
func (d *Device) zero(p cu.DevicePtr, bytes int) error {
	if d.capturing {
		return d.do(func() error { return cu.MemsetD8(p, 0, int64(bytes)) })
	}
	return d.do(func() error { return cu.MemsetD8Async(p, 0, int64(bytes), d.stream) })
}

// address is where a tensor starts, 0 for none.
func address(t kernels.Tensor) uint64 {
	if t.None() {
		return 0
	}
	return t.Memory.(memory).ptr
}

// want panics unless t is of the type; a wrong operand is a bug of the caller.
func want(what string, t kernels.Tensor, types ...dtype.Type) {
	if !t.None() && !slices.Contains(types, t.Type) {
		panic(fmt.Sprintf("kernels: %s is %v %v, want %v", what, t.Type, t.Shape, types))
	}
}
