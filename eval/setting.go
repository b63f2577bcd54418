package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/mapping"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/shape"
	"github.com/hashattn/hashattn/model/trace"
)

// Setting is one way of attending that is measured: a selector under a rule of
// selection. The budget varies beside it.
type Setting struct {
	// Selector names the method in rows: "hash" for learned mappings, else the
	// scorer's name, with "+calibrated" behind it where token sets have shares
	// of the budget, "+rerank2x" where candidates are reranked and "+p0.9"
	// where sets are cut at a share of the mass.
	Selector string
	Preset   string // of a learned mapping
	// Identity tells settings apart that have one name: it covers the mapping
	// or the method with its options, and the rule of selection.
	Identity string
	Scorer   selector.Scorer
	// Selection's Budget is replaced by the budgets measured.
	Selection   kernels.Selection
	DenseLayers []int
	// Shares divide the budget among token sets; nil: evenly.
	Shares *mapping.Shares
}

// Source says where a Setting comes from: a mapping, or a method's description
// such as "quest:page=16".
type Source struct {
	Mapping *mapping.Mapping
	Method  string
	// Sink, Local and Candidates are the rule of selection; a mapping's own
	// where negative.
	Sink, Local, Candidates int
	DenseLayers             []int
	// Mass above 0 cuts sets at this share of the estimated attention mass.
	Mass float64
	// Uniform leaves out the shares of a calibrated mapping.
	Uniform bool
}

// NewSetting makes a source's scorer on a device. samples may be nil where no
// method asks for it.
func NewSetting(d kernels.Device, m shape.Model, scale float32, src Source, samples selector.Samples) (Setting, error) {
	at := selector.Shape{Model: m, Scale: scale}
	set := Setting{DenseLayers: src.DenseLayers}
	set.Selection = kernels.Selection{Sink: src.Sink, Local: src.Local, Candidates: src.Candidates, Mass: src.Mass}
	var err error
	if src.Mapping == nil {
		set.Scorer, err = selector.New(selector.Env{Device: d, Shape: at, Samples: samples, Dense: src.DenseLayers}, src.Method)
		if err != nil {
			return set, err
		}
		set.Selector = set.Scorer.Name()
	} else {
		c := src.Mapping.Config
		for _, v := range []struct {
			into *int
			own  int
		}{{&set.Selection.Sink, c.Sink}, {&set.Selection.Local, c.Local}, {&set.Selection.Candidates, c.Candidates}} {
			if *v.into < 0 {
				*v.into = v.own
			}
		}
		if set.Scorer, err = selector.NewHash(d, at, src.Mapping); err != nil {
			return set, err
		}
		set.Selector, set.Preset = "hash", c.Preset
		if c.Shares != nil && !src.Uniform {
			set.Shares = c.Shares
			set.Selector += "+calibrated"
		}
	}
	set.Identity = identity(src, set)
	if set.Selection.Reranks() {
		set.Selector = fmt.Sprintf("%s+rerank%dx", set.Selector, set.Selection.Candidates)
	}
	if src.Mass > 0 {
		set.Selector = fmt.Sprintf("%s+p%v", set.Selector, src.Mass)
	}
	return set, nil
}

// distinct reports settings that results could not tell apart.
func distinct(settings []Setting) error {
	seen := map[[2]string]bool{}
	for _, s := range settings {
		name := [2]string{s.Selector, s.Preset}
		if seen[name] {
			return fmt.Errorf("two settings are called %s; measure them in runs of their own", strings.TrimSpace(s.Selector+" "+s.Preset))
		}
		seen[name] = true
	}
	return nil
}

// identity hashes all of a source that decides what is attended to.
func identity(src Source, set Setting) string {
	h := sha256.New()
	s := set.Selection
	fmt.Fprintln(h, src.Method, s.Sink, s.Local, s.Candidates, src.DenseLayers, s.Mass)
	if m := src.Mapping; m != nil {
		c := m.Config
		c.Shares = nil // a pointer: its value follows
		fmt.Fprintf(h, "%+v\n", c)
		if set.Shares != nil {
			fmt.Fprintf(h, "%+v\n", *set.Shares)
		}
		affine := func(a *kernels.Affine) {
			if a != nil {
				fmt.Fprintln(h, a.In, a.Out)
				h.Write(dtype.Bytes(a.Weight))
				h.Write(dtype.Bytes(a.Bias))
			}
		}
		for _, layer := range m.Layers {
			if layer == nil {
				fmt.Fprintln(h, "dense")
				continue
			}
			for _, p := range []*kernels.Projection{&layer.Key, &layer.Query} {
				fmt.Fprintln(h, p.Heads, len(p.Layers), p.Skip != nil, p.BlockBits)
				for i := range p.Layers {
					affine(&p.Layers[i])
				}
				affine(p.Skip)
				h.Write(dtype.Bytes(p.Feedback))
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Sparse is the setting's attention at a budget.
func (s Setting) Sparse(d kernels.Device, m shape.Model, scale float32, b kernels.Budget) (*selector.Sparse, error) {
	selection := s.Selection
	selection.Budget = b
	sparse, err := selector.NewSparse(d, selector.Shape{Model: m, Scale: scale}, s.Scorer, selection, s.DenseLayers)
	if err != nil || s.Shares == nil {
		return sparse, err
	}
	return sparse, sparse.Divide(s.Shares)
}

// SparseAll is SparseFor with sets of all tokens, whatever their shares and the
// mass: its attention is dense, by the sparse path.
func (s Setting) SparseAll(m *model.Model) (*selector.Sparse, error) {
	b := kernels.Budget{Num: 1, Den: 1}
	if s.Shares != nil {
		// even the smallest share of so much is everything
		b.Num = mapping.ShareUnit
	}
	if s.Selection.Mass > 0 {
		s.Selection.Mass = 1
	}
	return s.SparseFor(m, b)
}

// SparseFor is Sparse for a loaded model; sliding-window layers are left to
// the model.
func (s Setting) SparseFor(m *model.Model, b kernels.Budget) (*selector.Sparse, error) {
	global := map[int]bool{}
	for _, l := range m.GlobalLayers() {
		global[l] = true
	}
	for l := range m.Layers {
		if !global[l] {
			s.DenseLayers = append(s.DenseLayers[:len(s.DenseLayers):len(s.DenseLayers)], l)
		}
	}
	return s.Sparse(m.Device, m.Shape(), m.QueryScale, b)
}

// TraceSamples are a trace's queries and keys for the methods that calibrate
// themselves.
type TraceSamples struct{ Reader *trace.Reader }

// Layer implements selector.Samples.
func (t TraceSamples) Layer(layer int) (q, k [][]float32, err error) {
	m := t.Reader.Model
	q, k = make([][]float32, m.QueryHeads), make([][]float32, m.KVHeads)
	for i := range t.Reader.Shards {
		d, err := t.Reader.Document(i)
		if err != nil {
			return nil, nil, err
		}
		v, err := d.Layer(layer)
		if err != nil {
			return nil, nil, err
		}
		for _, part := range []struct {
			into [][]float32
			from []uint16
		}{{q, v.Q}, {k, v.K}} {
			n := len(part.from) / len(part.into)
			for h := range part.into {
				for _, bits := range part.from[h*n : (h+1)*n] {
					part.into[h] = append(part.into[h], dtype.F32FromBF16(bits))
				}
			}
		}
	}
	return q, k, nil
}
