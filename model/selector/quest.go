package selector

import (
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/kernels/dtype"
)

// quest ranks pages of tokens by an upper bound of their logits from the
// elementwise smallest and largest key of the page (Quest, arXiv 2406.10774).
// The budget counts tokens; at the cut a page's most recent tokens come first.
type quest struct {
	name    string
	device  kernels.Device
	shape   Shape
	pageLen int
	pool    pool
}

func newQuest(e Env, o options) (Scorer, error) {
	page := o.integer("page", 16, 2, 128)
	return &quest{o.name("quest"), e.Device, e.Shape, page, pool{device: e.Device}}, o.unknown()
}

// Name implements Scorer.
func (q *quest) Name() string { return q.name }

// Bits implements Scorer: two bf16 vectors per page.
func (q *quest) Bits() float64 { return float64(2*16*q.shape.HeadDim) / float64(q.pageLen) }

// Heads implements Scorer.
func (q *quest) Heads(int) int { return q.shape.QueryHeads }

// NewIndex implements Scorer: page bounds [kvHeads, pages, headDim].
func (q *quest) NewIndex(capacity int, layers []int) (*kernels.Index, error) {
	pages := (capacity + q.pageLen - 1) / q.pageLen
	return newIndex(q.shape.Layers, layers, func() ([]kernels.Tensor, error) {
		lo, err := q.device.Alloc(dtype.F32, q.shape.KVHeads, pages, q.shape.HeadDim)
		if err != nil {
			return nil, err
		}
		hi, err := q.device.Alloc(dtype.F32, q.shape.KVHeads, pages, q.shape.HeadDim)
		return []kernels.Tensor{lo, hi}, err
	})
}

// Update implements Scorer. Bounds may cover tokens behind a row's own: those
// lie in its local window, which is not scored.
func (q *quest) Update(layer int, b *kernels.Batch) { q.device.IndexPages(layer, q.pageLen, b) }

// Score implements Scorer.
func (q *quest) Score(query kernels.Tensor, layer int, b *kernels.Batch, _ kernels.Selection) kernels.Tensor {
	scores := q.pool.get("scores", dtype.F32, b.Tokens, q.shape.QueryHeads, room(b))
	q.device.ScanPages(scores, query, layer, q.pageLen, b)
	return scores
}
