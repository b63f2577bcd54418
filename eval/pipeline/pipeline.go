// Package pipeline runs the stages of an experiment, which meet only through
// files in the folder of a run.
//
// A stage is finished when its manifest, DIR/stages/NAME.json, holds the hash
// of what the stage depends on (its configuration, its version, the content of
// its input files) and its outputs are there as the manifest lists them; it is
// then skipped. A stage that was started with the same hash goes on where it
// broke off; one whose hash has changed starts afresh. Every step is safe
// against a kill: what is not yet finished is found so by the next run.
package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model/atomicfile"
	"github.com/hashattn/hashattn/model/filelock"
)

// Stage is one step of an experiment.
type Stage struct {
	Name string // names files: lower case, digits and '-'
	// Version is raised when the program would make other outputs from the
	// same inputs.
	Version int
	// Config is what the outputs depend on beside Inputs, hashed as JSON.
	Config any
	// Inputs gives the files and folders that the stage reads, when its turn
	// has come: within the run's folder, or absolute. Nil: none.
	Inputs func() ([]string, error)
	// Outputs are the files and folders, within the run's folder, that the
	// stage makes; Work those that it keeps beside them to resume from. Both
	// are removed before it starts afresh.
	Outputs, Work []string
	// Run does the stage. It resumes from what lies there.
	Run func(ctx context.Context) error
}

// Event tells how a run goes on.
type Event struct {
	Stage         string
	Index, Stages int // of the stage, from 0
	Kind          Kind
	Elapsed       time.Duration // of a finished stage, over all its starts
	PID           int           // of the process that is waited for
}

// Kind is what happened.
type Kind int

// The kinds of events.
const (
	Waiting  Kind = iota // another process works in the folder
	Skipped              // the stage was finished before
	Started              // afresh
	Resumed              // from where it broke off
	Finished             // now
)

// manifest is the record of a finished stage.
type manifest struct {
	Stage    string    `json:"stage"`
	Hash     string    `json:"hash"`
	Finished time.Time `json:"finished"`
	Seconds  float64   `json:"seconds"`
	Outputs  []entry   `json:"outputs"`
}

// started is the record of a stage under way.
type started struct {
	Hash    string  `json:"hash"`
	Seconds float64 `json:"seconds"` // of earlier starts
}

// Run runs the stages in order in the folder dir, which it makes. report (may
// be nil) hears of each stage. The error of a stage names it.
func Run(ctx context.Context, dir string, stages []Stage, report func(Event)) error {
	r := runner{dir: dir, report: report, step: func(string) {}}
	return r.run(ctx, stages)
}

type runner struct {
	dir    string
	report func(Event)
	// step is called before every change that a kill could come between.
	step func(what string)
	sums sums
}

func (r *runner) run(ctx context.Context, stages []Stage) error {
	if err := os.MkdirAll(filepath.Join(r.dir, "stages"), 0o755); err != nil {
		return err
	}
	lock, err := r.lock(ctx, len(stages))
	if err != nil {
		return err
	}
	defer lock.Release()
	r.sums.load(filepath.Join(r.dir, "stages", "sums.json"))
	for i, s := range stages {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.stage(ctx, s, Event{Stage: s.Name, Index: i, Stages: len(stages)}); err != nil {
			return fmt.Errorf("stage %s: %w", s.Name, err)
		}
	}
	return nil
}

// lock keeps other processes out of the folder.
func (r *runner) lock(ctx context.Context, stages int) (*filelock.Lock, error) {
	told := 0
	return filelock.Wait(ctx, filepath.Join(r.dir, "stages", "lock"), func(held *filelock.HeldError) {
		if told != held.PID { // once for each that comes first
			told = held.PID
			r.tell(Event{Kind: Waiting, Stages: stages, PID: held.PID})
		}
	})
}

func (r *runner) tell(e Event) {
	if r.report != nil {
		r.report(e)
	}
}

// stage brings one stage to its end.
func (r *runner) stage(ctx context.Context, s Stage, e Event) error {
	for _, p := range append(append([]string{}, s.Outputs...), s.Work...) {
		if !filepath.IsLocal(p) || filepath.Clean(p) == "." {
			return fmt.Errorf("output %s is not within the run's folder", p)
		}
	}
	hash, err := r.hash(s)
	if err != nil {
		return err
	}
	donePath, startPath := filepath.Join(r.dir, "stages", s.Name+".json"), filepath.Join(r.dir, "stages", s.Name+".started.json")
	var done manifest
	if readJSON(donePath, &done) && done.Hash == hash && r.intact(done.Outputs) {
		r.step("forget start of finished stage")
		if err := remove(startPath); err != nil {
			return err
		}
		e.Kind, e.Elapsed = Skipped, seconds(done.Seconds)
		r.tell(e)
		return nil
	}
	var begun started
	e.Kind = Resumed
	if !readJSON(startPath, &begun) || begun.Hash != hash {
		e.Kind = Started
		begun = started{Hash: hash}
		// The manifest goes first: what follows is no longer what it lists.
		r.step("remove manifest")
		if err := remove(donePath); err != nil {
			return err
		}
		r.step("remove start")
		if err := remove(startPath); err != nil {
			return err
		}
		for _, p := range append(append([]string{}, s.Outputs...), s.Work...) {
			r.step("remove " + p)
			if err := os.RemoveAll(filepath.Join(r.dir, p)); err != nil {
				return err
			}
		}
		r.step("record start")
		if err := writeJSON(startPath, begun); err != nil {
			return err
		}
	}
	r.tell(e)
	begin := time.Now()
	r.step("run")
	if err := s.Run(ctx); err != nil {
		begun.Seconds += time.Since(begin).Seconds()
		// The time is for the report only; the stage's own error matters.
		return errors.Join(err, writeJSON(startPath, begun))
	}
	e.Kind, e.Elapsed = Finished, time.Since(begin)+seconds(begun.Seconds)
	done = manifest{Stage: s.Name, Hash: hash, Finished: time.Now().UTC().Truncate(time.Second), Seconds: e.Elapsed.Seconds()}
	r.step("list outputs")
	for _, p := range s.Outputs {
		entries, err := r.list(p)
		if err != nil {
			return fmt.Errorf("it left no output %s: %w", p, err)
		}
		done.Outputs = append(done.Outputs, entries...)
	}
	r.step("write manifest")
	if err := writeJSON(donePath, done); err != nil {
		return err
	}
	r.step("forget start")
	if err := remove(startPath); err != nil {
		return err
	}
	r.tell(e)
	return nil
}

// hash is the hash of all that a stage depends on.
func (r *runner) hash(s Stage) (string, error) {
	var inputs []string
	if s.Inputs != nil {
		var err error
		if inputs, err = s.Inputs(); err != nil {
			return "", err
		}
	}
	type input struct {
		Path, Hash string
	}
	depends := struct {
		Stage   string
		Version int
		Config  any
		Inputs  []input
	}{s.Name, s.Version, s.Config, nil}
	for _, p := range inputs {
		entries, err := r.list(p)
		if err != nil {
			return "", fmt.Errorf("input %s: %w", p, err)
		}
		for _, e := range entries {
			name := e.Path
			if filepath.IsAbs(p) { // where a file lies does not matter
				name = strings.TrimPrefix(e.Path, filepath.ToSlash(filepath.Dir(p)))
			}
			depends.Inputs = append(depends.Inputs, input{name, e.SHA256})
		}
	}
	raw, err := json.Marshal(depends)
	if err != nil {
		return "", fmt.Errorf("config: %w", err)
	}
	return result.Hash(raw), nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// readJSON reads a record; one that is missing or damaged does not count.
func readJSON(path string, v any) bool {
	raw, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(raw, v) == nil
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Replace(path, append(raw, '\n'))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
