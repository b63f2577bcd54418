//go:build gpu

package cuda

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
)

// recording is what Record knows of a step.
type recording struct {
	graph    graph
	revision int // of the scratch
	shapes   map[*kernels.Batch]batchShape
	exact    map[*kernels.Batch]int // batches whose length must not change
	plain    bool                   // the step cannot be recorded
	counts   []func()               // what a replay adds to Reads
}

// fits says whether nothing that launches depend on has changed.
func (r *recording) fits(d *Device) bool {
	if r.revision != d.revision {
		return false
	}
	for b, shape := range r.shapes {
		s, ok := b.Device.(*batch)
		if !ok || s.shape != shape {
			return false
		}
	}
	for b, longest := range r.exact {
		if b.Longest != longest {
			return false
		}
	}
	return true
}

// useExact is use for operations on the caller's scores and selections, whose
// sizes follow the context's exact length.
func (d *Device) useExact(b *kernels.Batch) *batch {
	s := d.use(b)
	if d.recording != nil {
		d.recording.exact[b] = b.Longest
	}
	return s
}

// Record implements kernels.Device: the first call of a key runs the step, so
// that scratch is allocated; the second records it as a graph; later ones
// replay it while batches keep their shape.
func (d *Device) Record(key any, step func()) {
	d.flush()
	if d.options.NoGraphs || d.recording != nil {
		step()
		return
	}
	r := d.graphs[key]
	if r == nil || r.plain || !r.fits(d) {
		d.forget(r)
		r = &recording{shapes: map[*kernels.Batch]batchShape{}, exact: map[*kernels.Batch]int{}}
		d.run(r, step)
		d.graphs[key] = r
		return
	}
	if r.graph.exec == nil {
		if d.failed != nil {
			return
		}
		r.counts = nil
		if err := d.queue.begin(); err != nil {
			d.fail(fmt.Errorf("recording: %w", err))
			return
		}
		d.capturing = true
		d.run(r, step)
		d.capturing = false
		g, err := d.queue.end()
		if err != nil {
			delete(d.graphs, key)
			d.fail(fmt.Errorf("recording: %w", err))
			return
		}
		r.graph = g
	} else {
		for _, count := range r.counts {
			count()
		}
	}
	d.fail(d.queue.replay(r.graph))
}

// run runs the step and notes what it depends on. bf16 copies made outside
// are not used inside, nor the other way: a replay would not renew them.
func (d *Device) run(r *recording, step func()) {
	d.shadows = [len(d.shadows)]shadow{}
	d.recording = r
	defer func() {
		d.recording = nil
		d.shadows = [len(d.shadows)]shadow{}
		r.revision = d.revision
	}()
	step()
	d.flush()
}

func (d *Device) forget(r *recording) {
	if r != nil {
		d.fail(d.queue.drop(r.graph))
	}
}

// count adds to Reads now and at every replay of the step being recorded.
func (d *Device) count(f func() (attended, cached int64)) {
	add := func() {
		a, c := f()
		d.reads.Attended += a
		d.reads.Cached += c
	}
	add()
	if d.recording != nil {
		d.recording.counts = append(d.recording.counts, add)
	}
}
