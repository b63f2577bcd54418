// Package jsonl reads files of one JSON value a line, compressed or not, so that
// every error names file and line and a damaged file costs little.
package jsonl

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// MaxLine bounds what one line of a file may take in memory; the longest official
// sample has about 1 MB.
const MaxLine = 64 << 20

// suffixes are the forms in which files are read.
var suffixes = []string{".jsonl", ".jsonl.gz", ".jsonl.zst"}

// TrimSuffix cuts the suffix off a file name that has one of the forms read.
func TrimSuffix(name string) (base string, ok bool) {
	i := slices.IndexFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
	if i < 0 {
		return name, false
	}
	return strings.TrimSuffix(name, suffixes[i]), true
}

// Decompress reads r as the ending of name says.
func Decompress(r io.Reader, name string) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(name, ".gz"):
		return gzip.NewReader(r)
	case strings.HasSuffix(name, ".zst"):
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// Lines yields the lines of r without their ends, counted from 1. The slice is
// valid until the next line. An error names file and line and ends the sequence;
// a line must be UTF-8, not blank and not absurdly long.
func Lines(r io.Reader, file string) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var buf []byte
		for n := 1; ; n++ {
			buf = buf[:0]
			var err error
			for {
				var part []byte
				part, err = in.ReadSlice('\n')
				buf = append(buf, part...)
				if !errors.Is(err, bufio.ErrBufferFull) || len(buf) > MaxLine {
					break
				}
			}
			l := Line{File: file, Number: n, Text: bytes.TrimRight(buf, "\r\n")}
			switch {
			case len(buf) > MaxLine:
				err = fmt.Errorf("longer than %d MiB", MaxLine>>20)
			case errors.Is(err, io.EOF) && len(buf) == 0:
				return
			case err != nil && !errors.Is(err, io.EOF):
				err = fmt.Errorf("the file is damaged or cut off: %w", err)
			case !utf8.Valid(l.Text):
				err = errors.New("not UTF-8")
			case len(bytes.TrimSpace(l.Text)) == 0:
				err = errors.New("blank line")
			default:
				err = nil
			}
			if err != nil {
				yield(l, l.Errorf("%w", err))
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

// Line is one line of a file.
type Line struct {
	File   string
	Number int // from 1
	Text   []byte
}

// Errorf is an error that begins with file and line.
func (l Line) Errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", l.File, l.Number, fmt.Errorf(format, args...))
}
