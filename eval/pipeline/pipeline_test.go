package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// killed is what a simulated kill panics with.
type killed struct{}

// world is a run's folder and a chain of stages: make writes a, count writes
// b/0..2 one at a time (and can go on), sum reads both.
type world struct {
	t       *testing.T
	dir     string
	text    string
	version int
	ran     []string
	steps   int
	killAt  int // step to die at, -1: never
	events  []Event
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: filepath.Join(t.TempDir(), "run"), text: "hello", killAt: -1}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

// step dies where the test says.
func (w *world) step(string) {
	if w.steps == w.killAt {
		panic(killed{})
	}
	w.steps++
}

func (w *world) write(name, text string) error {
	w.step(name)
	// Not atomic on purpose: half of it may be all that is there.
	if err := os.WriteFile(w.path(name), []byte(text[:len(text)/2]), 0o644); err != nil {
		return err
	}
	w.step(name)
	return os.WriteFile(w.path(name), []byte(text), 0o644)
}

func (w *world) stages() []Stage {
	return []Stage{
		{Name: "make", Config: w.text, Outputs: []string{"a"}, Run: func(context.Context) error {
			w.ran = append(w.ran, "make")
			return w.write("a", w.text)
		}},
		{Name: "count", Version: w.version, Inputs: func() ([]string, error) { return []string{"a"}, nil }, Outputs: []string{"b"}, Work: []string{"count.log"}, Run: func(context.Context) error {
			w.ran = append(w.ran, "count")
			if err := os.MkdirAll(w.path("b"), 0o755); err != nil {
				return err
			}
			log, err := os.ReadFile(w.path("count.log"))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for i := strings.Count(string(log), "\n"); i < 3; i++ {
				if err := w.write(fmt.Sprintf("b/%d", i), w.text+fmt.Sprint(i)); err != nil {
					return err
				}
				w.step("log")
				log = append(log, w.text+"\n"...)
				if err := os.WriteFile(w.path("count.log"), log, 0o644); err != nil {
					return err
				}
			}
			return nil
		}},
		{Name: "sum", Inputs: func() ([]string, error) { return []string{"a", "b"}, nil }, Outputs: []string{"c"}, Run: func(context.Context) error {
			w.ran = append(w.ran, "sum")
			var all string
			for _, name := range []string{"a", "b/0", "b/1", "b/2", "count.log"} {
				raw, err := os.ReadFile(w.path(name))
				if err != nil {
					return err
				}
				all += string(raw) + ";"
			}
			return w.write("c", all)
		}},
	}
}

// run runs the stages and says whether it was killed.
func (w *world) run() (err error, dead bool) {
	w.t.Helper()
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(killed); !ok {
				panic(p)
			}
			dead = true
		}
	}()
	w.ran, w.events, w.steps = nil, nil, 0
	r := runner{dir: w.dir, step: w.step, report: func(e Event) { w.events = append(w.events, e) }}
	return r.run(context.Background(), w.stages()), false
}

// mustRun runs to the end and checks the result and what ran.
func (w *world) mustRun(ran string) {
	w.t.Helper()
	w.killAt = -1
	if err, _ := w.run(); err != nil {
		w.t.Fatal(err)
	}
	w.checkResult()
	if got := strings.Join(w.ran, " "); got != ran {
		w.t.Errorf("ran %q, want %q", got, ran)
	}
}

func (w *world) checkResult() {
	w.t.Helper()
	x := w.text
	want := x + ";" + x + "0;" + x + "1;" + x + "2;" + strings.Repeat(x+"\n", 3) + ";"
	if got, err := os.ReadFile(w.path("c")); err != nil || string(got) != want {
		w.t.Fatalf("result %q, %v; want %q", got, err, want)
	}
}

func TestSkipsWhatIsFinished(t *testing.T) {
	w := newWorld(t)
	w.mustRun("make count sum")
	w.mustRun("")
	for _, e := range w.events {
		if e.Kind != Skipped {
			t.Errorf("%s: event %v, want skipped", e.Stage, e.Kind)
		}
	}
}

func TestRerunsWhatChanged(t *testing.T) {
	w := newWorld(t)
	w.mustRun("make count sum")
	w.text = "other"
	w.mustRun("make count sum")
	w.version++
	w.mustRun("count") // sum's inputs came out the same
	if err := os.Remove(w.path("b/1")); err != nil {
		t.Fatal(err)
	}
	w.mustRun("count")
	time.Sleep(10 * time.Millisecond) // so that the time of change differs
	if err := os.WriteFile(w.path("c"), []byte("forged"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.mustRun("sum")
	if err := os.Chtimes(w.path("a"), time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.mustRun("") // touched, not changed
	if err := os.WriteFile(w.path("stages/make.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.mustRun("make")
}

// TestKillAnywhere kills a run at every step, and the next at every step, and
// sees the third end with the right result.
func TestKillAnywhere(t *testing.T) {
	w := newWorld(t)
	w.mustRun("make count sum")
	total := w.steps
	if total < 20 {
		t.Fatalf("only %d steps", total)
	}
	for first := range total {
		for _, second := range []int{-1, first / 2} {
			w := newWorld(t)
			w.killAt = first
			if _, dead := w.run(); !dead {
				t.Fatalf("not killed at %d", first)
			}
			if w.killAt = second; second >= 0 {
				_, _ = w.run() // it may be killed again
			}
			w.killAt = -1
			if err, _ := w.run(); err != nil {
				t.Fatalf("after kills at %d and %d: %v", first, second, err)
			}
			w.checkResult()
		}
	}
}

// TestKillThenChange changes the experiment after a kill: nothing of the old
// one may be left in the result.
func TestKillThenChange(t *testing.T) {
	for at := range 25 {
		w := newWorld(t)
		w.killAt = at
		_, _ = w.run() // killed
		w.text = "changed"
		w.killAt = -1
		if err, _ := w.run(); err != nil {
			t.Fatalf("after a kill at %d: %v", at, err)
		}
		w.checkResult()
	}
}

func TestResumes(t *testing.T) {
	w := newWorld(t)
	w.mustRun("make count sum")
	w = newWorld(t)
	fail := errors.New("disk full")
	stages := w.stages()
	stages[1].Run = func(context.Context) error { return fail }
	r := runner{dir: w.dir, step: func(string) {}}
	if err := r.run(context.Background(), stages); !errors.Is(err, fail) || !strings.HasPrefix(err.Error(), "stage count: ") {
		t.Fatalf("error %v", err)
	}
	w.mustRun("count sum")
	if w.events[1].Kind != Resumed {
		t.Errorf("event %+v, want resumed", w.events[1])
	}
}

func TestRefuses(t *testing.T) {
	nothing := func(context.Context) error { return nil }
	for want, s := range map[string]Stage{
		"output ../x is not within":   {Name: "s", Outputs: []string{"../x"}, Run: nothing},
		"output . is not within":      {Name: "s", Outputs: []string{"."}, Run: nothing},
		"it left no output x":         {Name: "s", Outputs: []string{"x"}, Run: nothing},
		"input missing: ":             {Name: "s", Inputs: func() ([]string, error) { return []string{"missing"}, nil }, Run: nothing},
		"stage s: what to read first": {Name: "s", Inputs: func() ([]string, error) { return nil, errors.New("what to read first") }, Run: nothing},
	} {
		if err := Run(context.Background(), t.TempDir(), []Stage{s}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	stages := w.stages()
	run := stages[0].Run
	stages[0].Run = func(c context.Context) error { cancel(); return run(c) }
	if err := Run(ctx, w.dir, stages, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	w.mustRun("count sum")
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	inside, leave := make(chan bool), make(chan bool)
	slow := Stage{Name: "slow", Outputs: []string{"x"}, Run: func(context.Context) error {
		close(inside)
		<-leave
		return os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o644)
	}}
	done := make(chan error)
	go func() { done <- Run(context.Background(), dir, []Stage{slow}, nil) }()
	<-inside
	waited := false
	other := make(chan error)
	go func() {
		other <- Run(context.Background(), dir, []Stage{slow}, func(e Event) {
			if e.Kind == Waiting {
				waited = true
				close(leave)
			}
		})
	}()
	if err := errors.Join(<-done, <-other); err != nil || !waited {
		t.Errorf("waited %v, %v", waited, err)
	}
}
