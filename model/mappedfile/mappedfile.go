// Package mappedfile maps files into memory for reading, so that checkpoints of
// any size open at once and their pages come from disk when they are touched.
package mappedfile

import (
	"fmt"
	"os"

	"github.com/edsrzf/mmap-go"
)

// File is a file mapped read-only. A program that cuts the file short while it
// is mapped makes reads of the lost part crash, as with every mapping;
// programs that replace files by renaming do no harm.
type File struct{ data mmap.MMap }

// Open maps all of the regular file at path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping outlives the descriptor
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() == 0: // mmap refuses to map nothing
		return &File{}, nil
	case int64(int(info.Size())) != info.Size():
		return nil, fmt.Errorf("%s: %d bytes do not fit this machine's address space", path, info.Size())
	}
	data, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &File{data}, nil
}

// Bytes is the file's content, which must not be written to and is gone after
// Close.
func (f *File) Bytes() []byte { return f.data }

// Close unmaps the file. A second call does nothing.
func (f *File) Close() error {
	if f.data == nil {
		return nil
	}
	return f.data.Unmap()
}
