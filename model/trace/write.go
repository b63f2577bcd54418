package trace

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/atomicfile"
	"github.com/hashattn/hashattn/model/safetensors"
)

// Writer adds documents to a trace folder. One writer at a time may use a
// folder.
type Writer struct {
	dir   string
	index index
}

// Document is one document's capture.
type Document struct {
	ID, Hash, Kind    string
	Tokens, Positions []int32
	// Layer gives one captured layer as bfloat16 bits: queries
	// [queryHeads, len(Positions), headDim], keys and values
	// [kvHeads, len(Tokens), headDim]. The slices must stay as they are until
	// Add returns.
	Layer func(layer int) (q, k, v []uint16, err error)
}

// Create makes a trace folder, or continues the one that is there. It is an
// error when that has been captured from another model, tokenizer, context or
// choice of layers.
func Create(dir string, h Header) (*Writer, error) {
	if err := h.Check(); err != nil {
		return nil, fmt.Errorf("trace %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	old, err := readIndex(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w := &Writer{dir, index{Format: format, Version: version, Header: h, Shards: []Shard{}}}
		return w, w.save()
	case err != nil:
		return nil, err
	}
	if err := old.differs(h); err != nil {
		return nil, fmt.Errorf("trace %s: %w: choose another folder or delete this one", dir, err)
	}
	return &Writer{dir, old}, nil
}

// Has says whether the folder holds the document, whole.
func (w *Writer) Has(id, hash string) bool {
	i := find(w.index.Shards, id, hash)
	if i < 0 {
		return false
	}
	info, err := os.Stat(filepath.Join(w.dir, w.index.Shards[i].File))
	return err == nil && info.Size() == w.index.Shards[i].Bytes
}

// Add writes a document and then lists it in the index, each atomically: a
// program killed at any point leaves a sound trace without the document or
// with it. A document that is there already is skipped.
func (w *Writer) Add(d Document) error {
	if w.Has(d.ID, d.Hash) {
		return nil
	}
	shard := Shard{ID: d.ID, Hash: d.Hash, Kind: d.Kind, Tokens: len(d.Tokens), Queries: len(d.Positions)}
	id := sha256.Sum256([]byte(d.ID))
	shard.File = fmt.Sprintf("%x-%.16s.safetensors", id[:4], d.Hash)
	next := w.index
	next.Shards = append([]Shard(nil), w.index.Shards...)
	if i := find(next.Shards, d.ID, d.Hash); i >= 0 { // listed, but its file is gone or cut
		next.Shards = append(next.Shards[:i], next.Shards[i+1:]...)
	}
	next.Shards = append(next.Shards, shard)
	at := &next.Shards[len(next.Shards)-1]
	if err := next.check(); err != nil {
		return fmt.Errorf("trace %s: %w", w.dir, err)
	}
	if err := w.writeShard(d, at); err != nil {
		return fmt.Errorf("trace %s: document %s: %w", w.dir, d.ID, err)
	}
	w.index = next
	return w.save()
}

func (w *Writer) writeShard(d Document, s *Shard) error {
	m := w.index.Model
	if err := checkPositions(d.Positions, len(d.Tokens)); err != nil {
		return err
	}
	tensors := []safetensors.Tensor{
		{Name: "tokens", Type: dtype.I32, Shape: []int{len(d.Tokens)}, Data: int32Bytes(d.Tokens)},
		{Name: "positions", Type: dtype.I32, Shape: []int{len(d.Positions)}, Data: int32Bytes(d.Positions)},
	}
	for _, l := range w.index.Captured {
		q, k, v, err := d.Layer(l)
		if err != nil {
			return err
		}
		for _, part := range []struct {
			name        string
			data        []uint16
			heads, rows int
		}{{"q", q, m.QueryHeads, len(d.Positions)}, {"k", k, m.KVHeads, len(d.Tokens)}, {"v", v, m.KVHeads, len(d.Tokens)}} {
			name := tensorName(l, part.name)
			if len(part.data) != part.heads*part.rows*m.HeadDim {
				return fmt.Errorf("tensor %q has %d values, want [%d %d %d]", name, len(part.data), part.heads, part.rows, m.HeadDim)
			}
			if i := notFinite(part.data); i >= 0 {
				return fmt.Errorf("tensor %q has %v at %d", name, dtype.F32FromBF16(part.data[i]), i)
			}
			tensors = append(tensors, safetensors.Tensor{Name: name, Type: dtype.BF16, Shape: []int{part.heads, part.rows, m.HeadDim}, Data: uint16Bytes(part.data)})
		}
	}
	path := filepath.Join(w.dir, s.File)
	err := safetensors.Write(path, tensors, map[string]string{
		"format": format, "version": fmt.Sprint(version), "document": d.ID, "hash": d.Hash, "model": m.Fingerprint})
	if err != nil {
		return err
	}
	s.Bytes, s.SHA256, err = sum(path)
	return err
}

func (w *Writer) save() error {
	data, err := json.MarshalIndent(w.index, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(w.dir, indexName), func(out io.Writer) error {
		_, err := out.Write(append(data, '\n'))
		return err
	})
}

// sum is a file's size and SHA-256.
func sum(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

func int32Bytes(x []int32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// littleEndian says whether numbers in memory are as they are in files.
var littleEndian = func() bool {
	x := uint16(1)
	return *(*byte)(unsafe.Pointer(&x)) == 1
}()

func uint16Bytes(x []uint16) []byte {
	if littleEndian {
		return dtype.Bytes(x)
	}
	b := make([]byte, 0, 2*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

// notFinite is the index of the first NaN or infinity among bfloat16 bits, or -1.
func notFinite(x []uint16) int {
	for i, v := range x {
		if v&0x7f80 == 0x7f80 {
			return i
		}
	}
	return -1
}
