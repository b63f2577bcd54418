package latency

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
)

// gpu is what a data sheet says of a graphics card.
type gpu struct {
	bandwidth float64 // bytes per second
	memory    int64   // bytes
	marks     string  // its name as drivers spell it
}

const gb, gib = 1e9, 1 << 30

// gpus are the cards that Project knows, by NVIDIA's data sheets.
var gpus = map[string]gpu{
	"t4":       {320 * gb, 16 * gib, "Tesla T4"},
	"a10":      {600 * gb, 24 * gib, "NVIDIA A10"},
	"l4":       {300 * gb, 24 * gib, "NVIDIA L4"},
	"l40s":     {864 * gb, 48 * gib, "NVIDIA L40S"},
	"rtx4090":  {1008 * gb, 24 * gib, "NVIDIA GeForce RTX 4090"},
	"a100-40g": {1555 * gb, 40 * gib, "NVIDIA A100-SXM4-40GB"},
	"a100":     {2039 * gb, 80 * gib, "NVIDIA A100-SXM4-80GB"},
	"h100":     {3350 * gb, 80 * gib, "NVIDIA H100 80GB HBM3"},
	"h200":     {4800 * gb, 141 * gib, "NVIDIA H200"},
}

// GPUs are the names that Project knows.
func GPUs() []string { return slices.Sorted(maps.Keys(gpus)) }

// ProjectOptions says from what and to what Project goes.
type ProjectOptions struct {
	Rows []result.BenchRow // timed; those of whole attention steps count
	// Device is where they were timed, Bandwidth what it was measured to read.
	Device    kernels.Info
	Bandwidth float64
	Targets   []string
}

// Project says how long the attention steps that were timed here would take on
// other cards, by a roofline with a fixed cost: t = a + bytes / (e B). For each
// way of attending, a (launches and latencies) and e (the share of the
// bandwidth B reached) are fitted to the times here by least squares of the
// relative error; the target has its own B, the same a and e. The notes of the
// rows, which are marked projected, hold the formula and the fit's error here.
// It also gives those notes, one a fit and target.
func Project(o ProjectOptions) ([]result.BenchRow, []string, error) {
	if o.Device.Kind != "cuda" {
		return nil, nil, fmt.Errorf("project: the fixed costs of %s are not a graphics card's: time on one with --device cuda", o.Device.Kind)
	}
	b, basis := o.Bandwidth, "measured"
	for _, g := range gpus {
		if o.Device.Name == g.marks || strings.HasPrefix(o.Device.Name, g.marks+",") {
			b, basis = g.bandwidth, "data sheet"
		}
	}
	if !(b > 0) {
		return nil, nil, fmt.Errorf("project: device %s has no measured bandwidth to start from", o.Device.Name)
	}
	type kind struct{ selector, preset string }
	var order []kind
	byKind := map[kind][]result.BenchRow{}
	for _, r := range o.Rows {
		if r.Part != "attention" || r.Stage != "" || r.Projected {
			continue
		}
		k := kind{r.Selector, r.Preset}
		if byKind[k] == nil {
			order = append(order, k)
		}
		byKind[k] = append(byKind[k], r)
	}
	fits := map[kind]roofline{}
	for _, k := range order {
		f, err := fitRoofline(byKind[k])
		if err != nil {
			return nil, nil, fmt.Errorf("project: %s: %w", strings.TrimSpace(k.selector+" "+k.preset), err)
		}
		fits[k] = f
	}
	var rows []result.BenchRow
	var notes []string
	for _, name := range o.Targets {
		target, ok := gpus[name]
		if !ok {
			return nil, nil, fmt.Errorf("project: card %q is unknown (%s are known)", name, strings.Join(GPUs(), ", "))
		}
		dense := map[string]float64{}
		for _, k := range order {
			f := fits[k]
			note := fmt.Sprintf("projected: t = a + bytes / (e B) with a = %.3g us, e = %.3g of B = %.4g GB/s (%s), fitted on %s over %d sizes, error there mean %.1f%%, largest %.1f%%; on %s B = %.4g GB/s (data sheet)",
				f.fixed, 1e6/(f.perByte*b), b/gb, basis, o.Device.Name, f.sizes, 100*f.mean, 100*f.largest, name, target.bandwidth/gb)
			notes = append(notes, strings.TrimSpace(k.selector+" "+k.preset)+": "+note)
			for _, r := range byKind[k] {
				if r.Bytes > target.memory {
					continue // it would not fit
				}
				t := f.fixed + f.perByte*float64(r.Bytes)*b/target.bandwidth
				p := result.BenchRow{
					Part: r.Part, Device: name, Shape: r.Shape, Batch: r.Batch, Context: r.Context, Budget: r.Budget, Selector: r.Selector, Preset: r.Preset,
					Median: t, P10: t, P90: t, Density: r.Density, Bytes: r.Bytes, BandwidthShare: float64(r.Bytes) / (t / 1e6) / target.bandwidth,
					Projected: true, Note: note,
				}
				at := fmt.Sprint(r.Shape, r.Batch, r.Context)
				if r.Selector == "dense" {
					dense[at] = t
				}
				if p.Dense = dense[at]; p.Dense > 0 {
					p.Speedup = p.Dense / t
				}
				rows = append(rows, p)
			}
		}
	}
	return rows, notes, nil
}

// roofline is t = fixed + perByte * bytes, in microseconds.
type roofline struct {
	fixed, perByte float64
	sizes          int
	mean, largest  float64 // relative error over the rows fitted
}

// fitRoofline fits rows of at least 3 sizes: of 2 any line would do.
func fitRoofline(rows []result.BenchRow) (roofline, error) {
	sizes := map[int64]bool{}
	for _, r := range rows {
		if r.Bytes <= 0 || !(r.Median > 0) {
			return roofline{}, fmt.Errorf("%d bytes in %v us: want both above 0", r.Bytes, r.Median)
		}
		sizes[r.Bytes] = true
	}
	if len(sizes) < 3 {
		return roofline{}, fmt.Errorf("%d sizes were timed, a projection needs 3: give more contexts or batches", len(sizes))
	}
	// minimise sum ((a + s x - t) / t)^2 over rows
	var ww, wx, xx, w, x float64
	for _, r := range rows {
		u, v := 1/r.Median, float64(r.Bytes)/r.Median
		ww, wx, xx, w, x = ww+u*u, wx+u*v, xx+v*v, w+u, x+v
	}
	f := roofline{sizes: len(sizes)}
	det := ww*xx - wx*wx
	f.fixed, f.perByte = (w*xx-x*wx)/det, (ww*x-wx*w)/det
	if f.fixed < 0 { // times within noise of proportional
		f.fixed, f.perByte = 0, x/xx
	}
	if !(f.perByte > 0) || math.IsInf(f.perByte, 0) {
		return f, fmt.Errorf("the times timed here do not grow with the bytes read: time larger contexts or batches")
	}
	for _, r := range rows {
		e := math.Abs(f.fixed+f.perByte*float64(r.Bytes)-r.Median) / r.Median
		f.mean += e / float64(len(rows))
		f.largest = max(f.largest, e)
	}
	return f, nil
}
