package longbench

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

// maxLine bounds what one line of a file may take in memory; the longest official
// sample has about 1 MB.
const maxLine = 64 << 20

// jsonlSuffixes are the forms in which files of samples and predictions are read.
var jsonlSuffixes = []string{".jsonl", ".jsonl.gz", ".jsonl.zst"}

// trimJSONL cuts the suffix off a file name that has one of the forms read.
func trimJSONL(name string) (base string, ok bool) {
	i := slices.IndexFunc(jsonlSuffixes, func(s string) bool { return strings.HasSuffix(name, s) })
	if i < 0 {
		return name, false
	}
	return strings.TrimSuffix(name, jsonlSuffixes[i]), true
}

// decompress reads r as the ending of name says.
func decompress(r io.Reader, name string) (io.ReadCloser, error) {
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

// lines yields the lines of r without their ends, counted from 1. The slice is
// valid until the next line. An error names file and line and ends the sequence;
// a line must be UTF-8, not blank and not absurdly long.
func lines(r io.Reader, file string) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var buf []byte
		for n := 1; ; n++ {
			buf = buf[:0]
			var err error
			for {
				var part []byte
				part, err = in.ReadSlice('\n')
				buf = append(buf, part...)
				if !errors.Is(err, bufio.ErrBufferFull) || len(buf) > maxLine {
					break
				}
			}
			l := line{file: file, number: n, text: bytes.TrimRight(buf, "\r\n")}
			switch {
			case len(buf) > maxLine:
				err = fmt.Errorf("longer than %d MiB", maxLine>>20)
			case errors.Is(err, io.EOF) && len(buf) == 0:
				return
			case err != nil && !errors.Is(err, io.EOF):
				err = fmt.Errorf("the file is damaged or cut off: %w", err)
			case !utf8.Valid(l.text):
				err = errors.New("not UTF-8")
			case len(bytes.TrimSpace(l.text)) == 0:
				err = errors.New("blank line")
			default:
				err = nil
			}
			if err != nil {
				yield(l, l.errorf("%w", err))
				return
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

type line struct {
	file   string
	number int
	text   []byte
}

func (l line) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", l.file, l.number, fmt.Errorf(format, args...))
}
