// Package gguf reads and writes GGUF files, ggml's checkpoint format, versions
// 2 and 3, little-endian (github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//
// A file is mapped, not read: Open checks the whole header against the file's
// length and hands out tensors whose data are windows of the mapping. Numbers
// become float32 with kernels/dtype.
package gguf

import (
	"fmt"
	"io"
	"os"

	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/model/mappedfile"
)

const (
	magic            = "GGUF"
	defaultAlignment = 32
	alignmentKey     = "general.alignment"
	maxAlignment     = 1 << 16
	maxDims          = 4       // GGML_MAX_DIMS
	maxName          = 1 << 16 // longest key or tensor name
	maxDepth         = 4       // arrays within arrays
)

// File is an open GGUF file.
type File struct {
	Version uint32
	Meta    Meta
	Tensors []Tensor // in file order

	index  map[string]int // tensor name -> place in Tensors
	mapped *mappedfile.File
}

// Tensor is one tensor of a file.
type Tensor struct {
	Name  string
	Type  dtype.Type
	Shape []int  // row-major, outermost first: a weight matrix is [out, in]; empty for one number
	Data  []byte // rows of Type blocks along the innermost dimension; valid until the file is closed
}

// Open maps the file at path and reads its header. The error names the file,
// the tensor or key, and what is wrong with it.
func Open(path string) (*File, error) {
	m, err := mappedfile.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := parse(m.Bytes())
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.mapped = m
	return f, nil
}

// Close unmaps the file: the Data of its tensors must not be touched any more.
func (f *File) Close() error { return f.mapped.Close() }

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.index[name]
	if !ok {
		return Tensor{}, false
	}
	return f.Tensors[i], true
}

// IsGGUF says whether path is a readable file that begins as GGUF files do.
func IsGGUF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [len(magic)]byte
	_, err = io.ReadFull(f, head[:])
	return err == nil && string(head[:]) == magic
}
