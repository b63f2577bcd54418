// Package trace holds the queries, keys and values that a model's attention
// saw on a set of documents: what mappings are trained on and measured with.
//
// A trace is a folder. index.json has the Header and the list of shards; a
// shard is one document's safetensors file with
//
//	tokens             i32  [n]
//	positions          i32  [m]                       where queries were kept, ascending
//	layers.{l}.q       bf16 [queryHeads, m, headDim]  after RoPE, half-split layout
//	layers.{l}.k       bf16 [kvHeads, n, headDim]     after RoPE
//	layers.{l}.v       bf16 [kvHeads, n, headDim]
//
// for each captured layer l. Keys and values are those of every token; queries
// are kept at few positions (Blocks), since they would be the bulk.
// scripts/capture_transformers.py writes the same format.
package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"github.com/hashattn/hashattn/model/shape"
)

const (
	format = "hashattn-trace"
	// version 2 added the scale; version 1 is still read.
	version   = 2
	indexName = "index.json"
	maxIndex  = 1 << 28 // bytes
	// maxContext bounds what a hostile index can claim of a document.
	maxContext = 1 << 26
)

// BlockLen is the length of a run of consecutive query positions.
const BlockLen = 128

// Header says what a trace was captured from.
type Header struct {
	Model     shape.Model `json:"model"`
	Tokenizer string      `json:"tokenizer"` // hash of the tokenizer
	Context   int         `json:"context"`   // most tokens taken of a document
	Captured  []int       `json:"captured"`  // layers, ascending
	// Scale is what the model's attention multiplies q.k by. Traces of version
	// 1 do not say it: there it is 0 in the file, and 1/sqrt(headDim) once read.
	Scale float32 `json:"scale,omitempty"`
}

// DefaultScale is the scale of attention where a model does not say otherwise.
func DefaultScale(headDim int) float32 { return float32(1 / math.Sqrt(float64(headDim))) }

// Shard is one document's entry in the index.
type Shard struct {
	File    string `json:"file"`
	ID      string `json:"id"`
	Hash    string `json:"hash"` // SHA-256 of the document's text, hex
	Kind    string `json:"kind"` // e.g. "prose", "code"
	Tokens  int    `json:"tokens"`
	Queries int    `json:"queries"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"` // of the shard file, hex
}

type index struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Header
	Shards []Shard `json:"shards"`
}

// Check reports a header that no model has.
func (h Header) Check() error {
	if err := h.Model.Check(); err != nil {
		return err
	}
	if h.Context < 1 || h.Context > maxContext {
		return fmt.Errorf("context is %d, want 1 to %d", h.Context, maxContext)
	}
	if !(h.Scale > 0 && h.Scale <= math.MaxFloat32) {
		return fmt.Errorf("scale is %v, want what attention multiplies q.k by, such as 1/sqrt(headDim)", h.Scale)
	}
	if len(h.Captured) == 0 {
		return errors.New("no layers are captured")
	}
	for i, l := range h.Captured {
		if l < 0 || l >= h.Model.Layers || i > 0 && l <= h.Captured[i-1] {
			return fmt.Errorf("captured layers %v: want layers of 0 to %d in ascending order", h.Captured, h.Model.Layers-1)
		}
	}
	return nil
}

func (x index) check() error {
	if err := x.Header.Check(); err != nil {
		return err
	}
	files := map[string]bool{}
	for i, s := range x.Shards {
		if s.File == "" || s.File == "." || s.File != filepath.Base(s.File) || !filepath.IsLocal(s.File) || files[s.File] {
			return fmt.Errorf("shard %d (%s): file %q is not another file of the same folder", i, s.ID, s.File)
		}
		files[s.File] = true
		if s.Tokens < 1 || s.Tokens > x.Context || s.Queries < 1 || s.Queries > s.Tokens {
			return fmt.Errorf("shard %d (%s): %d tokens and %d queries in a context of %d", i, s.ID, s.Tokens, s.Queries, x.Context)
		}
	}
	return nil
}

func readIndex(dir string) (x index, err error) {
	path := filepath.Join(dir, indexName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return x, fmt.Errorf("%s is not a trace: it has no %s: %w", dir, indexName, err)
	}
	if err != nil {
		return x, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return x, err
	}
	if x, err = parseIndex(data); err != nil {
		return x, fmt.Errorf("%s: %w", path, err)
	}
	return x, nil
}

func parseIndex(data []byte) (x index, err error) {
	if len(data) > maxIndex {
		return x, fmt.Errorf("larger than %d bytes", maxIndex)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&x); err != nil {
		return x, err
	}
	if _, err := d.Token(); err != io.EOF {
		return x, errors.New("something follows the JSON object")
	}
	if x.Format != format {
		return x, fmt.Errorf("not a trace: its format is %q, want %q", x.Format, format)
	}
	switch {
	case x.Version == 1 && x.Scale == 0 && x.Model.HeadDim > 0:
		x.Version, x.Scale = version, DefaultScale(x.Model.HeadDim)
	case x.Version == 1:
		return x, fmt.Errorf("trace format version 1 with scale %v and headDim %d, which no program wrote: capture again", x.Scale, x.Model.HeadDim)
	case x.Version != version:
		return x, fmt.Errorf("trace format version %d, this program reads 1 and %d: capture again or update the program", x.Version, version)
	}
	return x, x.check()
}

// differs names the first part in which two headers differ.
func (h Header) differs(other Header) error {
	if err := h.Model.Fits(other.Model); err != nil {
		return err
	}
	switch {
	case h.Tokenizer != other.Tokenizer:
		return fmt.Errorf("made with another tokenizer (%.16s, not %.16s)", h.Tokenizer, other.Tokenizer)
	case h.Scale != other.Scale:
		return fmt.Errorf("made with scale %v of q.k, not %v", h.Scale, other.Scale)
	case h.Context != other.Context:
		return fmt.Errorf("made with context %d, not %d", h.Context, other.Context)
	case !reflect.DeepEqual(h.Captured, other.Captured):
		return fmt.Errorf("has layers %v, not %v", h.Captured, other.Captured)
	}
	return nil
}

// Blocks is where the queries of a document of n tokens are kept for training:
// runs of BlockLen positions, spread evenly in the logarithm up to the end.
// A document of fewer than two blocks has none.
func Blocks(n int) []int32 {
	const count = 24
	if n < 2*BlockLen {
		return nil
	}
	lo, hi := math.Log(float64(max(BlockLen, min(1024, n/4)))), math.Log(float64(n-BlockLen))
	var positions []int32
	last := -1
	for i := range count {
		// queries of the first block have too few keys before them to rank
		start := max(BlockLen, int(math.Exp(lo+(hi-lo)*float64(i)/(count-1)))/BlockLen*BlockLen)
		if start == last {
			continue
		}
		last = start
		for p := start; p < start+BlockLen; p++ {
			positions = append(positions, int32(p))
		}
	}
	return positions
}

// Tail is where the queries of a document of n tokens are kept for
// measurements: count positions, step apart, before the end.
func Tail(n, count, step int) []int32 {
	var positions []int32
	for p := max(n-count*step, 0); p < n; p += step {
		positions = append(positions, int32(p))
	}
	return positions
}

func tensorName(layer int, part string) string {
	return "layers." + strconv.Itoa(layer) + "." + part
}

// holds says whether a shard is that of the document.
func (s Shard) holds(id, hash string) bool { return s.ID == id && s.Hash == hash }

func find(shards []Shard, id, hash string) int {
	return slices.IndexFunc(shards, func(s Shard) bool { return s.holds(id, hash) })
}
