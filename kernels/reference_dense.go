package kernels

import (
	"fmt"
	"math"
)

// Embed implements Device.
func (r *Reference) Embed(out Tensor, table Weight, tokens Tensor, scale float32) {
	w := table.(*referenceWeight)
	for t, id := range tokens.I32() {
		for i, v := range w.values[int(id)*w.cols : (int(id)+1)*w.cols] {
			out.F32()[t*w.cols+i] = v * scale
		}
	}
}

// RMSNorm implements Device (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4).
func (r *Reference) RMSNorm(out, x, gain Tensor, eps float32) {
	g := gain.F32()
	width := len(g)
	in, o := x.F32(), out.F32()
	for at := 0; at < len(in); at += width {
		xs := in[at : at+width]
		scale := 1 / math.Sqrt(dot(xs, xs)/float64(width)+float64(eps))
		for i, v := range xs {
			o[at+i] = float32(float64(v)*scale) * g[i]
		}
	}
}

// Linear implements Device.
func (r *Reference) Linear(out, x Tensor, weight Weight, bias Tensor, add bool) {
	w := weight.(*referenceWeight)
	in, o := x.F32(), out.F32()
	if len(in)%w.cols != 0 || len(o) != len(in)/w.cols*w.rows {
		panic(fmt.Sprintf("kernels: linear of %v to %v by [%d %d]", x.Shape, out.Shape, w.rows, w.cols))
	}
	for t := range len(in) / w.cols {
		for j := range w.rows {
			z := dot(in[t*w.cols:(t+1)*w.cols], w.values[j*w.cols:(j+1)*w.cols])
			if !bias.None() {
				z += float64(bias.F32()[j])
			}
			if add {
				z += float64(o[t*w.rows+j])
			}
			o[t*w.rows+j] = float32(z)
		}
	}
}

// Gate implements Device.
func (r *Reference) Gate(out, gate, up Tensor, act Activation) {
	o, g, u := out.F32(), gate.F32(), up.F32()
	for i := range o {
		o[i] = float32(act.apply(float64(g[i])) * float64(u[i]))
	}
}

func (a Activation) apply(x float64) float64 {
	switch a {
	case SiLU:
		return silu(x)
	case GELUTanh: // Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}
	panic(fmt.Sprintf("kernels: activation %d", a))
}

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }

// Add implements Device.
func (r *Reference) Add(x, y Tensor) {
	xs, ys := x.F32(), y.F32()
	for i := range xs {
		xs[i] += ys[i]
	}
}

// RopeTable implements Device (Su et al. 2021, arXiv 2104.09864).
func (r *Reference) RopeTable(cos, sin, freq Tensor, b *Batch) {
	f := freq.F32()
	b.Row(func(row int, _ *Segment, p int) {
		for i, w := range f {
			// transformers multiplies position and frequency in float32
			angle := float64(float32(p) * w)
			cos.F32()[row*len(f)+i] = float32(math.Cos(angle))
			sin.F32()[row*len(f)+i] = float32(math.Sin(angle))
		}
	})
}

// Rope implements Device.
func (r *Reference) Rope(x, cos, sin Tensor) {
	heads, d, half := x.Dim(1), x.Dim(2), cos.Dim(1)
	xs := x.F32()
	for t := range x.Dim(0) {
		c, s := cos.F32()[t*half:], sin.F32()[t*half:]
		for h := range heads {
			v := xs[(t*heads+h)*d:]
			for i := range half {
				a, b := float64(v[i]), float64(v[i+half])
				v[i] = float32(a*float64(c[i]) - b*float64(s[i]))
				v[i+half] = float32(a*float64(s[i]) + b*float64(c[i]))
			}
		}
	}
}

// ArgMax implements Device.
func (r *Reference) ArgMax(out, x Tensor) {
	width := x.Dim(-1)
	for t := range out.I32() {
		best := 0
		xs := x.F32()[t*width : (t+1)*width]
		for i, v := range xs {
			if v > xs[best] {
				best = i
			}
		}
		out.I32()[t] = int32(best)
	}
}

// NegLogLikelihood implements Device.
func (r *Reference) NegLogLikelihood(out, logits, targets Tensor) {
	width := logits.Dim(-1)
	for t, target := range targets.I32() {
		xs := logits.F32()[t*width : (t+1)*width]
		top, sum := math.Inf(-1), 0.0
		for _, v := range xs {
			top = math.Max(top, float64(v))
		}
		for _, v := range xs {
			sum += math.Exp(float64(v) - top)
		}
		out.F32()[t] = float32(top + math.Log(sum) - float64(xs[target]))
	}
}
