// Package result is the files that measurements write and reports read:
// recall.json, perplexity.json, bench.json and scores.json.
//
// Every file is one JSON object: a Header that says what was measured, with
// what and where, and rows. Read checks the file whole before a report uses
// it; Write replaces a file in one step, so that a reader never sees half.
package result

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hashattn/hashattn/model/atomicfile"
)

// Format is the version of the files that this package writes.
const Format = 1

// The kinds of result files; each is also the file's name without ".json".
const (
	KindRecall     = "recall"
	KindPerplexity = "perplexity"
	KindBench      = "bench"
	KindScores     = "scores"
)

// Kinds are all kinds, in the order of a report.
var Kinds = []string{KindRecall, KindPerplexity, KindScores, KindBench}

// Header says what a file's rows are.
type Header struct {
	Kind       string            `json:"kind"`
	Format     int               `json:"format"`
	Created    time.Time         `json:"created"`
	Config     json.RawMessage   `json:"config,omitempty"` // the experiment as it ran
	ConfigHash string            `json:"configHash"`       // SHA-256 of Config
	Model      Model             `json:"model"`
	Device     Device            `json:"device"`
	Versions   map[string]string `json:"versions"` // of hashattn, Go, drivers
	// Samples is the hash of what was measured on: documents and positions,
	// or benchmark samples. Results with different samples do not compare.
	Samples string  `json:"samples,omitempty"`
	Seconds float64 `json:"seconds,omitempty"` // that the measurement took
}

// Model names the checkpoint and the sizes of its attention, which files of
// earlier versions lack.
type Model struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Layers      int    `json:"layers,omitempty"`
	QueryHeads  int    `json:"queryHeads,omitempty"`
	KVHeads     int    `json:"kvHeads,omitempty"`
	HeadDim     int    `json:"headDim,omitempty"`
}

// Device names where a result was made.
type Device struct {
	Kind    string `json:"kind"` // "reference", "cpu" or "cuda"
	Name    string `json:"name"`
	Threads int    `json:"threads,omitempty"`
	Driver  string `json:"driver,omitempty"`
}

// NewHeader starts the header of a file of a kind. config is the part of the
// experiment that the result depends on; it is kept as JSON and hashed.
func NewHeader(kind string, config any) (Header, error) {
	raw, err := json.Marshal(config)
	if err != nil {
		return Header{}, fmt.Errorf("result: config of %s: %w", kind, err)
	}
	return Header{
		Kind: kind, Format: Format, Created: time.Now().UTC().Truncate(time.Second),
		Config: raw, ConfigHash: Hash(raw), Versions: Versions(),
	}, nil
}

// Hash is the SHA-256 of data in hex.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Versions names the program and what it was built with.
func Versions() map[string]string {
	v := map[string]string{"hashattn": "devel", "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v["hashattn"] = info.Main.Version
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v["revision"] = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			v["modified"] = "true"
		case s.Key == "-tags" && s.Value != "":
			v["tags"] = s.Value
		}
	}
	return v
}

// File is any of the result files.
type File interface {
	// Head is the file's header.
	Head() *Header
	// Check reports the first row that cannot be a result.
	Check() error
}

// Head implements File.
func (h *Header) Head() *Header { return h }

// newFile makes an empty file of a kind.
func newFile(kind string) File {
	switch kind {
	case KindRecall:
		return new(Recall)
	case KindPerplexity:
		return new(Perplexity)
	case KindBench:
		return new(Bench)
	case KindScores:
		return new(Scores)
	}
	return nil
}

// maxBytes bounds a result file that Read accepts.
const maxBytes = 256 << 20

// Read reads and checks the result file at path, whatever its kind.
func Read(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("%s: larger than %d MiB, not a result file", path, maxBytes>>20)
	}
	file, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// Parse reads and checks a result file's content.
func Parse(raw []byte) (File, error) {
	var h Header
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, fmt.Errorf("not a result file: %w", err)
	}
	file := newFile(h.Kind)
	switch {
	case file == nil:
		return nil, fmt.Errorf("not a result file: kind is %q, want one of %v", h.Kind, Kinds)
	case h.Format != Format:
		return nil, fmt.Errorf("%s file of format %d, this program reads format %d; measure again with this version", h.Kind, h.Format, Format)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(file); err != nil {
		return nil, fmt.Errorf("%s file: %w", h.Kind, err)
	}
	if h.ConfigHash == "" {
		return nil, fmt.Errorf("%s file: configHash is missing", h.Kind)
	}
	if len(h.Config) > 0 {
		var compact bytes.Buffer
		if err := json.Compact(&compact, h.Config); err != nil {
			return nil, fmt.Errorf("%s file: config: %w", h.Kind, err)
		}
		if Hash(compact.Bytes()) != h.ConfigHash {
			return nil, fmt.Errorf("%s file: configHash is not the hash of its config; the file was edited", h.Kind)
		}
	}
	if err := file.Check(); err != nil {
		return nil, fmt.Errorf("%s file: %w", h.Kind, err)
	}
	return file, nil
}

// Write writes file to path, by a temporary file in the same folder.
func Write(path string, file File) error {
	if err := file.Check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	raw, err := json.MarshalIndent(file, "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Replace(path, append(raw, '\n'))
}

// finite reports the first value that is no number or outside [lo, hi].
func finite(row int, name string, v, lo, hi float64) error {
	if !(v >= lo && v <= hi) || math.IsInf(v, 0) {
		return fmt.Errorf("row %d: %s is %v, want %v to %v", row, name, v, lo, hi)
	}
	return nil
}
