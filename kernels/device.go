package kernels

import (
	"github.com/hashattn/hashattn/kernels/dtype"
)

// Device runs the operations of a transformer. Operations are queued in order
// and return nothing: an operand of a wrong shape is a bug and panics, a
// failure of the device itself (out of memory in a kernel, a lost GPU) is kept
// and returned by the next Synchronize or Download. A Device serves one
// goroutine at a time.
type Device interface {
	Memories
	Dense
	Attention
	Scans

	// Info describes the device for reports.
	Info() Info
	// Synchronize waits for all queued operations and returns the first
	// failure since the last call.
	Synchronize() error
	// Record runs step, which queues the operations of one decode step. A
	// device that can replay recorded work may record the operations at the
	// first call with a key and replay them at later calls, when only the
	// contents of batches and tensors have changed.
	Record(key any, step func())
	// Reads is how many cached tokens attention has read since the last
	// ResetReads, against how many were cached.
	Reads() Reads
	ResetReads()
	Close() error
}

// Info names a device and what bounds it.
type Info struct {
	Kind    string `json:"kind"` // "reference", "cpu" or "cuda"
	Name    string `json:"name"` // e.g. "AMD EPYC 9B14, 2 threads, avx512"
	Threads int    `json:"threads,omitempty"`
	Memory  int64  `json:"memoryBytes"` // total
	Driver  string `json:"driver,omitempty"`
	// Pass is the tokens of one prefill pass that keep the device busy; more
	// only take memory.
	Pass int `json:"pass"`
}

// Reads counts the cached tokens that attention read, and those there were to
// read, summed over query rows, layers and query heads: a set that several heads
// share counts for each of them, as dense attention does.
type Reads struct{ Attended, Cached int64 }

// Density is the share of cached tokens that attention read, 1 before any.
func (r Reads) Density() float64 {
	if r.Cached == 0 {
		return 1
	}
	return float64(r.Attended) / float64(r.Cached)
}

// Memories holds tensors and weights on a device.
type Memories interface {
	// Alloc makes a zeroed tensor. It fails when memory is short.
	Alloc(t dtype.Type, shape ...int) (Tensor, error)
	Free(t Tensor)
	// Upload copies host bytes into dst, Download the other way; the lengths
	// must match. Download waits for the queued operations.
	Upload(dst Tensor, src []byte) error
	Download(dst []byte, src Tensor) error
	// Copy sets dst to src, of the same length and type.
	Copy(dst, src Tensor)
	// LoadMatrix makes a checkpoint's matrix usable by Linear and Embed.
	LoadMatrix(m Matrix) (Weight, error)
	// LoadProjection makes a learned map usable by the encoders.
	LoadProjection(p Projection) (Encoder, error)
	// NewCache allocates an empty cache.
	NewCache(s CacheSpec) (*Cache, error)
	// SetBatch makes b stand for the segments. The device copies of its
	// positions are replaced, so that a recorded step sees the new ones.
	SetBatch(b *Batch, segments []Segment) error
}

// Weight is a matrix on a device.
type Weight interface {
	Shape() (rows, cols int)
}

// Dense is the token-wise operations.
type Dense interface {
	// Embed sets out[t] = table[tokens[t]] * scale. tokens is i32 [T].
	Embed(out Tensor, table Weight, tokens Tensor, scale float32)
	// RMSNorm sets each row of width len(gain):
	// out = x / sqrt(mean(x^2) + eps) * gain. out may be x.
	RMSNorm(out, x, gain Tensor, eps float32)
	// Linear sets out[t] = w x[t] + bias, or adds that to out. bias may be none.
	Linear(out, x Tensor, w Weight, bias Tensor, add bool)
	// Gate sets out = act(gate) * up, elementwise. out may be gate.
	Gate(out, gate, up Tensor, act Activation)
	// Add sets x += y.
	Add(x, y Tensor)
	// RopeTable sets cos and sin, [T, rotated/2], for the batch's positions:
	// the angle of pair i is position * freq[i].
	RopeTable(cos, sin, freq Tensor, b *Batch)
	// Rope rotates x [T, heads, headDim] in place: pair i of a head is
	// elements i and i + rotated/2 (the half-split form of Hugging Face).
	Rope(x, cos, sin Tensor)
	// ArgMax sets out[t], i32, to the index of the largest of row t; of equal
	// ones the first.
	ArgMax(out, x Tensor)
	// NegLogLikelihood sets out[t] = logsumexp(logits[t]) - logits[t, targets[t]].
	NegLogLikelihood(out, logits, targets Tensor)
}

// Activation is the nonlinearity of a gated feed-forward layer.
type Activation int

// The activations: SiLU (Llama, Qwen) and GELU in the tanh form (Gemma).
const (
	SiLU Activation = iota
	GELUTanh
)

// CacheSpec is the shape of a cache.
type CacheSpec struct {
	Layers, KVHeads, HeadDim, Capacity int
	Type                               dtype.Type // BF16 or F32
}

// Bytes is the memory that a cache of this shape takes.
func (s CacheSpec) Bytes() int64 {
	return 2 * int64(s.Layers) * int64(s.KVHeads) * int64(s.HeadDim) * int64(s.Capacity) * int64(s.Type.BlockBytes())
}

// Cache is the keys and values of one sequence.
type Cache struct {
	CacheSpec
	Len  int      // tokens held; lower it to rewind
	K, V []Tensor // per layer [kvHeads, capacity, headDim]
}

// Index is what a selector keeps of one sequence beside the cache: per layer
// the tensors it scans, e.g. the key codes.
type Index struct {
	Layers [][]Tensor
}

// Segment is a run of consecutive tokens of one sequence.
type Segment struct {
	Cache      *Cache
	Index      *Index // nil where attention is dense
	Start, Len int    // positions Start .. Start+Len-1
}

// Batch says which rows of the activations are which tokens: the segments one
// behind the other.
type Batch struct {
	Segments []Segment
	Tokens   int // rows, the sum of the segments' lengths
	Longest  int // the largest Start+Len: cached tokens the last row may see
	Device   any // the device's own copy
}

// Row calls f for every row with its segment and position.
func (b *Batch) Row(f func(row int, s *Segment, position int)) {
	row := 0
	for i := range b.Segments {
		s := &b.Segments[i]
		for p := s.Start; p < s.Start+s.Len; p++ {
			f(row, s, p)
			row++
		}
	}
}

// Attention is the operations that read and write caches.
type Attention interface {
	// Append stores k and v, [T, kvHeads, headDim], at the rows' positions,
	// rounded to the cache's type.
	Append(layer int, k, v Tensor, b *Batch)
	// Attend sets out [T, queryHeads, headDim] to causal attention over all
	// cached tokens, or the last window of them if window > 0.
	Attend(out, q Tensor, layer int, b *Batch, scale float32, window int)
	// AttendSelected is Attend over the first Sink tokens, the last Local ones
	// and the selected ones.
	AttendSelected(out, q Tensor, layer int, b *Batch, scale float32, selected Tensor, s Selection)
	// AttendHash is EncodeQueries, ScanHash, TopK, Rerank and AttendSelected
	// as one operation.
	AttendHash(out, q Tensor, layer int, b *Batch, scale float32, h HashQuery, s Selection)
}

// Scans is the operations by which selectors rank cached tokens. For the row
// at position p the n = p+1 first tokens count.
type Scans interface {
	// EncodeKeys writes the codes of the batch's tokens, read back from the
	// cache as stored, to tensor 0 of each segment's index:
	// [enc heads, capacity, words].
	EncodeKeys(enc Encoder, layer int, b *Batch)
	// EncodeQueries sets weights, i8 [T, enc heads, bits], to the quantised
	// query map of q [T, queryHeads, headDim], and scales, f32 [T, enc heads]
	// (may be none), to what a weight of 1 stands for: with queryBits 4 or 8
	// scale = max|z| / (7 or 127), weight = z / scale rounded to even; with
	// queryBits 1 weight = z > 0 ? 1 : -1 and scale = 1. An encoder with fewer
	// heads than q takes the concatenated queries of each group.
	EncodeQueries(weights, scales Tensor, enc Encoder, q Tensor, queryBits int)
	// ScanHash sets scores, i32 [T, selection heads, stride]: the sum over
	// bits of weight * bit (bit in ±1), summed over the query maps that share
	// a selection head.
	ScanHash(scores, weights Tensor, layer int, b *Batch)
	// ScanDot sets scores, f32 [T, heads, stride], to scale * q.key over the
	// cached keys (slot < 0) or the index tensor slot, [kvHeads, capacity, width].
	ScanDot(scores, q Tensor, layer, slot int, b *Batch, scale float32)
	// ScanPages scores tokens by their page's bound sum_i max(q_i lo_i, q_i hi_i)
	// (Quest): index tensors 0 and 1 are lo and hi [kvHeads, pages, headDim].
	ScanPages(scores, q Tensor, layer, pageLen int, b *Batch)
	// ScanTables scores tokens by table look-ups: index tensor 0 is byte codes
	// [kvHeads, capacity, parts], tables f32 [T, queryHeads, parts, entries].
	ScanTables(scores, tables Tensor, layer int, b *Batch)
	// IndexPages widens the pages' bounds, index tensors 0 and 1, f32
	// [kvHeads, pages, headDim], by the batch's cached keys. The first token of
	// a page sets its bounds.
	IndexPages(layer, pageLen int, b *Batch)
	// IndexChannels writes to index tensor 0, f32 [kvHeads, capacity, c], the
	// channels, i32 [kvHeads, c], of the batch's cached keys, each token's
	// rounded to 2^bits levels between its smallest and largest.
	IndexChannels(channels Tensor, bits, layer int, b *Batch)
	// GatherChannels sets out [T, queryHeads, c] to q's channels of each group.
	GatherChannels(out, q, channels Tensor)
	// IndexParts writes to index tensor 0, u8 [kvHeads, capacity, parts], the
	// nearest entry of each part of the batch's cached keys; of equal ones the
	// first. codebooks is f32 [kvHeads, parts, entries, headDim/parts].
	IndexParts(codebooks Tensor, layer int, b *Batch)
	// PartTables sets tables, f32 [T, queryHeads, parts, entries], to the dot
	// products of q's parts with the codebooks' entries.
	PartTables(tables, q, codebooks Tensor)
	// GroupMass sets out, f32 [T, kvHeads, stride]: the sum over the group's
	// heads of the softmax of the scores over the candidates of each row.
	// scores is f32, or i32 in units of scales, [T, queryHeads, stride].
	GroupMass(out, scores, scales Tensor, b *Batch, s Selection)
	// TopK sets selected, i32 [T, selection heads, k], to the budget's best
	// candidates, ascending; of equal scores the most recent win.
	TopK(selected, scores Tensor, b *Batch, s Selection)
	// Rerank keeps of the candidates, i32 [T, selection heads, k], the
	// budget's best by the exact logit scale * q.key; for a selection by group
	// by the sum over its heads of the softmax over candidates, sink and local.
	Rerank(selected, candidates, q Tensor, layer int, b *Batch, scale float32, s Selection)
}

// Meter is a Device that can measure how fast it reads its memory.
type Meter interface {
	// ReadBandwidth is in bytes per second, of data larger than any cache.
	ReadBandwidth() (float64, error)
}

// Timer is a Device that times its own operations more closely than a host
// clock can: without launch overheads, from cold caches.
type Timer interface {
	// Time runs operations runs times and gives the seconds of each.
	Time(runs int, operations func()) ([]float64, error)
}
