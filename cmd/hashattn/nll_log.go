package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/eval/result"
)

// nllLog keeps the finished documents of eval perplexity: a file of JSON lines,
// the first of which says what they belong to. It implements
// eval.PerplexityLog.
type nllLog struct {
	f    *os.File
	done map[nllKey][]eval.DocumentNLL
}

type nllKey struct {
	document string
	context  int
}

type nllHead struct {
	Key string `json:"key"`
}

// openNLLLog opens the log at path. One of another measurement is begun anew;
// a last line without its end, as a kill leaves it, is cut off.
func openNLLLog(path, key string) (*nllLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	l := &nllLog{f: f, done: map[nllKey][]eval.DocumentNLL{}}
	whole, err := l.read(key)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err == nil && whole == 0 {
		err = l.append(nllHead{key})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// read gives the length of what is whole and belongs to key.
func (l *nllLog) read(key string) (int64, error) {
	raw, err := io.ReadAll(l.f)
	if err != nil {
		return 0, err
	}
	whole := int64(0)
	for first := true; ; first = false {
		end := bytes.IndexByte(raw, '\n')
		if end < 0 {
			return whole, nil
		}
		line := raw[:end]
		if first {
			var head nllHead
			if json.Unmarshal(line, &head) != nil || head.Key != key {
				return 0, nil
			}
		} else {
			var rows []eval.DocumentNLL
			if json.Unmarshal(line, &rows) != nil || len(rows) == 0 {
				return whole, nil
			}
			l.done[nllKey{rows[0].Document, rows[0].Context}] = rows
		}
		whole += int64(end + 1)
		raw = raw[end+1:]
	}
}

func (l *nllLog) append(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := l.f.Write(append(raw, '\n')); err != nil {
		return err
	}
	return l.f.Sync()
}

// Load implements eval.PerplexityLog.
func (l *nllLog) Load(document string, context int) []eval.DocumentNLL {
	return l.done[nllKey{document, context}]
}

// Save implements eval.PerplexityLog.
func (l *nllLog) Save(rows []eval.DocumentNLL) error { return l.append(rows) }

// Close closes the file.
func (l *nllLog) Close() error { return l.f.Close() }

// Remove deletes the file.
func (l *nllLog) Remove() error {
	return errors.Join(l.f.Close(), os.Remove(l.f.Name()))
}

// fileHashes are the checksums of small files.
func fileHashes(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			out[i] = err.Error() // opening it has failed before
			continue
		}
		out[i] = result.Hash(raw)
	}
	return out
}
