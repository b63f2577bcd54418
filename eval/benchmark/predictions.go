package benchmark

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashattn/hashattn/model/atomicfile"
)

// Prediction is one line of a file of predictions: what LongBench's scorer
// reads, and how the answer was made.
type Prediction struct {
	Pred       string   `json:"pred"`
	Answers    []string `json:"answers"`
	AllClasses []string `json:"all_classes"`
	Length     int      `json:"length"`

	Task   string `json:"task"`
	Sample string `json:"sample"` // the question's ID
	// Hash is the question's. PromptHash is of the prompt's tokens, their first
	// 32 hexadecimal digits, PromptTokens how many they are.
	Hash         string  `json:"hash"`
	PromptHash   string  `json:"prompt"`
	PromptTokens int     `json:"prompt_tokens"`
	Tokens       []int32 `json:"tokens"` // of the answer
	// Density is the share of cached tokens that attention read in all that
	// the setting ran: the sparse end of the prompt and the answer.
	Density float64 `json:"density"`
	// Seconds took the index, which budgets that are answered together share and
	// the first of them counts, the prompt's end and the answer. Answers decode
	// together, whatever their settings, and each has its share of a step's time.
	Seconds     float64 `json:"seconds"`
	DecodeSteps int     `json:"decode_steps"` // forward passes behind the prompt
	Config      string  `json:"config"`       // hash of all settings that it depends on

	// Margins, which other programs may write, is by how much each token's
	// logit led the next best one's.
	Margins []float64 `json:"margins,omitempty"`
}

// predictionLog is the file of one task's predictions under one setting.
type predictionLog struct {
	path   string
	config string
	have   map[string]Prediction // by sample
}

// openLog reads the predictions that an earlier run left. A last line that was
// cut off is removed from the file. A file of another configuration is set
// aside under its hash, from where a run with that configuration takes it back.
func openLog(path, config string, notice func(string)) (*predictionLog, error) {
	l := &predictionLog{path: path, config: config, have: map[string]Prediction{}}
	if err := l.adopt(notice); err != nil {
		return nil, err
	}
	all, whole, err := readLog(path)
	if err != nil {
		return nil, err
	}
	if whole >= 0 {
		notice(fmt.Sprintf("%s: the last line was cut off and is made again", path))
		if err := os.Truncate(path, whole); err != nil {
			return nil, err
		}
	}
	for i, p := range all {
		switch _, twice := l.have[p.Sample]; {
		case p.Config != config:
			return nil, fmt.Errorf("%s:%d: made with configuration %.8s, the lines before it with %.8s; remove the file", path, i+1, p.Config, config)
		case twice:
			return nil, fmt.Errorf("%s:%d: sample %s for the second time: two runs wrote here at once; remove one of the lines", path, i+1, p.Sample)
		}
		l.have[p.Sample] = p
	}
	return l, nil
}

// adopt moves a file of another configuration out of the way and takes back
// one of this configuration.
func (l *predictionLog) adopt(notice func(string)) error {
	all, _, err := readLog(l.path)
	if err != nil {
		return err
	}
	if len(all) > 0 && all[0].Config != l.config {
		aside := aside(l.path, all[0].Config)
		if err := os.Rename(l.path, aside); err != nil {
			return err
		}
		notice(fmt.Sprintf("%s was made with another configuration and is set aside as %s", l.path, filepath.Base(aside)))
		all = nil
	}
	mine := aside(l.path, l.config)
	if _, err := os.Stat(mine); err != nil || len(all) > 0 {
		return nil
	}
	notice(fmt.Sprintf("%s is taken back from %s", l.path, filepath.Base(mine)))
	return os.Rename(mine, l.path)
}

// aside is where a configuration's predictions wait. The name does not end as
// files of predictions do, so that no scorer takes it for a task.
func aside(path, config string) string { return fmt.Sprintf("%s.%.8s", path, config) }

// readLog reads a file of predictions; none is an empty one. If its last line
// was cut off, whole is the length of what is before it, else -1. A damaged
// line elsewhere is an error.
func readLog(path string) (all []Prediction, whole int64, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, -1, nil
	} else if err != nil {
		return nil, -1, err
	}
	for at, n := 0, 1; at < len(raw); n++ {
		end := bytes.IndexByte(raw[at:], '\n')
		if end < 0 {
			return all, int64(at), nil
		}
		var p Prediction
		if err := json.Unmarshal(raw[at:at+end], &p); err != nil {
			return nil, -1, fmt.Errorf("%s:%d: damaged line: %w", path, n, err)
		}
		all = append(all, p)
		at += end + 1
	}
	return all, -1, nil
}

// answered is the question's prediction, if the file has it. A question or
// reference answers other than those that were predicted for are an error.
func (l *predictionLog) answered(q *Question) (Prediction, bool, error) {
	p, ok := l.have[q.ID]
	if !ok {
		return p, false, nil
	}
	if p.Hash != q.Hash || !slices.Equal(p.Answers, q.Answers) || !slices.Equal(p.AllClasses, q.AllClasses) {
		return p, false, fmt.Errorf("%s: sample %s differs from the data's (its text, answers or classes were changed); remove the line, or give another folder for predictions", l.path, q.ID)
	}
	return p, true, nil
}

// append adds a prediction and returns when it is on the disk.
func (l *predictionLog) append(p Prediction) (err error) {
	p.Config = l.config
	line, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	_, statErr := os.Stat(l.path)
	fresh := errors.Is(statErr, fs.ErrNotExist)
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	if fresh {
		if err := atomicfile.SyncDir(filepath.Dir(l.path)); err != nil {
			return err
		}
	}
	l.have[p.Sample] = p
	return nil
}
