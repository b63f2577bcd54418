package cpu

import "github.com/hashattn/hashattn/kernels"

var _ kernels.Uneven = (*Device)(nil)

// CutMass implements kernels.Uneven.
func (d *Device) CutMass(selected, scores kernels.Tensor, unit kernels.MassUnit, b *kernels.Batch, s kernels.Selection) {
	positions := make([]int, 0, b.Tokens)
	b.Row(func(_ int, _ *kernels.Segment, p int) { positions = append(positions, p) })
	sets := scores.Dim(1)
	d.ranges(b.Tokens*sets, 1, func(_, lo, hi int) {
		c := kernels.NewMassCut(selected, scores, unit, s)
		for i := lo; i < hi; i++ {
			c.Row(i/sets, i%sets, positions[i/sets])
		}
	})
}
